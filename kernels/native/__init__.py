"""The fast CPU backend: float32 convolutions, dense layers, pools, norms, ReLUs, dropout in C.

`kernels/numpy` is its readable twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import spec
from ..errors import require_support
from ..numpy.threads import session
from ..prepared import Prepared
from . import library

__all__ = ["choose", "missing", "prepare", "session", "supports"]


def missing() -> str | None:
    """Why the compiled kernels cannot run here and what mends it; None if they can."""
    if library.runnable():
        return None
    if "generic" in library.built() and library.is_stale("generic"):
        return f"its C library {library.STALE}"
    return (
        "its C kernels were not compiled for this platform; install a C compiler (gcc or clang), "
        "then, in the source folder, run: pip install --force-reinstall --no-deps ."
    )


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why this call cannot run here, from shapes, types and parameters alone; None if it can."""
    file = _file(function)
    return f"has no {function}" if file is None else file.supports(function, arguments)


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> spec.Config:
    """The instruction set, chunks and workspace for one call; `variant` forces the first.

    Raises: UnsupportedError.
    """
    require_support(function, "native", supports(function, arguments))
    file = _file(function)
    assert file is not None
    return file.choose(function, arguments, variant)


def prepare(function: str, arguments: Mapping[str, Any]) -> Prepared | None:
    """How a call is made whose filters never change; None if it gains nothing by it."""
    from . import packing

    return packing.prepare(function, arguments)


def _file(function: str) -> Any:
    """The module that has a contract function, or None."""
    from . import activation, conv, dense, elementwise, norm, pool

    files = {
        "activation": activation, "conv": conv, "dense": dense, "elementwise": elementwise,
        "norm": norm, "pool": pool,
    }  # fmt: skip
    file = files.get(spec.CONTRACTS[function].module)  # type: ignore[attr-defined]
    return file if hasattr(file, function) else None
