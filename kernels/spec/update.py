"""The contract of the optimizers: one update over the whole parameter arena.

Parameters, gradients and optimizer state are flat arenas in the same order. Weight decay applies
to the first `decay_until` elements (weights come first, biases and norms after them). The learning
rate and the step number live in arrays, so a captured graph replays with new values.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DTypeError, require
from .contract import (
    FLOATS,
    Array,
    InOut,
    Out,
    contiguous,
    contract,
    disjoint,
    dtype_name,
    has_dtype,
    has_rank,
    has_shape,
    same_float,
)


@dataclass(frozen=True)
class SGD:
    """g += weight_decay * w;  v = momentum * v + g;  w -= lr * (g + momentum * v, or v).

    The second form of the step is plain momentum, the first Nesterov's (Sutskever et al. 2013).
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        require(0 <= self.momentum < 1, "sgd", "momentum must be in [0, 1)", momentum=self.momentum)
        require(
            self.weight_decay >= 0,
            "sgd",
            "weight_decay must be >= 0",
            weight_decay=self.weight_decay,
        )
        require(
            not self.nesterov or self.momentum > 0,
            "sgd",
            "nesterov needs momentum > 0",
            momentum=self.momentum,
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019):

    w -= lr * weight_decay * w;  m, v: running means of g and g²;
    w -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        ok = 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1
        require(ok, "adamw", "betas must be in [0, 1)", beta1=self.beta1, beta2=self.beta2)
        require(self.eps > 0, "adamw", "eps must be > 0", eps=self.eps)
        require(
            self.weight_decay >= 0,
            "adamw",
            "weight_decay must be >= 0",
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018): halved by an overflow, doubled after a time.

    That is: after every `growth_steps` steps in a row without one.
    """

    growth_steps: int = 2000

    def __post_init__(self) -> None:
        """Check the parameter. Raises: ShapeError."""
        require(
            isinstance(self.growth_steps, int) and self.growth_steps >= 1,
            "loss_scale",
            "growth_steps must be an integer >= 1",
            growth_steps=self.growth_steps,
        )


def _arenas(
    name: str,
    w: Array,
    g: Array,
    low: Array | None,
    lr: Array,
    grad_scale: Array | None,
    skip: Array | None,
    decay_until: int,
    **states: Array,
) -> None:
    has_rank(name, 1, w=w)
    dtype = same_float(name, w=w, g=g, **states)
    if dtype not in ("float64", "float32"):
        raise DTypeError(f"{name}: arenas must be float64 or float32, not {dtype}")
    has_shape(name, tuple(w.shape), g=g, low=low, **states)
    has_shape(name, (1,), lr=lr, grad_scale=grad_scale, skip=skip)
    has_dtype(name, dtype, lr=lr, grad_scale=grad_scale)
    has_dtype(name, "int32", skip=skip)
    if low is not None and dtype_name(low) not in FLOATS:
        raise DTypeError(f"{name}: low must be one of {', '.join(FLOATS)}, not {dtype_name(low)}")
    require(
        0 <= decay_until <= w.shape[0],
        name,
        "decay_until must lie inside the arena",
        decay_until=decay_until,
        w=tuple(w.shape),
    )
    contiguous(name, w=w, g=g, low=low, **states)
    disjoint(name, w, g=g, low=low, **states)


@contract()
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
    """One SGD step over the arena.

    w, g, v [M] float32 or float64; lr [1] of the same type; `grad_scale` [1]: g is divided by it
    first; `low` [M], 16-bit or None: receives the new w, rounded (the copy that kernels read).
    Where `skip` int32 [1] is not 0, w and the state stay as they are.

    Raises: ShapeError, DTypeError.
    """
    _arenas("sgd_update", w, g, low, lr, grad_scale, skip, decay_until, v=v)


@contract()
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
    """One AdamW step over the arena.

    m and v [M] like w are the running means; `step` int64 [1] counts from 1. The rest as in
    `sgd_update`.

    Raises: ShapeError, DTypeError.
    """
    _arenas("adamw_update", w, g, low, lr, grad_scale, skip, decay_until, m=m, v=v)
    has_shape("adamw_update", (1,), step=step)
    has_dtype("adamw_update", "int64", step=step)


@contract()
def non_finite(x: Array, out: Out) -> None:
    """out[i] = 1 where part i of x has an infinity or a NaN, else 0.

    x [M] of a float type; out int32 [P], P at least 1. Part i is x[i * L : (i + 1) * L], L being
    M / P rounded up.

    Raises: ShapeError, DTypeError.
    """
    has_rank("non_finite", 1, x=x, out=out)
    same_float("non_finite", x=x)
    has_dtype("non_finite", "int32", out=out)
    require(out.shape[0] >= 1, "non_finite", "out needs at least one element", out=out.shape)
    contiguous("non_finite", x=x, out=out)
    disjoint("non_finite", out, x=x)


@contract()
def loss_scale(
    flags: Array, scale: InOut, good: InOut, out: Out, skip: Out, *, op: LossScale
) -> None:
    """What becomes of a step whose loss was multiplied by `scale`, and of the scale.

    flags int32 [P], not 0 where gradients overflowed (`non_finite`). skip int32 [1]: 1 if one of
    them did, else 0; out [1] like scale receives what this step's gradients are divided by. scale
    float32 or float64 [1] is halved after an overflow; good int32 [1] counts the steps in a row
    without one, and when `op.growth_steps` divides it, scale is doubled.

    Raises: ShapeError, DTypeError.
    """
    has_rank("loss_scale", 1, flags=flags)
    has_shape("loss_scale", (1,), scale=scale, good=good, out=out, skip=skip)
    has_dtype("loss_scale", "int32", flags=flags, good=good, skip=skip)
    dtype = same_float("loss_scale", scale=scale, out=out)
    if dtype not in ("float64", "float32"):
        raise DTypeError(f"loss_scale: scale and out must be float64 or float32, not {dtype}")
    contiguous("loss_scale", flags=flags, scale=scale, good=good, out=out, skip=skip)
    disjoint("loss_scale", out, flags=flags, scale=scale, good=good, skip=skip)
