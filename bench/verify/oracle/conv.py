"""Convolution as the sum over taps that the contract writes down, and its two transposes.

`_products` lists every (output pixel, tap, input pixel) that meet; the forward pass gathers along
the list, the gradients scatter along the same list.
"""

from __future__ import annotations

import numpy as np

from .elementwise import gate, rectify
from .pool import max_pool2d, max_pool2d_backward

DEAD = 4


def _outputs(size, before, after, taps, stride, dilation):
    """How many windows start at 0, stride, 2 stride, … and end inside the padded extent."""
    last_start = size + before + after - (dilation * (taps - 1) + 1)
    return len(range(0, last_start + 1, stride))


def _source(position, size, mode):
    """The row or column that a position reads, or None where it reads zero."""
    if mode == "edge":
        return min(max(position, 0), size - 1)
    return position if 0 <= position < size else None


def _extent(op, height, width, r, s):
    top, bottom, left, right = op.padding
    return (
        _outputs(height, top, bottom, r, op.stride[0], op.dilation[0]),
        _outputs(width, left, right, s, op.stride[1], op.dilation[1]),
    )


def _products(op, height, width, r_count, s_count):
    """Yield (p, q, r, s, h, v) for every product of the convolution of one plane."""
    top, _, left, _ = op.padding
    p_count, q_count = _extent(op, height, width, r_count, s_count)
    for p in range(p_count):
        for r in range(r_count):
            position = p * op.stride[0] + r * op.dilation[0] - top
            h = _source(position, height, op.padding_mode)
            if h is None:
                continue
            for q in range(q_count):
                for s in range(s_count):
                    position = q * op.stride[1] + s * op.dilation[1] - left
                    v = _source(position, width, op.padding_mode)
                    if v is not None:
                        yield p, q, r, s, h, v


def _grouped(array, groups, axis):
    """Split an axis of channels into (groups, channels of a group)."""
    shape = array.shape
    split = (groups, shape[axis] // groups)
    return array.reshape(*shape[:axis], *split, *shape[axis + 1 :])


def conv2d(x, w, b, op, relu=False, residual=None):
    n, height, width, _ = x.shape
    k, r_count, s_count, _ = w.shape
    p_count, q_count = _extent(op, height, width, r_count, s_count)
    xg = _grouped(x, op.groups, 3)  # [N, H, W, G, C/G]
    wg = _grouped(w, op.groups, 0)  # [G, K/G, R, S, C/G]
    y = np.zeros((n, p_count, q_count, op.groups, k // op.groups))
    for p, q, r, s, h, v in _products(op, height, width, r_count, s_count):
        y[:, p, q] += np.einsum("ngc,gkc->ngk", xg[:, h, v], wg[:, :, r, s])
    y = y.reshape(n, p_count, q_count, k)
    if b is not None:
        y = y + b
    if residual is not None:
        y = y + residual
    return {"out": rectify(y) if relu else y}


def conv2d_dgrad(dy, w, op, out_shape, mask=None):
    _, height, width, _ = out_shape
    wg = _grouped(w, op.groups, 0)
    dyg = _grouped(dy, op.groups, 3)  # [N, P, Q, G, K/G]
    dx = _grouped(np.zeros(out_shape), op.groups, 3)
    for p, q, r, s, h, v in _products(op, height, width, w.shape[1], w.shape[2]):
        dx[:, h, v] += np.einsum("ngk,gkc->ngc", dyg[:, p, q], wg[:, :, r, s])
    dx = dx.reshape(out_shape)
    if mask is not None:
        dx = gate(dx, mask)
    return {"out": dx, "db": dx.sum((0, 1, 2))}


def conv2d_wgrad(x, dy, op, out_shape):
    _, height, width, _ = x.shape
    xg, dyg = _grouped(x, op.groups, 3), _grouped(dy, op.groups, 3)
    dw = _grouped(np.zeros(out_shape), op.groups, 0)
    for p, q, r, s, h, v in _products(op, height, width, out_shape[1], out_shape[2]):
        dw[:, :, r, s] += np.einsum("ngk,ngc->gkc", dyg[:, p, q], xg[:, h, v])
    return {"out": dw.reshape(out_shape)}


def conv2d_relu_pool(x, w, b, op, pool):
    y = conv2d(x, w, b, op)["out"]
    pooled = max_pool2d(y, pool)
    return {
        "out": rectify(pooled["out"]),
        "code": np.where(pooled["out"] <= 0, DEAD, pooled["code"]),
    }


def conv2d_relu_pool_backward(dy, code, pool, out_shape):
    alive = code != DEAD
    routed = max_pool2d_backward(
        np.where(alive, dy, 0.0), np.where(alive, code, 0), pool, out_shape
    )
    return {"out": routed["out"], "db": routed["out"].sum((0, 1, 2))}
