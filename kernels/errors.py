"""The errors that kernels raise, all before any work starts.

Every message names the function, the rule and both values, on one line:
`conv2d: C of x (3) must equal groups*C of w (64); x=(8, 32, 32, 3), w=(64, 3, 3, 64)`.
"""

from __future__ import annotations


class KernelError(Exception):
    """Base of everything that a kernel raises."""


class ShapeError(KernelError, ValueError):
    """The shapes, strides or parameters of a call do not fit together."""


class DTypeError(KernelError, TypeError):
    """An array has an element type that the function does not take."""


class UnsupportedError(KernelError, NotImplementedError):
    """This backend cannot do it; the message names the backend, the reason and an alternative."""


class BackendError(KernelError, RuntimeError):
    """A backend is missing, failed to compile or failed to launch."""


def require(ok: bool, function: str, rule: str, **values: object) -> None:
    """Raise ShapeError with `function`, `rule` and the `values` it speaks of, unless `ok`."""
    if not ok:
        told = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ShapeError(f"{function}: {rule}" + (f"; {told}" if told else ""))


def require_support(function: str, backend: str, reason: str | None) -> None:
    """Raise UnsupportedError where there is a `reason` why `backend` cannot do a call."""
    if reason is not None:
        raise UnsupportedError(f"{function}: backend {backend} {reason}; use backend numpy")
