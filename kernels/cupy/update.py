"""Optimizers: one launch over the whole parameter arena, bound by memory (update.cu)."""

from __future__ import annotations

import math
from typing import Any

import numpy

from .. import spec
from ..spec import SGD, AdamW, LossScale
from ..spec.contract import Array, InOut, Out
from .group import THREADS, group
from .launch import Kernel, cdiv, launch, type_name, usable

FILE = "update.cu"


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
    settings = float(op.momentum), float(op.weight_decay), int(op.nesterov)
    sizes = numpy.int64(w.size), numpy.int64(decay_until)
    _update("sgd_update_kernel", w, low, w, g, v, low, lr, grad_scale, skip, *sizes, *settings)


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
    betas = op.beta1, op.beta2
    logarithms = (math.log(beta) if beta else -math.inf for beta in betas)
    settings = *betas, *(1.0 - beta for beta in betas), *logarithms, op.eps, op.weight_decay
    _update(
        *("adamw_update_kernel", w, low, w, g, m, v, low, lr, step, grad_scale, skip),
        *(numpy.int64(w.size), numpy.int64(decay_until), *map(float, settings)),
    )


@spec.implements(spec.non_finite)
def non_finite(x: Array, out: Out) -> None:
    """A block a part."""
    usable("non_finite", x=x, out=out)
    kernel = Kernel(FILE, f"non_finite_kernel<{type_name(x)}>")
    sizes = numpy.int64(x.size), numpy.int64(cdiv(x.size, out.size))
    launch(kernel, out.size, THREADS, x, out, *sizes)


@spec.implements(spec.loss_scale)
def loss_scale(
    flags: Array, scale: InOut, good: InOut, out: Out, skip: Out, *, op: LossScale
) -> None:
    """One block."""
    usable("loss_scale", flags=flags, scale=scale, good=good, out=out, skip=skip)
    arguments = flags, scale, good, out, skip, flags.size, op.growth_steps
    launch(Kernel(FILE, "loss_scale_kernel"), 1, THREADS, *arguments)


def _update(name: str, w: Any, low: Any, *arguments: Any) -> None:
    """Launch on the arena `w`; the kernel is instantiated for the type of `low` (None: w's)."""
    kernel = Kernel(FILE, f"{name}<{type_name(w if low is None else low)}>")
    launch(kernel, cdiv(w.size, group(w) * THREADS), THREADS, *arguments)
