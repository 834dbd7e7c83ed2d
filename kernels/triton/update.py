"""Optimizers: one launch over the whole parameter arena, bound by memory.

Learning rate, step number and gradient scale are read from the device's memory, so that a captured
graph replays with new values. SGD moves five numbers a parameter, AdamW seven, and two bytes more
for the 16-bit copy that kernels read.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .. import spec
from ..spec import SGD, AdamW
from ..spec.contract import Array, InOut, Out
from .launch import cdiv, launch, narrow, usable

BLOCK = 2048  # parameters of a program: 16 a thread
ADAMW_BLOCK = 1024  # 8 a thread, which holds four arrays and float64 scalars


@triton.jit
def _sgd_update_kernel(
    w,  # float32 [M], as are g and v
    g,
    v,
    low,  # 16-bit [M] or None
    lr,  # float32 [1]
    grad_scale,  # float32 [1] or None
    count,
    decay_until,
    momentum,
    weight_decay,
    NESTEROV: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    weight = tl.load(w + i, mask=i < count, other=0.0)
    gradient = tl.load(g + i, mask=i < count, other=0.0)
    velocity = tl.load(v + i, mask=i < count, other=0.0)
    if grad_scale is not None:
        gradient = gradient / tl.load(grad_scale)
    gradient += tl.where(i < decay_until, weight_decay * weight, 0.0)
    velocity = momentum * velocity + gradient
    change = velocity
    if NESTEROV:
        change = gradient + momentum * velocity
    weight -= tl.load(lr) * change
    tl.store(v + i, velocity, mask=i < count)
    tl.store(w + i, weight, mask=i < count)
    if low is not None:
        tl.store(low + i, narrow(weight, low.dtype.element_ty), mask=i < count)


@triton.jit
def _adamw_update_kernel(
    w,  # float32 [M], as are g, m and v
    g,
    m,
    v,
    low,  # 16-bit [M] or None
    lr,  # float32 [1]
    step,  # int64 [1], counts from 1
    grad_scale,  # float32 [1] or None
    count,
    decay_until,
    beta1,
    beta2,
    rest1,  # 1 - beta1, from float64: 1 - 0.999 in float32 is off by 1e-5
    rest2,
    eps,
    weight_decay,
    LOG_BETA1: tl.constexpr,  # 0 for beta = 0
    LOG_BETA2: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
):
    # 1 - beta^t as float64 scalars, for the same reason
    t = tl.load(step).to(tl.float64)
    correction1 = 1.0 - tl.exp(t * tl.full((), LOG_BETA1, tl.float64))
    correction2 = 1.0 - tl.exp(t * tl.full((), LOG_BETA2, tl.float64))
    if LOG_BETA1 == 0:
        correction1 = tl.full((), 1.0, tl.float64)
    if LOG_BETA2 == 0:
        correction2 = tl.full((), 1.0, tl.float64)
    rate = tl.load(lr)
    rate_of_mean = (rate.to(tl.float64) / correction1).to(tl.float32)
    root = tl.sqrt((1.0 / correction2).to(tl.float32))
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    weight = tl.load(w + i, mask=i < count, other=0.0)
    gradient = tl.load(g + i, mask=i < count, other=0.0)
    mean = tl.load(m + i, mask=i < count, other=0.0)
    square = tl.load(v + i, mask=i < count, other=0.0)
    if grad_scale is not None:
        gradient = gradient / tl.load(grad_scale)
    weight -= tl.where(i < decay_until, rate * weight_decay * weight, 0.0)
    mean = beta1 * mean + rest1 * gradient
    square = beta2 * square + rest2 * (gradient * gradient)
    weight -= rate_of_mean * mean / (tl.sqrt(square) * root + eps)
    tl.store(m + i, mean, mask=i < count)
    tl.store(v + i, square, mask=i < count)
    tl.store(w + i, weight, mask=i < count)
    if low is not None:
        tl.store(low + i, narrow(weight, low.dtype.element_ty), mask=i < count)


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
    usable("sgd_update", w=w, g=g, v=v, low=low, lr=lr, grad_scale=grad_scale)
    launch(
        _sgd_update_kernel,
        cdiv(w.size, BLOCK),
        *(w, g, v, low, lr, grad_scale, w.size, decay_until, op.momentum, op.weight_decay),
        NESTEROV=op.nesterov,
        BLOCK_ELEMENTS=BLOCK,
    )


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
    """One AdamW step; see `spec.AdamW` for the formula."""
    usable("adamw_update", w=w, g=g, m=m, v=v, low=low, lr=lr, step=step, grad_scale=grad_scale)
    launch(
        _adamw_update_kernel,
        cdiv(w.size, ADAMW_BLOCK),
        *(w, g, m, v, low, lr, step, grad_scale, w.size, decay_until),
        *(op.beta1, op.beta2, 1.0 - op.beta1, 1.0 - op.beta2, op.eps, op.weight_decay),
        LOG_BETA1=math.log(op.beta1) if op.beta1 else 0.0,
        LOG_BETA2=math.log(op.beta2) if op.beta2 else 0.0,
        BLOCK_ELEMENTS=ADAMW_BLOCK,
    )
