"""Two tests of a gradient that know nothing of how it is computed.

`adjoint`: a linear f and its gradient are transposes, <dy, f(x)> = <f'(dy), x>, exactly.
`directional`: for the rest, the slope along one random direction, by a central difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EXACT = {"float64": 1e-12, "float32": 2e-5}  # of the product of the norms
STEP = 1e-4


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """The inner product in float64."""
    assert a.shape == b.shape, f"inner product of {a.shape} and {b.shape}"
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def adjoint(
    name: str, dy: np.ndarray, y: np.ndarray, gradient: np.ndarray, x: np.ndarray, dtype: str
) -> None:
    """Require <dy, y> = <gradient, x> for y = f(x) and gradient = f'(dy), f linear in x."""
    left, right = inner(dy, y), inner(gradient, x)
    size = max(
        np.sqrt(inner(dy, dy) * inner(y, y)), np.sqrt(inner(gradient, gradient) * inner(x, x))
    )
    assert abs(left - right) <= EXACT[dtype] * size, (
        f"{name}: <dy, y> = {left!r} but <gradient, x> = {right!r}; "
        f"apart {abs(left - right) / size:.3g} of the norms, allowed {EXACT[dtype]:.3g}"
    )


def directional(
    name: str,
    loss: Callable[[np.ndarray], float],
    x: np.ndarray,
    gradient: np.ndarray,
    direction: np.ndarray,
    rtol: float = 1e-6,
) -> None:
    """Require the slope of `loss` at x along `direction` to be <gradient, direction>; float64."""
    slope = (loss(x + STEP * direction) - loss(x - STEP * direction)) / (2 * STEP)
    told = inner(gradient, direction)
    size = np.sqrt(inner(gradient, gradient) * inner(direction, direction))
    assert abs(slope - told) <= rtol * size, (
        f"{name}: the slope is {slope!r} but the gradient says {told!r}; "
        f"apart {abs(slope - told) / size:.3g}, allowed {rtol:.3g}"
    )
