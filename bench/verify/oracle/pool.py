"""Pooling, window by window; the gradients scatter each window's share to its pixels."""

from __future__ import annotations

import numpy as np


def _starts(size, before, after, taps, stride, dilation, ceil_mode):
    """First rows (or columns) of the windows: all that fit, or with ceil_mode one that overhangs.

    An overhanging window must start inside the image or the padding before it.
    """
    reach = dilation * (taps - 1) + 1
    starts = []
    start = -before
    while start + reach <= size + after:
        starts.append(start)
        start += stride
    overhangs = starts and starts[-1] + reach < size + after
    if ceil_mode and overhangs and start < size:
        starts.append(start)
    return starts


def _windows(op, height, width, dilation=(1, 1)):
    """Yield (p, q, first row, first column) of every window."""
    top, bottom, left, right = op.padding
    rows = _starts(height, top, bottom, op.kernel[0], op.stride[0], dilation[0], op.ceil_mode)
    columns = _starts(width, left, right, op.kernel[1], op.stride[1], dilation[1], op.ceil_mode)
    for p, row in enumerate(rows):
        for q, column in enumerate(columns):
            yield p, q, row, column


def _output(op, x_shape, dilation=(1, 1)):
    n, height, width, c = x_shape
    windows = list(_windows(op, height, width, dilation))
    return n, 1 + max(w[0] for w in windows), 1 + max(w[1] for w in windows), c


def max_pool2d(x, op):
    _, height, width, _ = x.shape
    out = np.full(_output(op, x.shape, op.dilation), -np.inf)
    code = np.full(out.shape, -1)
    for p, q, row, column in _windows(op, height, width, op.dilation):
        for r in range(op.kernel[0]):
            for s in range(op.kernel[1]):
                h, v = row + r * op.dilation[0], column + s * op.dilation[1]
                if not (0 <= h < height and 0 <= v < width):
                    continue
                best, value = out[:, p, q], x[:, h, v]
                first = code[:, p, q] == -1
                wins = first | (value > best) | (np.isnan(value) & ~np.isnan(best))
                out[:, p, q] = np.where(wins, value, best)
                code[:, p, q] = np.where(wins, r * op.kernel[1] + s, code[:, p, q])
    return {"out": out, "code": code}


def max_pool2d_backward(dy, code, op, out_shape):
    n, height, width, channels = out_shape
    dx = np.zeros(out_shape)
    for p, q, row, column in _windows(op, height, width, op.dilation):
        for i in range(n):
            for c in range(channels):
                r, s = divmod(int(code[i, p, q, c]), op.kernel[1])
                h, v = row + r * op.dilation[0], column + s * op.dilation[1]
                dx[i, h, v, c] += dy[i, p, q, c]
    return {"out": dx}


def _shares(op, height, width):
    """Yield (p, q, pixels of the window inside the image, divisor)."""
    _, bottom, _, right = op.padding
    for p, q, row, column in _windows(op, height, width):
        rows = [h for h in range(row, row + op.kernel[0]) if h < height + bottom]
        columns = [v for v in range(column, column + op.kernel[1]) if v < width + right]
        inside = [(h, v) for h in rows for v in columns if 0 <= h < height and 0 <= v < width]
        divisor = len(rows) * len(columns) if op.count_include_pad else len(inside)
        yield p, q, inside, divisor


def avg_pool2d(x, op):
    out = np.zeros(_output(op, x.shape))
    for p, q, inside, divisor in _shares(op, x.shape[1], x.shape[2]):
        for h, v in inside:
            out[:, p, q] += x[:, h, v]
        out[:, p, q] /= divisor
    return {"out": out}


def avg_pool2d_backward(dy, op, out_shape):
    dx = np.zeros(out_shape)
    for p, q, inside, divisor in _shares(op, out_shape[1], out_shape[2]):
        for h, v in inside:
            dx[:, h, v] += dy[:, p, q] / divisor
    return {"out": dx}


def global_avg_pool2d(x):
    n, height, width, c = x.shape
    out = np.zeros((n, c))
    for h in range(height):
        for v in range(width):
            out += x[:, h, v]
    return {"out": out / (height * width)}


def global_avg_pool2d_backward(dy, out_shape):
    _, height, width, _ = out_shape
    dx = np.zeros(out_shape)
    for h in range(height):
        for v in range(width):
            dx[:, h, v] = dy / (height * width)
    return {"out": dx}
