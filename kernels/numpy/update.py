"""Optimizers on the CPU: one sweep over the arenas in chunks that stay in cache.

The arenas are far larger than any cache, so an update costs its memory traffic if all passes over
a chunk but the first find it in cache: SGD moves 5 numbers a parameter, AdamW 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import spec
from ..spec import SGD, AdamW, LossScale
from ..spec.contract import Array, InOut, Out
from .compute import for_chunks, scratch, store

CHUNK = 1 << 16  # parameters a chunk: five float32 arrays of it take 1.25 MiB


def _for_chunks(m: int, decay_until: int, decay: float, step: Callable[..., None]) -> None:
    """Run `step(i, j, weight decay)` over chunks [i, j) that lie on one side of `decay_until`."""
    for_chunks(decay_until, CHUNK, lambda i, j: step(i, j, decay))
    for_chunks(m - decay_until, CHUNK, lambda i, j: step(decay_until + i, decay_until + j, 0.0))


def _skipped(w: np.ndarray, low: np.ndarray | None, skip: np.ndarray | None) -> bool:
    """Whether the step is left out; `low` then receives w as it is."""
    if skip is None or not skip[0]:
        return False
    if low is not None:
        for_chunks(w.size, CHUNK, lambda i, j: store(w[i:j], low[i:j]))
    return True


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
    skip: Array | None = None,
) -> None:
    """One SGD step with (Nesterov) momentum and weight decay; see `spec.SGD` for the formula."""
    if _skipped(w, low, skip):
        return
    rate = float(lr[0])

    def step(i: int, j: int, decay: float) -> None:
        wc, gc, vc = w[i:j], g[i:j], v[i:j]
        change = scratch("change", wc.shape, w.dtype)
        if grad_scale is not None:
            gc = np.divide(gc, grad_scale[0], out=scratch("gradient", wc.shape, w.dtype))
        if decay:
            np.multiply(wc, decay, out=change)
            gc = np.add(gc, change, out=scratch("gradient", wc.shape, w.dtype))
        vc *= op.momentum
        vc += gc
        if op.nesterov:
            np.multiply(vc, op.momentum, out=change)
            change += gc
            change *= rate
        else:
            np.multiply(vc, rate, out=change)
        wc -= change
        if low is not None:
            store(wc, low[i:j])

    _for_chunks(w.size, decay_until, op.weight_decay, step)


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
    skip: Array | None = None,
) -> None:
    """One AdamW step; see `spec.AdamW` for the formula. Bias corrections are float64 scalars."""
    if _skipped(w, low, skip):
        return
    rate, t = float(lr[0]), int(step[0])
    rate_of_mean = rate / (1.0 - op.beta1**t)
    root_of_correction = math.sqrt(1.0 - op.beta2**t)

    def run(i: int, j: int, decay: float) -> None:
        wc, gc, mc, vc = w[i:j], g[i:j], m[i:j], v[i:j]
        change = scratch("change", wc.shape, w.dtype)
        if grad_scale is not None:
            gc = np.divide(gc, grad_scale[0], out=scratch("gradient", wc.shape, w.dtype))
        if decay:
            wc *= 1.0 - rate * decay
        np.multiply(gc, 1.0 - op.beta1, out=change)
        mc *= op.beta1
        mc += change
        np.multiply(gc, gc, out=change)
        change *= 1.0 - op.beta2
        vc *= op.beta2
        vc += change
        np.sqrt(vc, out=change)
        change *= 1.0 / root_of_correction
        change += op.eps
        np.divide(mc, change, out=change)
        change *= rate_of_mean
        wc -= change
        if low is not None:
            store(wc, low[i:j])

    _for_chunks(w.size, decay_until, op.weight_decay, run)


@spec.implements(spec.non_finite)
def non_finite(x: Array, out: Out) -> None:
    """A part is looked at as a whole, the parts side by side."""
    of_part = -(-x.size // out.size)

    def run(i: int, j: int) -> None:
        for part in range(i, j):
            out[part] = not np.isfinite(x[part * of_part : (part + 1) * of_part]).all()

    for_chunks(out.size, max(1, CHUNK // max(of_part, 1)), run)


@spec.implements(spec.loss_scale)
def loss_scale(
    flags: Array, scale: InOut, good: InOut, out: Out, skip: Out, *, op: LossScale
) -> None:
    """A handful of numbers."""
    out[0] = scale[0]
    skip[0] = flags.any()
    good[0] = 0 if skip[0] else good[0] + 1
    if skip[0]:
        scale /= 2
    elif good[0] % op.growth_steps == 0:
        scale *= 2
