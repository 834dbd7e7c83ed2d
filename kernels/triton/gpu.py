"""The GPU that launches go to, or what stands in for it.

`multiprocessors`, `architecture` and `device_name` speak of CuPy's current device. As for an H100,
but without one, and nothing runs:

    with recorded(132, 90) as launches:
        conv2d(x, w, b, out, op=op)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton

from . import interpreted


@dataclass(frozen=True)
class Launch:
    """One launch that was written down: what `launch` was given, arrays as pointers.

    Descriptors are Triton's own `TensorDescriptor`, whose `base` is a `Pointer`.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    stages: int


class Recorder:
    """Where launches go while `recorded` is open, and the GPU that is pretended then."""

    launches: list[Launch] | None = None
    processors = 0
    architecture = 0


class Interpreter:
    """What the interpreter stands for."""

    processors = 1


@contextlib.contextmanager
def recorded(processors: int, architecture: int = 0) -> Iterator[list[Launch]]:
    """Write launches down instead of running them, as for a GPU of so many multiprocessors.

    `architecture` is the GPU's, 90 for sm_90; 0: unknown.
    """
    Recorder.launches, Recorder.processors = [], processors
    Recorder.architecture = architecture
    try:
        yield Recorder.launches
    finally:
        Recorder.launches = None


@contextlib.contextmanager
def pretended(processors: int) -> Iterator[None]:
    """In the interpreter, tiles and splits are those for a GPU of so many multiprocessors."""
    before, Interpreter.processors = Interpreter.processors, processors
    try:
        yield
    finally:
        Interpreter.processors = before


def multiprocessors() -> int:
    """Programs that run side by side at full speed: the GPU's multiprocessors, or one."""
    if Recorder.launches is not None:
        return Recorder.processors
    if interpreted():
        return Interpreter.processors
    from . import driver

    return driver.multiprocessors()


def architecture() -> int:
    """The GPU's architecture, 90 for sm_90; 0 where there is none: in the interpreter."""
    if Recorder.launches is not None:
        return Recorder.architecture
    if interpreted():
        return 0
    from . import driver

    major, minor = driver.capability()
    return 10 * major + minor


def fetches_blocks() -> bool:
    """Whether descriptors are worth using: the GPU has a copy engine for them (sm_90 and later).

    The interpreter reads descriptors too: there the kernels that use them are tested.
    """
    if Recorder.launches is None and interpreted():
        return True
    return architecture() >= 90


def shortens_ieee() -> bool:
    """Whether the compiler forms IEEE products of patches that were joined tap by tap from TF32.

    Triton 3.6 does for sm_100 (`tcgen05.mma.kind::tf32` in its PTX), 3.9 does not.
    """
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    return architecture() >= 100 and version < (3, 9)


def device_name() -> str:
    """The GPU's model; empty where there is none."""
    if Recorder.launches is not None or interpreted():
        return ""
    from . import driver

    return driver.device_name()
