"""Triton's CUDA driver on CuPy's terms: its device, its current stream, and no PyTorch.

Triton's own `CudaDriver` asks PyTorch for the current device and stream. This one asks CuPy, so a
launch joins the work of `with stream:` and is recorded by that stream's capture.
"""

from __future__ import annotations

import functools
from typing import Any

import cupy  # type: ignore[import-not-found]
import triton
from triton.backends.nvidia import driver as nvidia

from ..errors import BackendError


class CupyDriver(nvidia.CudaDriver):
    """A CUDA driver whose device and stream are CuPy's current ones."""

    def __init__(self) -> None:
        """Build Triton's launcher; the constructor above it in the line would import PyTorch."""
        self.utils = nvidia.CudaUtils()
        self.launcher_cls = nvidia.CudaLauncher
        runtime = cupy.cuda.runtime
        self.get_current_device = runtime.getDevice
        self.set_current_device = runtime.setDevice
        self.get_device_capability = _capability
        self.get_current_stream = _stream

    @staticmethod
    def is_active() -> bool:
        """True: whoever makes one has found CuPy and a GPU."""
        return True

    def get_active_torch_device(self) -> Any:
        """Refused: there is no PyTorch here. Raises: BackendError."""
        raise BackendError("backend triton: launches are on CuPy's device, not PyTorch's")

    get_device_interface = get_active_torch_device
    get_benchmarker = get_active_torch_device
    get_empty_cache_for_benchmark = get_active_torch_device


def _capability(device: int) -> tuple[int, int]:
    told = cupy.cuda.runtime.getDeviceProperties(device)
    return told["major"], told["minor"]


def _stream(device: int) -> int:
    return cupy.cuda.get_current_stream().ptr


@functools.cache
def multiprocessors() -> int:
    """Multiprocessors of the current device: 132 on an H100, 108 on an A100."""
    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())[
        "multiProcessorCount"
    ]


@functools.cache
def capability() -> tuple[int, int]:
    """Compute capability of the current device: (9, 0) for an H100, (8, 0) for an A100."""
    return _capability(cupy.cuda.runtime.getDevice())


@functools.cache
def device_name() -> str:
    """The current device's model, "NVIDIA H100 80GB HBM3"."""
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"]
    return name.decode() if isinstance(name, bytes) else name


def missing(least: tuple[int, int]) -> str | None:
    """Why no GPU can be used here; None if one of compute capability `least` or newer can."""
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "no CUDA GPU is visible; use backend numpy"
        capability = _capability(cupy.cuda.runtime.getDevice())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA cannot be used ({error}); update the NVIDIA driver, or use backend numpy"
    if capability < least:
        told = ".".join(map(str, capability))
        return f"the GPU has compute capability {told}, needs {least[0]}.{least[1]}; use numpy"
    return None


def activate() -> None:
    """Hand this driver to Triton. Raises: BackendError when CUDA cannot be opened."""
    try:
        cupy.cuda.runtime.free(0)  # makes the device's primary context current
        triton.runtime.driver.set_active(CupyDriver())
    except (OSError, RuntimeError) as error:
        raise BackendError(f"backend triton: cannot open the CUDA driver: {error}") from error


def empty(count: int) -> Any:
    """`count` float32 on the current device, content arbitrary."""
    return cupy.empty(count, "float32")
