"""The second oracle: the contract functions in PyTorch float64, gradients by its autograd.

Same calls and results as in `oracle`; written for NCHW, so everything is transposed on the way in
and out. Uneven padding is done beforehand with `pad`, which is exact; where the padded image
admits more windows than the contract's (ceil_mode), the rest is cut off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

torch.set_num_threads(1)  # the cases are small; threads would wait for each other


def _nchw(array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def _nhwc(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def _vector(array):
    return None if array is None else torch.from_numpy(np.array(array))


def _backward(output, gradient, *leaves):
    return torch.autograd.grad(output, leaves, gradient, materialize_grads=True)


def _pad(x, op, value=0.0):
    top, bottom, left, right = op.padding
    if getattr(op, "padding_mode", "zeros") == "edge":
        return F.pad(x, (left, right, top, bottom), mode="replicate")
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(x, w, b, op):
    return F.conv2d(_pad(x, op), w, b, op.stride, 0, op.dilation, op.groups)


def conv2d(x, w, b, op, relu=False, residual=None):
    y = _conv(_nchw(x), _nchw(w), _vector(b), op)
    if residual is not None:
        y = y + _nchw(residual)
    return {"out": _nhwc(F.relu(y) if relu else y)}


def conv2d_dgrad(dy, w, op, out_shape, mask=None):
    x = _nchw(np.zeros(out_shape)).requires_grad_()
    (dx,) = _backward(_conv(x, _nchw(w), None, op), _nchw(dy), x)
    if mask is not None:
        dx = torch.where(_nchw(mask) <= 0, 0.0, dx)
    return {"out": _nhwc(dx), "db": dx.sum((0, 2, 3)).numpy()}


def conv2d_wgrad(x, dy, op, out_shape):
    w = _nchw(np.zeros(out_shape)).requires_grad_()
    (dw,) = _backward(_conv(_nchw(x), w, None, op), _nchw(dy), w)
    return {"out": _nhwc(dw)}


def conv2d_relu_pool(x, w, b, op, pool):
    before = _conv(_nchw(x), _nchw(w), _vector(b), op)
    out = F.max_pool2d(F.relu(before), 2)
    peak, index = F.max_pool2d(before, 2, return_indices=True)
    row, column = index // before.shape[3] % 2, index % before.shape[3] % 2
    return {"out": _nhwc(out), "code": _nhwc(torch.where(peak <= 0, 4, 2 * row + column))}


def conv2d_relu_pool_backward(dy, code, pool, out_shape):
    p, q = dy.shape[1:3]
    quarters = F.one_hot(torch.from_numpy(code.astype(np.int64)), 5)[..., :4]  # [N, P/2, Q/2, K, 4]
    spread = quarters * torch.from_numpy(dy)[..., None]
    grid = spread.unflatten(-1, (2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(1, 2).flatten(2, 3)
    out = torch.zeros(out_shape, dtype=torch.float64)
    out[:, : 2 * p, : 2 * q] = grid
    return {"out": out.numpy(), "db": out.sum((0, 1, 2)).numpy()}


def _max_pool(x, op, shape):
    """Maxima and their places; PyTorch gives the last NaN's place, so the first one's is added."""

    def pooled(values):
        settings = {"dilation": op.dilation, "ceil_mode": True, "return_indices": True}
        both = F.max_pool2d(values, op.kernel, op.stride, **settings)
        return [part[:, :, : shape[1], : shape[2]] for part in both]

    out, index = pooled(_pad(x, op, -torch.inf))
    _, first_nan = pooled(_pad(x.isnan().double(), op, -torch.inf))
    return out, torch.where(out.isnan(), first_nan, index)


def max_pool2d(x, op):
    shape = op.output_shape(x.shape)
    out, index = _max_pool(_nchw(x), op, shape)
    width = x.shape[2] + op.padding[2] + op.padding[3]
    row = index // width - torch.arange(shape[1])[:, None] * op.stride[0]
    column = index % width - torch.arange(shape[2]) * op.stride[1]
    code = row // op.dilation[0] * op.kernel[1] + column // op.dilation[1]
    return {"out": _nhwc(out), "code": _nhwc(code)}


def max_pool2d_backward(dy, code, op, out_shape):
    _, p, q, _ = dy.shape
    top, bottom, left, right = op.padding
    height = out_shape[1] + top + bottom + op.reach[0] + op.stride[0]
    width = out_shape[2] + left + right + op.reach[1] + op.stride[1]
    r, s = np.divmod(code.astype(np.int64), op.kernel[1])
    row = np.arange(p)[:, None, None] * op.stride[0] + r * op.dilation[0]
    column = np.arange(q)[:, None] * op.stride[1] + s * op.dilation[1]
    index = torch.from_numpy(np.moveaxis(row * width + column, -1, 1)).flatten(2)
    dx = torch.zeros(out_shape[0], out_shape[3], height * width, dtype=torch.float64)
    dx = dx.scatter_add(2, index, _nchw(dy).flatten(2)).unflatten(2, (height, width))
    return {"out": _nhwc(dx[:, :, top : top + out_shape[1], left : left + out_shape[2]])}


def _avg_pool(x, op, shape):
    def mean(values):
        pooled = F.avg_pool2d(values, op.kernel, op.stride, ceil_mode=True)
        return pooled[:, :, : shape[1], : shape[2]]

    if op.count_include_pad:
        return mean(_pad(x, op))
    return mean(_pad(x, op)) / mean(_pad(torch.ones_like(x), op))


def avg_pool2d(x, op):
    return {"out": _nhwc(_avg_pool(_nchw(x), op, op.output_shape(x.shape)))}


def avg_pool2d_backward(dy, op, out_shape):
    x = _nchw(np.zeros(out_shape)).requires_grad_()
    (dx,) = _backward(_avg_pool(x, op, dy.shape), _nchw(dy), x)
    return {"out": _nhwc(dx)}


def global_avg_pool2d(x):
    return {"out": _nchw(x).mean((2, 3)).numpy()}


def global_avg_pool2d_backward(dy, out_shape):
    x = _nchw(np.zeros(out_shape)).requires_grad_()
    (dx,) = _backward(x.mean((2, 3)), torch.from_numpy(dy), x)
    return {"out": _nhwc(dx)}


def dense(x, w, b, relu=False):
    out = F.linear(_vector(x), _vector(w), _vector(b))
    return {"out": (F.relu(out) if relu else out).numpy()}


def dense_dgrad(dy, w, mask=None):
    x = torch.zeros(dy.shape[0], w.shape[1], dtype=torch.float64, requires_grad=True)
    (dx,) = _backward(F.linear(x, _vector(w)), _vector(dy), x)
    if mask is not None:
        dx = torch.where(_vector(mask) <= 0, 0.0, dx)
    return {"out": dx.numpy(), "db": dx.sum(0).numpy()}


def dense_wgrad(x, dy):
    w = torch.zeros(dy.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    (dw,) = _backward(F.linear(_vector(x), w), _vector(dy), w)
    return {"out": dw.numpy()}


def bias_grad(dy):
    return {"out": _vector(dy).flatten(0, -2).sum(0).numpy()}


def batch_norm_training(x, gamma, beta, running_mean, running_var, op, relu=False):
    running = _vector(running_mean), _vector(running_var)
    if not len(x):  # PyTorch has no batch norm of nothing
        empty = np.zeros(x.shape[3])
        return {"out": x, "mean": empty, "invstd": empty} | _running(*running)
    out = F.batch_norm(_nchw(x), *running, *map(_vector, (gamma, beta)), True, op.momentum, op.eps)
    variance, mean = torch.var_mean(_nchw(x), (0, 2, 3), correction=0)
    return {
        "out": _nhwc(F.relu(out) if relu else out),
        "mean": mean.numpy(),
        "invstd": torch.rsqrt(variance + op.eps).numpy(),
    } | _running(*running)


def _running(mean, variance):
    return {"running_mean": mean.numpy(), "running_var": variance.numpy()}


def batch_norm_inference(x, gamma, beta, running_mean, running_var, op, relu=False):
    vectors = (_vector(v) for v in (running_mean, running_var, gamma, beta))
    out = F.batch_norm(_nchw(x), *vectors, eps=op.eps)
    return {"out": _nhwc(F.relu(out) if relu else out)}


def batch_norm_backward(x, dy, gamma, mean, invstd, op, mask=None):
    upstream = _nchw(dy)
    if mask is not None:
        upstream = torch.where(_nchw(mask) <= 0, 0.0, upstream)
    leaf = _nchw(x).requires_grad_()
    weight = _vector(gamma).requires_grad_()
    bias = torch.zeros(x.shape[3], dtype=torch.float64, requires_grad=True)
    xhat = leaf if not len(x) else F.batch_norm(leaf, None, None, training=True, eps=op.eps)
    out = xhat * weight[:, None, None] + bias[:, None, None]
    dx, dgamma, dbeta = _backward(out, upstream, leaf, weight, bias)
    return {"out": _nhwc(dx), "dgamma": dgamma.numpy(), "dbeta": dbeta.numpy()}


def lrn(x, op):
    return {"out": _nhwc(F.local_response_norm(_nchw(x), op.size, op.alpha, op.beta, op.k))}


def lrn_backward(x, dy, op):
    leaf = _nchw(x).requires_grad_()
    out = F.local_response_norm(leaf, op.size, op.alpha, op.beta, op.k)
    (dx,) = _backward(out, _nchw(dy), leaf)
    return {"out": _nhwc(dx)}


def relu(x):
    return {"out": F.relu(_vector(x)).numpy()}


def relu_backward(dy, y):
    leaf = _vector(y).requires_grad_()
    (dx,) = _backward(F.relu(leaf), _vector(dy), leaf)
    return {"out": torch.where(leaf.isnan(), _vector(dy), dx).numpy()}


def add(a, b, relu=False):
    out = _vector(a) + _vector(b)
    return {"out": (F.relu(out) if relu else out).numpy()}


def mul(a, b):
    return {"out": (_vector(a) * _vector(b)).numpy()}


def transpose(x, axes):
    return {"out": _vector(x).permute(axes).numpy()}


def pad(x, op):
    counts = [n for pair in zip(op.before, op.after, strict=True) for n in reversed(pair)]
    before = [max(-b, 0) for b in op.before]  # what a crop takes off; PyTorch wants some left
    after = [n - max(-a, 0) for a, n in zip(op.after, x.shape, strict=True)]
    if not all(b < a for b, a in zip(before, after, strict=True)):
        return {"out": np.full(op.output_shape(x.shape), op.value)}
    return {"out": F.pad(_vector(x), counts[::-1], value=op.value).numpy()}


def broadcast(x, out_shape):
    return {"out": _vector(x).expand(out_shape).numpy()}


def reduce_sum(x, out_shape):
    return {"out": _vector(x).sum_to_size(out_shape).numpy()}


def clip(x, op):
    return {"out": _vector(x).clamp(op.low, op.high).numpy()}


def clip_backward(dy, x, op):
    if op.low >= op.high:  # hardtanh refuses that
        return {"out": np.where(np.isnan(x), dy, 0.0)}
    leaf = _vector(x).requires_grad_()
    (dx,) = _backward(F.hardtanh(leaf, op.low, op.high), _vector(dy), leaf)
    return {"out": torch.where(leaf.isnan(), _vector(dy), dx).numpy()}


def leaky_relu(x, op):
    return {"out": F.leaky_relu(_vector(x), op.slope).numpy()}


def leaky_relu_backward(dy, x, op):
    leaf = _vector(x).requires_grad_()
    (dx,) = _backward(F.leaky_relu(leaf, op.slope), _vector(dy), leaf)
    return {"out": torch.where(leaf.isnan(), _vector(dy), dx).numpy()}


def _channels_second(array):
    """[…, C] as [M, C], as PyTorch's prelu finds the channels."""
    return _vector(array).reshape(-1, array.shape[-1])


