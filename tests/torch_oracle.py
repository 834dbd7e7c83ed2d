"""The second oracle: the contract functions in PyTorch float64, gradients by its autograd.

Same calls and results as in `oracle`; written for NCHW, so everything is transposed on the way in
and out. Uneven padding is done beforehand with `pad`, which is exact; where the padded image
admits more windows than the contract's (ceil_mode), the rest is cut off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)


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
