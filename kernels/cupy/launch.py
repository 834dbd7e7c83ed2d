"""What lies between an array and a kernel: checks, argument types, and the launch itself.

    usable("relu", x=x, out=out)
    kernel = Kernel("elementwise.cu", f"relu_kernel<{type_name(x)}, 4>")
    launch(kernel, cdiv(x.size, 4 * 256), 256, x, out, numpy.int64(x.size))

A kernel is a template in a .cu file of this folder and the arguments of one instantiation; it is
compiled when it is first launched. On a GPU the arrays are CuPy's and a launch goes to CuPy's
current stream. After `simulate()` they are NumPy's and the kernels run on the CPU (simulator.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy

from .. import cuda
from ..arrays import cdiv as cdiv
from ..arrays import pixel_pitch as pixel_pitch
from ..arrays import require_usable
from ..errors import BackendError, ShapeError, UnsupportedError
from ..spec.contract import address as address
from ..spec.contract import dtype_name
from . import simulator

TYPES = {  # of array elements, as the kernels call them
    "float32": "float",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "long long",
}
LARGE = 2**31  # elements from which offsets need 64 bits
VECTOR_BYTES = 16  # the most that one thread moves in one instruction
MOST_BLOCKS = (2**31 - 1, 65_535, 65_535)  # of a grid, by axis
MOST_THREADS = 1024  # of a block
SHARED_LIMIT = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}

Extents = int | tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """An instantiation of a kernel template: its file and its name with template arguments."""

    file: str
    name: str


@dataclass(frozen=True)
class Launch:
    """One launch that was written down: arguments as their types ("int32", "*float16", …)."""

    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[str, ...]
    shared_bytes: int


@dataclass(frozen=True)
class Target:
    """A GPU that is not here: its compute capability, as 80 or 90, and its multiprocessors."""

    architecture: int = 90
    processors: int = 1


class _Process:
    """Where this process's launches go: to the GPU, the simulator, or a list."""

    simulated: Target | None = None
    seed = 0
    recording: Target | None = None
    launches: list[Launch]


def simulate(target: Target | None = None, seed: int = 0) -> None:
    """From now on kernels run on the CPU, on NumPy arrays, as for `target`; `seed` orders threads.

    A test process calls it once, before any launch.
    """
    _Process.simulated, _Process.seed = target or Target(), seed


def simulated() -> bool:
    """Whether kernels run in the simulator, on NumPy arrays."""
    return _Process.simulated is not None


@contextlib.contextmanager
def pretended(processors: int) -> Iterator[None]:
    """In the simulator, tiles and splits are those for a GPU of so many multiprocessors."""
    before = _Process.simulated
    if before is not None:
        _Process.simulated = replace(before, processors=processors)
    try:
        yield
    finally:
        _Process.simulated = before


@contextlib.contextmanager
def recorded(processors: int, architecture: int = 90) -> Iterator[list[Launch]]:
    """Write launches down instead of running them, as for a GPU of so many multiprocessors."""
    _Process.recording, _Process.launches = Target(architecture, processors), []
    try:
        yield _Process.launches
    finally:
        _Process.recording = None


def multiprocessors() -> int:
    """Blocks that run side by side at full speed: the GPU's multiprocessors."""
    if (target := _Process.recording or _Process.simulated) is not None:
        return target.processors
    from . import device

    return device.properties(device.current())["multiProcessorCount"]


def shared_limit() -> int:
    """Bytes of shared memory that a block can have here: 227 KiB on sm_90, 163 KiB on sm_80."""
    if (target := _Process.recording or _Process.simulated) is not None:
        return SHARED_LIMIT[target.architecture] << 10
    from . import device

    return device.properties(device.current())["sharedMemPerBlockOptin"]


def architecture() -> int:
    """The compute capability that launches go to, as 80 or 90."""
    if (target := _Process.recording or _Process.simulated) is not None:
        return target.architecture
    from . import device

    told = device.properties(device.current())
    return 10 * told["major"] + told["minor"]


def type_name(array: Any) -> str:
    """The element type of an array as the kernels call it."""
    return TYPES[dtype_name(array)]