def prelu(x, slope):
    return {"out": F.prelu(_channels_second(x), _vector(slope)).reshape(x.shape).numpy()}


def prelu_backward(dy, x, slope):
    leaf = _channels_second(x).requires_grad_()
    upstream = _channels_second(dy)
    (dx,) = _backward(F.prelu(leaf, _vector(slope)), upstream, leaf)
    return {"out": torch.where(leaf.isnan(), upstream, dx).reshape(x.shape).numpy()}


def softmax(x, log=False):
    return {"out": (F.log_softmax if log else F.softmax)(_vector(x), -1).numpy()}


def softmax_backward(dy, y, log=False):
    backward = torch._log_softmax_backward_data if log else torch._softmax_backward_data
    return {"out": backward(_vector(dy), _vector(y), -1, torch.float64).numpy()}


def concat(xs):
    return {"out": torch.cat([_vector(x) for x in xs], -1).numpy()}


def channel_slice(x, out_shape, offset):
    return {"out": _vector(x).narrow(-1, offset, out_shape[-1]).numpy()}


def cast(x, out_dtype):
    return {"out": _vector(x).to(getattr(torch, out_dtype)).double().numpy()}


def softmax_cross_entropy(logits, labels, op, grad_scale=None):
    leaf, target = _vector(logits).requires_grad_(), torch.from_numpy(labels.astype(np.int64))
    smoothing = op.label_smoothing
    loss = F.cross_entropy(leaf, target, reduction="none", label_smoothing=smoothing)
    scale = op.weight * (1.0 if grad_scale is None else float(grad_scale[0]))
    (dlogits,) = _backward(
        loss.sum() / max(1, len(logits)), torch.tensor(scale, dtype=torch.float64), leaf
    )
    return {"loss": loss.detach().numpy(), "dlogits": dlogits.numpy()}


