"""The optimizers, one parameter at a time."""

from __future__ import annotations

import math

import numpy as np


def _scaled(g, grad_scale):
    return g / (1.0 if grad_scale is None else grad_scale[0])


def sgd_update(w, g, v, lr, op, decay_until, grad_scale=None, skip=None):
    if skip is not None and skip[0] != 0:
        return {"w": w, "v": v, "low": w}
    w, v, g = w.copy(), v.copy(), _scaled(g, grad_scale)
    for i in range(len(w)):
        gradient = g[i] + (op.weight_decay * w[i] if i < decay_until else 0.0)
        v[i] = op.momentum * v[i] + gradient
        w[i] -= lr[0] * (gradient + op.momentum * v[i] if op.nesterov else v[i])
    return {"w": w, "v": v, "low": w}


def adamw_update(w, g, m, v, lr, step, op, decay_until, grad_scale=None, skip=None):
    if skip is not None and skip[0] != 0:
        return {"w": w, "m": m, "v": v, "low": w}
    w, m, v, g = w.copy(), m.copy(), v.copy(), _scaled(g, grad_scale)
    t = int(step[0])
    for i in range(len(w)):
        if i < decay_until:
            w[i] -= lr[0] * op.weight_decay * w[i]
        m[i] = op.beta1 * m[i] + (1 - op.beta1) * g[i]
        v[i] = op.beta2 * v[i] + (1 - op.beta2) * g[i] ** 2
        mean, square = m[i] / (1 - op.beta1**t), v[i] / (1 - op.beta2**t)
        w[i] -= lr[0] * mean / (math.sqrt(square) + op.eps)
    return {"w": w, "m": m, "v": v, "low": w}


def non_finite(x, out_shape):
    (parts,) = out_shape
    of_part = math.ceil(len(x) / parts)
    out = np.zeros(parts, np.int32)
    for i, value in enumerate(x):
        if math.isinf(value) or math.isnan(value):
            out[i // of_part] = 1
    return {"out": out}


def loss_scale(flags, scale, good, op):
    before, steps = scale[0], int(good[0]) + 1
    overflow = any(flag != 0 for flag in flags)
    after = before / 2 if overflow else 2 * before if steps % op.growth_steps == 0 else before
    return {
        "scale": np.array([after]),
        "good": np.array([0 if overflow else steps], np.int32),
        "out": np.array([before]),
        "skip": np.array([int(overflow)], np.int32),
    }
