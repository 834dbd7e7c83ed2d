"""Optimizers on the CPU: one sweep over the arenas in chunks that stay in cache.

The arenas are far larger than any cache, so an update costs its memory traffic if all passes over
a chunk but the first find it in cache: SGD moves 5 numbers a parameter, AdamW 7.
"""

from __future__ import annotations

import math

import numpy as np

from .. import spec
from ..spec import SGD, AdamW
from ..spec.contract import Array, InOut, Out
from .compute import for_chunks, store

CHUNK = 1 << 15  # parameters a chunk: five float32 arrays of it take 640 KiB


@spec.implements(spec.sgd_update)
def sgd_update(
    w: InOut,
    g: Array,
    v: InOut,
    low: Out | None,
    lr: Array,
    *,
    op: SGD,
    decay_until: int,
    grad_scale: Array | None = None,
) -> None:
    """One SGD step with (Nesterov) momentum and weight decay; see `spec.SGD` for the formula."""
    rate = float(lr[0])

    def run(i: int, j: int) -> None:
        wc, gc, vc = w[i:j], g[i:j], v[i:j]
        if grad_scale is not None:
            gc = gc / grad_scale[0]
        if op.weight_decay and i < decay_until:
            decayed = min(j, decay_until) - i
            step = np.multiply(wc[:decayed], op.weight_decay)
            step += gc[:decayed]
            gc = np.concatenate([step, gc[decayed:]]) if decayed < j - i else step
        vc *= op.momentum
        vc += gc
        if op.nesterov:
            step = np.multiply(vc, op.momentum)
            step += gc
            step *= rate
        else:
            step = np.multiply(vc, rate)
        wc -= step
        if low is not None:
            store(wc, low[i:j])

    for_chunks(w.size, CHUNK, run)


@spec.implements(spec.adamw_update)
def adamw_update(
    w: InOut,
    g: Array,
    m: InOut,
    v: InOut,
    low: Out | None,
    lr: Array,
    step: Array,
    *,
    op: AdamW,
    decay_until: int,
    grad_scale: Array | None = None,
) -> None:
    """One AdamW step; see `spec.AdamW` for the formula. Bias corrections are float64 scalars."""
    rate, t = float(lr[0]), int(step[0])
    rate_of_mean = rate / (1.0 - op.beta1**t)
    root_of_correction = math.sqrt(1.0 - op.beta2**t)

    def run(i: int, j: int) -> None:
        wc, gc, mc, vc = w[i:j], g[i:j], m[i:j], v[i:j]
        if grad_scale is not None:
            gc = gc / grad_scale[0]
        if op.weight_decay and i < decay_until:
            wc[: decay_until - i] *= 1.0 - rate * op.weight_decay
        scratch = np.multiply(gc, 1.0 - op.beta1)
        mc *= op.beta1
        mc += scratch
        np.multiply(gc, gc, out=scratch)
        scratch *= 1.0 - op.beta2
        vc *= op.beta2
        vc += scratch
        np.sqrt(vc, out=scratch)
        scratch /= root_of_correction
        scratch += op.eps
        np.divide(mc, scratch, out=scratch)
        scratch *= rate_of_mean
        wc -= scratch
        if low is not None:
            store(wc, low[i:j])

    for_chunks(w.size, CHUNK, run)