def _step(optimizer, state, w, g, decay_until, grad_scale, lr, op, **settings):
    """One step of a PyTorch optimizer on two groups, the first with weight decay."""
    gradient = _vector(g) / (1.0 if grad_scale is None else float(grad_scale[0]))
    cuts = slice(None, decay_until), slice(decay_until, None)
    parts = [torch.nn.Parameter(_vector(w[cut])) for cut in cuts]
    groups = [
        {"params": [parts[0]], "weight_decay": op.weight_decay},
        {"params": [parts[1]], "weight_decay": 0.0},
    ]
    stepper = optimizer(groups, lr=float(lr[0]), **settings)
    for part, cut in zip(parts, cuts, strict=True):
        part.grad = gradient[cut]
        stepper.state[part] = {name: _vector(value)[cut] for name, value in state.items()}
    return stepper, parts


def _joined(tensors):
    return torch.cat(list(tensors)).detach().numpy()


def sgd_update(w, g, v, lr, op, decay_until, grad_scale=None, skip=None):
    if skip is not None and skip[0] != 0:
        return {"w": w, "v": v, "low": w}
    settings = {"momentum": op.momentum, "nesterov": op.nesterov}
    state = {"momentum_buffer": v}
    stepper, parts = _step(
        torch.optim.SGD, state, w, g, decay_until, grad_scale, lr, op, **settings
    )
    stepper.step()
    found = {"w": _joined(parts), "low": _joined(parts)}
    if op.momentum > 0:  # without it PyTorch keeps no velocity
        found["v"] = _joined(stepper.state[part]["momentum_buffer"] for part in parts)
    return found


def adamw_update(w, g, m, v, lr, step, op, decay_until, grad_scale=None, skip=None):
    if skip is not None and skip[0] != 0:
        return {"w": w, "m": m, "v": v, "low": w}
    settings = {"betas": (op.beta1, op.beta2), "eps": op.eps}
    state = {"exp_avg": m, "exp_avg_sq": v}
    stepper, parts = _step(
        torch.optim.AdamW, state, w, g, decay_until, grad_scale, lr, op, **settings
    )
    for part in parts:
        stepper.state[part]["step"] = torch.tensor(float(step[0] - 1), dtype=torch.float64)
    stepper.step()
    moments = {
        name: _joined(stepper.state[part][kept] for part in parts)
        for name, kept in (("m", "exp_avg"), ("v", "exp_avg_sq"))
    }
    return {"w": _joined(parts), "low": _joined(parts)} | moments
