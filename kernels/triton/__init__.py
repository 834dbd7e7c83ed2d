"""The GPU backend: the contract as Triton kernels on CuPy arrays.

With TRITON_INTERPRET=1 in the environment before Triton is imported, the same kernels run in
Triton's interpreter on NumPy arrays: slow, but without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .. import cuda, spec
from ..arrays import refuse_float64

__all__ = [
    "BORDERS", "choose", "interpret", "interpreted", "missing", "pretended", "session", "supports",
]  # fmt: skip

BORDERS = True  # convolutions on images with a border of zeros have a faster way: `conv_halo.py`


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on NumPy arrays."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def interpret() -> str | None:
    """From now on run the kernels in Triton's interpreter; or why that cannot be, in one line."""
    if not interpreted() and "triton" in sys.modules:
        return "Triton was imported already, without its interpreter; set TRITON_INTERPRET=1 first"
    os.environ["TRITON_INTERPRET"] = "1"
    return missing()


def missing() -> str | None:
    """Why the Triton kernels cannot run here and what mends it; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton (on Linux)"
    return None if interpreted() else _gpu_missing(cuda.current())


@functools.cache
def _gpu_missing(index: int | None) -> str | None:
    return cuda.missing(index)


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why this call cannot run here, from shapes, types and parameters alone; None if it can."""
    name = f"{__name__}.{spec.CONTRACTS[function].module}"  # type: ignore[attr-defined]
    if importlib.util.find_spec(name) is None:
        return f"has no {function}"
    if (reason := refuse_float64(function, arguments)) is not None:
        return reason
    file = importlib.import_module(name)
    return file.supports(function, arguments) if hasattr(file, "supports") else None


def choose(function: str, arguments: Mapping[str, Any]) -> spec.Config:
    """The tile and workspace for one call: those of its file's `choose`, where it has one."""
    module = spec.CONTRACTS[function].module  # type: ignore[attr-defined]
    file = importlib.import_module(f".{module}", __name__)
    if hasattr(file, "choose"):
        return file.choose(function, arguments)
    return spec.Config("triton", reason="one kernel")


def pretended(processors: int) -> contextlib.AbstractContextManager[None]:
    """In the interpreter, `choose` as for a GPU of so many multiprocessors; on a GPU nothing."""
    from . import gpu

    return gpu.pretended(processors)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """On a GPU, launches follow CuPy's current stream; the interpreter needs nothing."""
    from . import launch

    launch.prepare()
    yield
