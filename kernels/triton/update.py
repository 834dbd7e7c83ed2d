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
from ..spec import SGD, AdamW, LossScale
from ..spec.contract import Array, InOut, Out
from .launch import cdiv, launch, narrow, usable, wide

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
    skip,  # int32 [1] or None
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
    before = weight
    weight -= tl.load(lr) * change
    taken = count
    if skip is not None:
        taken = tl.where(tl.load(skip) == 0, count, 0)
        weight = tl.where(i < taken, weight, before)
    tl.store(v + i, velocity, mask=i < taken)
    tl.store(w + i, weight, mask=i < taken)
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
    skip,  # int32 [1] or None
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
    before = weight
    weight -= tl.where(i < decay_until, rate * weight_decay * weight, 0.0)
    mean = beta1 * mean + rest1 * gradient
    square = beta2 * square + rest2 * (gradient * gradient)
    weight -= rate_of_mean * mean / (tl.sqrt(square) * root + eps)
    taken = count
    if skip is not None:
        taken = tl.where(tl.load(skip) == 0, count, 0)
        weight = tl.where(i < taken, weight, before)
    tl.store(m + i, mean, mask=i < taken)
    tl.store(v + i, square, mask=i < taken)
    tl.store(w + i, weight, mask=i < taken)
    if low is not None:
        tl.store(low + i, narrow(weight, low.dtype.element_ty), mask=i < count)


@triton.jit
def _non_finite_kernel(x, out, count, of_part, BLOCK_ELEMENTS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * of_part
    found = tl.zeros((BLOCK_ELEMENTS,), tl.int32)
    for start in range(0, of_part, BLOCK_ELEMENTS):
        i = start + tl.arange(0, BLOCK_ELEMENTS)
        inside = (i < of_part) & (first + i < count)
        value = wide(tl.load(x + first + i, mask=inside, other=0.0))
        found |= tl.where(tl.abs(value) < float("inf"), 0, 1)  # NaN is not less
    tl.store(out + tl.program_id(0), tl.max(found, axis=0))


@triton.jit
def _loss_scale_kernel(
    flags,  # int32 [parts]
    scale,  # float32 [1]
    good,  # int32 [1]
    out,  # float32 [1]
    skip,  # int32 [1]
    parts,
    growth_steps,
    BLOCK_ELEMENTS: tl.constexpr,
):
    i = tl.arange(0, BLOCK_ELEMENTS)
    found = tl.load(flags + i, mask=i < parts, other=0)
    overflow = tl.max(tl.where(found != 0, 1, 0), axis=0)
    before, steps = tl.load(scale), tl.load(good)
    steps = tl.where(overflow != 0, 0, steps + 1)
    grown = tl.where(steps % growth_steps == 0, 2.0 * before, before)
    tl.store(out, before)
    tl.store(skip, overflow)
    tl.store(good, steps)
    tl.store(scale, tl.where(overflow != 0, 0.5 * before, grown))


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
    usable("sgd_update", w=w, g=g, v=v, low=low, lr=lr, grad_scale=grad_scale, skip=skip)
    launch(
        _sgd_update_kernel,
        cdiv(w.size, BLOCK),
        *(w, g, v, low, lr, grad_scale, skip, w.size, decay_until, op.momentum, op.weight_decay),
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
    skip: Array | None = None,
) -> None:
    """One AdamW step; see `spec.AdamW` for the formula."""
    scalars = {"lr": lr, "step": step, "grad_scale": grad_scale, "skip": skip}
    usable("adamw_update", w=w, g=g, m=m, v=v, low=low, **scalars)
    launch(
        _adamw_update_kernel,
        cdiv(w.size, ADAMW_BLOCK),
        *(w, g, m, v, low, lr, step, grad_scale, skip, w.size, decay_until),
        *(op.beta1, op.beta2, 1.0 - op.beta1, 1.0 - op.beta2, op.eps, op.weight_decay),
        LOG_BETA1=math.log(op.beta1) if op.beta1 else 0.0,
        LOG_BETA2=math.log(op.beta2) if op.beta2 else 0.0,
        BLOCK_ELEMENTS=ADAMW_BLOCK,
    )


@spec.implements(spec.non_finite)
def non_finite(x: Array, out: Out) -> None:
    """A program a part."""
    usable("non_finite", x=x, out=out)
    arguments = x, out, x.size, cdiv(x.size, out.size)
    launch(_non_finite_kernel, out.size, *arguments, BLOCK_ELEMENTS=BLOCK)


@spec.implements(spec.loss_scale)
def loss_scale(
    flags: Array, scale: InOut, good: InOut, out: Out, skip: Out, *, op: LossScale
) -> None:
    """One program."""
    usable("loss_scale", flags=flags, scale=scale, good=good, out=out, skip=skip)
    launch(
        _loss_scale_kernel,
        1,
        *(flags, scale, good, out, skip, flags.size, op.growth_steps),
        BLOCK_ELEMENTS=triton.next_power_of_2(max(flags.size, 1)),
    )
