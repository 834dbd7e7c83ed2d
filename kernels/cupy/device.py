"""CuPy's part of a launch: the device, its limits, and kernels that NVRTC has compiled."""

from __future__ import annotations

import functools
from typing import Any

import numpy

from .. import cuda
from ..errors import BackendError, UnsupportedError
from . import simulator

OPTIONS = ("-std=c++17", f"-I{simulator.FOLDER}")

Extents = tuple[int, int, int]


def current() -> int:
    """The number of the device that launches go to."""
    return cuda.cupy().cuda.runtime.getDevice()


@functools.cache
def properties(device: int) -> dict[str, Any]:
    """What CUDA says about a device."""
    return cuda.cupy().cuda.runtime.getDeviceProperties(device)


def compiler_missing() -> str | None:
    """Why NVRTC, which compiles the kernels, cannot be used and what mends it; None if it can."""
    try:
        cuda.cupy().cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        told = str(error).strip().partition("\n")[0]
        return f"CuPy cannot load NVRTC, which compiles its kernels ({told}); {cuda.EXTRA}"
    return None


def _require_stream_of(device: int, name: str) -> None:
    stream = cuda.cupy().cuda.get_current_stream()
    if stream.device_id not in (-1, device):  # -1: the default streams, of every device
        raise UnsupportedError(
            f"{name}: backend cupy launches on device {device}, but the current stream is of "
            f"device {stream.device_id}; use backend cupy with a stream of its own device"
        )


@functools.cache
def _kernel(file: str, name: str, device: int) -> Any:
    cupy = cuda.cupy()
    # CuPy caches by this text and not by what it includes: the digest stands for that
    code = f'// {simulator.digest(file)}\n#include "{simulator.FOLDER / file}"\n'
    try:
        module = cupy.RawModule(
            code=code, backend="nvrtc", options=OPTIONS, name_expressions=(name,)
        )
        kernel = module.get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = next((line for line in lines if "error" in line), lines[0] if lines else "no reason")
        raise BackendError(
            f"backend cupy: {file}: {name}: NVRTC cannot compile it: {why}; use another --kernels"
        ) from error
    # more than 48 KiB, declared and dynamic together, must be asked for
    most = properties(device)["sharedMemPerBlockOptin"]
    kernel.max_dynamic_shared_size_bytes = most - kernel.shared_size_bytes
    return kernel


def run(
    file: str,
    name: str,
    grid: Extents,
    block: Extents,
    arguments: tuple[tuple[str, Any], ...],
    shared_bytes: int,
) -> None:
    """Launch a kernel on the current stream; `arguments` are (type, value) as `launch.typed` makes.

    Raises: BackendError, UnsupportedError.
    """
    device = current()
    _require_stream_of(device, name)
    kernel = _kernel(file, name, device)
    # an address is passed as a number: CuPy need not know the type of what lies there
    values = tuple(
        numpy.uint64(value) if kind.startswith("*") else numpy.dtype(kind).type(value)
        for kind, value in arguments
    )
    kernel(grid, block, values, shared_mem=shared_bytes)
