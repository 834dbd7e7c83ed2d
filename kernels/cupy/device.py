"""CuPy's part of a launch: the device, its limits, and kernels that NVRTC has compiled."""

from __future__ import annotations

import functools
from typing import Any

import cupy  # type: ignore[import-not-found]
import numpy

from ..errors import BackendError, UnsupportedError
from . import simulator

OPTIONS = ("-std=c++17", f"-I{simulator.FOLDER}")
FREE_SHARED = 48 << 10  # bytes that a kernel may have without asking for more


def missing(least: tuple[int, int]) -> str | None:
    """Why no GPU can be used here; None if one of compute capability `least` or newer can."""
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "no CUDA GPU is visible; use backend numpy"
        capability = (properties(current())["major"], properties(current())["minor"])
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA cannot be used ({error}); update the NVIDIA driver, or use backend numpy"
    if capability < least:
        told = ".".join(map(str, capability))
        return f"the GPU has compute capability {told}, needs {least[0]}.{least[1]}; use numpy"
    return None


def current() -> int:
    """The number of the device that launches go to."""
    return cupy.cuda.runtime.getDevice()


@functools.cache
def properties(device: int) -> dict[str, Any]:
    """What CUDA says about a device."""
    return cupy.cuda.runtime.getDeviceProperties(device)


def empty(count: int) -> Any:
    """`count` float32 on the current device, content arbitrary."""
    return cupy.empty(count, "float32")


def check_stream(function: str) -> None:
    """Require that the current stream belongs to the current device. Raises: UnsupportedError."""
    stream = cupy.cuda.get_current_stream()
    if stream.device_id not in (-1, current()):  # -1: the default streams, of every device
        raise UnsupportedError(
            f"{function}: backend cupy launches on device {current()}, but the current stream is "
            f"of device {stream.device_id}; use backend cupy inside its `with Device`"
        )


@functools.cache
def _kernel(file: str, name: str, device: int) -> Any:
    # CuPy caches by this text and not by what it includes: the digest stands for that
    code = f'// {simulator.digest(file)}\n#include "{file}"\n'
    module = cupy.RawModule(code=code, backend="nvrtc", options=OPTIONS, name_expressions=(name,))
    try:
        return module.get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        raise BackendError(f"{file}: {name}: NVRTC cannot compile it\n{error}") from error


def run(
    file: str,
    name: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: tuple[tuple[str, Any], ...],
    shared_bytes: int,
) -> None:
    """Launch a kernel on the current stream. Raises: BackendError, UnsupportedError."""
    check_stream(name)
    kernel = _kernel(file, name, current())
    if shared_bytes > FREE_SHARED and kernel.max_dynamic_shared_size_bytes < shared_bytes:
        kernel.max_dynamic_shared_size_bytes = shared_bytes
    # an address is passed as a number: CuPy need not know the type of what lies there
    values = tuple(
        numpy.uint64(value or 0) if kind.startswith("*") else numpy.dtype(kind).type(value)
        for kind, value in arguments
    )
    kernel(grid, block, values, shared_mem=shared_bytes)
