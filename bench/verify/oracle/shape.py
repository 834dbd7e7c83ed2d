"""Transpose, pad, broadcast and sums, element by element."""

from __future__ import annotations

import numpy as np


def transpose(x, axes):
    out = np.full([x.shape[axis] for axis in axes], np.nan)
    for place, value in np.ndenumerate(x):
        out[tuple(place[axis] for axis in axes)] = value
    return {"out": out}


def pad(x, op):
    counts = zip(op.before, x.shape, op.after, strict=True)
    out = np.full([before + n + after for before, n, after in counts], float(op.value))
    for place, value in np.ndenumerate(x):
        moved = [i + before for i, before in zip(place, op.before, strict=True)]
        if all(0 <= i < n for i, n in zip(moved, out.shape, strict=True)):
            out[tuple(moved)] = value
    return {"out": out}


def broadcast(x, out_shape):
    out = np.full(out_shape, np.nan)
    for place in np.ndindex(*out_shape):
        out[place] = x[tuple(0 if n == 1 else i for i, n in zip(place, x.shape, strict=True))]
    return {"out": out}


def reduce_sum(x, out_shape):
    out = np.zeros(out_shape)
    for place, value in np.ndenumerate(x):
        out[tuple(0 if n == 1 else i for i, n in zip(place, out_shape, strict=True))] += value
    return {"out": out}
