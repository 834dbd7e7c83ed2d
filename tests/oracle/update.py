"""The optimizers, one parameter at a time."""

from __future__ import annotations

import math


def _scaled(g, grad_scale):
    return g / (1.0 if grad_scale is None else grad_scale[0])


def sgd_update(w, g, v, lr, op, decay_until, grad_scale=None):
    w, v, g = w.copy(), v.copy(), _scaled(g, grad_scale)
    for i in range(len(w)):
        gradient = g[i] + (op.weight_decay * w[i] if i < decay_until else 0.0)
        v[i] = op.momentum * v[i] + gradient
        w[i] -= lr[0] * (gradient + op.momentum * v[i] if op.nesterov else v[i])
    return {"w": w, "v": v, "low": w}


def adamw_update(w, g, m, v, lr, step, op, decay_until, grad_scale=None):
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
