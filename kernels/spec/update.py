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


def _arenas(
    name: str,
    w: Array,
    g: Array,
    low: Array | None,
    lr: Array,
    grad_scale: Array | None,
    decay_until: int,
    **states: Array,
) -> None:
    has_rank(name, 1, w=w)
    dtype = same_float(name, w=w, g=g, **states)
    if dtype not in ("float64", "float32"):
        raise DTypeError(f"{name}: arenas must be float64 or float32, not {dtype}")
    has_shape(name, tuple(w.shape), g=g, low=low, **states)
    has_shape(name, (1,), lr=lr, grad_scale=grad_scale)
    has_dtype(name, dtype, lr=lr, grad_scale=grad_scale)
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
) -> None:
    """One SGD step over the arena.

    w, g, v [M] float32 or float64; lr [1] of the same type; `grad_scale` [1]: g is divided by it
    first; `low` [M], 16-bit or None: receives the new w, rounded (the copy that kernels read).

    Raises: ShapeError, DTypeError.
    """
    _arenas("sgd_update", w, g, low, lr, grad_scale, decay_until, v=v)


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
) -> None:
    """One AdamW step over the arena.

    m and v [M] like w are the running means; `step` int64 [1] counts from 1. The rest as in
    `sgd_update`.

    Raises: ShapeError, DTypeError.
    """
    _arenas("adamw_update", w, g, low, lr, grad_scale, decay_until, m=m, v=v)
    has_shape("adamw_update", (1,), step=step)
    has_dtype("adamw_update", "int64", step=step)