def usable(function: str, **arrays: Any) -> None:
    """Require arrays (None is left out) that the kernels can read: place, type and alignment.

    Raises: UnsupportedError, ShapeError.
    """
    elsewhere = _Process.recording is not None
    require_usable(function, "cupy", host=None if elsewhere else simulated(), arrays=arrays)
    if not elsewhere and not simulated():
        for name, array in arrays.items():
            if array is not None:
                _on_current_device(function, name, array)


def _on_current_device(function: str, name: str, array: Any) -> None:
    from . import device

    if array.device.id != device.current():
        raise UnsupportedError(
            f"{function}: {name} is on device {array.device.id} and backend cupy launches on "
            f"device {device.current()}; copy it, or use backend cupy inside its `with Device`"
        )


def typed(argument: Any) -> tuple[str, Any]:
    """An argument as (type, value): arrays become addresses, int is int32 and float is float32.

    A NumPy number keeps its type; None is a null pointer.

    Raises: ShapeError for an int that needs more than 32 bits.
    """
    if argument is None:
        return "*", 0
    if isinstance(argument, numpy.generic):
        return str(argument.dtype), argument.item()
    if isinstance(argument, int):
        if not -LARGE <= argument < LARGE:
            raise ShapeError(f"launch: {argument} does not fit 32 bits; pass numpy.int64")
        return "int32", int(argument)
    if isinstance(argument, float):
        return "float32", argument
    return f"*{dtype_name(argument)}", address(argument)


def three(extents: Extents) -> tuple[int, int, int]:
    """The extents of a grid or block, axis x first, ones behind them."""
    given = (extents,) if isinstance(extents, int) else tuple(extents)
    x, y, z = (*given, 1, 1, 1)[:3]
    return x, y, z


def launch(
    kernel: Kernel, grid: Extents, block: Extents, *arguments: Any, shared_bytes: int = 0
) -> None:
    """Run `kernel` with `grid` blocks of `block` threads; `shared_bytes` is dynamic shared memory.

    A grid without blocks: nothing is launched. Arguments as in `typed`.

    Raises: ShapeError, BackendError, UnsupportedError.
    """
    blocks, threads = three(grid), three(block)
    if 0 in blocks:
        return
    for axis, count, most in zip("xyz", blocks, MOST_BLOCKS, strict=True):
        if not 0 < count <= most:
            raise ShapeError(f"{kernel.name}: {count} blocks along {axis} are more than {most}")
    if not 0 < threads[0] * threads[1] * threads[2] <= MOST_THREADS or threads[2] > 64:
        raise BackendError(f"{kernel.name}: a block of {threads} threads, at most {MOST_THREADS}")
    if shared_bytes > shared_limit():
        raise BackendError(
            f"{kernel.name}: {shared_bytes} bytes of shared memory, at most {shared_limit()}"
        )
    given = tuple(typed(argument) for argument in arguments)
    if _Process.recording is not None:
        kinds = tuple(kind for kind, _ in given)
        _Process.launches.append(Launch(kernel, blocks, threads, kinds, shared_bytes))
    elif simulated():
        _Process.seed += 1
        simulator.run(
            *(kernel.file, kernel.name, blocks, threads, given),
            *(shared_bytes, shared_limit(), _Process.seed),
        )
    else:
        from . import device

        device.run(kernel.file, kernel.name, blocks, threads, given, shared_bytes)


def vector_width(*arrays: Any, rows: tuple[int, ...] = ()) -> int:
    """Elements that a thread can move at once in all arrays (None is left out): 16 bytes, or less.

    Every array must begin at such a boundary, and every number in `rows` (elements of a row, or
    from one row to the next) be a multiple of the width.
    """
    given = [array for array in arrays if array is not None]
    width = VECTOR_BYTES // max(array.dtype.itemsize for array in given)
    while width > 1 and (
        any(address(array) % (width * array.dtype.itemsize) for array in given)
        or any(count % width for count in rows)
    ):
        width //= 2
    return width


def scratch(workspace: Any, count: int) -> Any:
    """The first `count` float32 of a uint8 workspace; memory of its own for None."""
    if workspace is not None:
        return workspace[: 4 * count].view("float32")
    if simulated() or _Process.recording is not None:
        return numpy.empty(count, "float32")
    return cuda.floats(count)
