"""Dense layers as one sum for each pair of an output and a feature."""

from __future__ import annotations

import numpy as np

from .elementwise import gate, rectify


def dense(x, w, b, relu=False):
    out = np.zeros((x.shape[0], w.shape[0]))
    for k in range(w.shape[0]):
        for c in range(w.shape[1]):
            out[:, k] += x[:, c] * w[k, c]
    if b is not None:
        out = out + b
    return {"out": rectify(out) if relu else out}


def dense_dgrad(dy, w, mask=None):
    dx = np.zeros((dy.shape[0], w.shape[1]))
    for k in range(w.shape[0]):
        for c in range(w.shape[1]):
            dx[:, c] += dy[:, k] * w[k, c]
    if mask is not None:
        dx = gate(dx, mask)
    return {"out": dx, "db": dx.sum(0)}


def dense_wgrad(x, dy):
    dw = np.zeros((dy.shape[1], x.shape[1]))
    for k in range(dy.shape[1]):
        for c in range(x.shape[1]):
            dw[k, c] = (dy[:, k] * x[:, c]).sum()
    return {"out": dw}


def bias_grad(dy):
    out = np.zeros(dy.shape[-1])
    for pixel in np.ndindex(*dy.shape[1:-1]):
        out += dy[(slice(None), *pixel)].sum(0)
    return {"out": out}
