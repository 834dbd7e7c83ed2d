"""The second GPU backend: the contract in CUDA C++, compiled by NVRTC, on CuPy arrays.

After `interpret()` the same kernels run on NumPy arrays in a simulator: slow, but without a
GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from .. import cuda, spec
from ..arrays import refuse_float64
from . import launch, simulator

__all__ = ["choose", "interpret", "interpreted", "missing", "pretended", "session", "supports"]


def interpreted() -> bool:
    """Whether the kernels run in the simulator, on NumPy arrays."""
    return launch.simulated()


def interpret() -> str | None:
    """From now on run the kernels in the simulator; or why that cannot be, in one line."""
    if not launch.simulated():
        launch.simulate()
    return missing()


def missing() -> str | None:
    """Why the CUDA kernels cannot run here and what mends it; None if they can."""
    return simulator.missing() if launch.simulated() else _gpu_missing(cuda.current())


@functools.cache
def _gpu_missing(index: int | None) -> str | None:
    from . import device

    return cuda.missing(index) or device.compiler_missing()


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why this call cannot run here, from shapes, types and parameters alone; None if it can."""
    if not hasattr(_file(function), function):
        return f"has no {function}"
    return refuse_float64(function, arguments)


def _file(function: str) -> Any:
    """The module that holds a contract function, or None."""
    module = f"{__name__}.{spec.CONTRACTS[function].module}"  # type: ignore[attr-defined]
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def choose(function: str, arguments: Mapping[str, Any]) -> spec.Config:
    """The tile and workspace for one call: those of its file's `choose`, where it has one."""
    file = _file(function)
    if hasattr(file, "choose"):
        return file.choose(function, arguments)
    return spec.Config("cuda", reason="one kernel")


def pretended(processors: int) -> contextlib.AbstractContextManager[None]:
    """In the simulator, `choose` as for a GPU of so many multiprocessors; on a GPU nothing."""
    return launch.pretended(processors)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Nothing to prepare: launches follow CuPy's current stream."""
    yield
