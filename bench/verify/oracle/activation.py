"""Activations and their gradients, element by element or row by row."""

from __future__ import annotations

import numpy as np


def clip(x, op):
    out = np.full(x.shape, np.nan)
    for place, value in np.ndenumerate(x):
        if not np.isnan(value):
            raised = op.low if value < op.low else value
            out[place] = op.high if raised > op.high else raised
    return {"out": out}


def clip_backward(dy, x, op):
    out = dy.copy()
    for place, value in np.ndenumerate(x):
        if value <= op.low or value >= op.high:
            out[place] = 0.0
    return {"out": out}


def leak(values, x, slope):
    """slope * values where x <= 0, else values; slope: one number or one a channel."""
    out = values.copy()
    for place, value in np.ndenumerate(x):
        if value <= 0:
            out[place] = slope[place[-1] if len(slope) > 1 else 0] * values[place]
    return {"out": out}


def leaky_relu(x, op):
    return leak(x, x, [op.slope])


def leaky_relu_backward(dy, x, op):
    return leak(dy, x, [op.slope])


def prelu(x, slope):
    return leak(x, x, slope)


def prelu_backward(dy, x, slope):
    return leak(dy, x, slope)


def softmax(x, log=False):
    out = np.full(x.shape, np.nan)
    for place in np.ndindex(*x.shape[:-1]):
        shifted = x[place] - x[place].max()
        logarithms = shifted - np.log(np.exp(shifted).sum())
        out[place] = logarithms if log else np.exp(logarithms)
    return {"out": out}


def softmax_backward(dy, y, log=False):
    """dx[j] = sum over k of dy[k] * dy_k/dx_j, from the Jacobian of one row."""
    out = np.full(dy.shape, np.nan)
    classes = np.eye(dy.shape[-1])
    for place in np.ndindex(*dy.shape[:-1]):
        share = np.exp(y[place]) if log else y[place]
        jacobian = classes - share if log else share[:, None] * (classes - share)  # [k, j]
        out[place] = dy[place] @ jacobian
    return {"out": out}
