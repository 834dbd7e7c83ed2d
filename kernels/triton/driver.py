"""Triton's CUDA driver on CuPy's terms: its device, its current stream, and no PyTorch.

Triton's own `CudaDriver` asks PyTorch for the current device and stream. This one asks CuPy, so a
launch joins the work of `with stream:` and is recorded by that stream's capture.
"""

from __future__ import annotations

import functools
import subprocess
from typing import Any

import triton
from triton.backends.nvidia import driver as nvidia

from .. import cuda
from ..errors import BackendError


class CupyDriver(nvidia.CudaDriver):
    """A CUDA driver whose device and stream are CuPy's current ones.

    What Triton's own timing asks for stays PyTorch's: torch.compile times its kernels by it, and
    the benchmarks run that in the same process.
    """

    def __init__(self) -> None:
        """Build Triton's launcher; the constructor above it in the line would import PyTorch."""
        self.utils = nvidia.CudaUtils()
        self.launcher_cls = nvidia.CudaLauncher
        runtime = cuda.cupy().cuda.runtime
        self.get_current_device = runtime.getDevice
        self.set_current_device = runtime.setDevice
        self.get_device_capability = cuda.capability
        self.get_current_stream = _stream

    @staticmethod
    def is_active() -> bool:
        """True: whoever makes one has found CuPy and a GPU."""
        return True


def _stream(device: int) -> int:
    return cuda.cupy().cuda.get_current_stream().ptr


def multiprocessors() -> int:
    """Multiprocessors of the current device: 132 on an H100, 108 on an A100."""
    return _told(cuda.cupy().cuda.runtime.getDevice())["multiProcessorCount"]


def capability() -> tuple[int, int]:
    """Compute capability of the current device: (9, 0) for an H100, (8, 0) for an A100."""
    told = _told(cuda.cupy().cuda.runtime.getDevice())
    return told["major"], told["minor"]


def device_name() -> str:
    """The current device's model, "NVIDIA H100 80GB HBM3"."""
    return _told(cuda.cupy().cuda.runtime.getDevice())["name"].decode()


@functools.cache
def _told(device: int) -> dict[str, Any]:
    return cuda.cupy().cuda.runtime.getDeviceProperties(device)


def activate() -> None:
    """Hand this driver to Triton. Raises: BackendError when CUDA cannot be opened."""
    try:
        cuda.cupy().cuda.runtime.free(0)  # makes the device's primary context current
        made = CupyDriver()
    except subprocess.CalledProcessError as error:
        raise BackendError(
            "backend triton: the C compiler cannot build Triton's way to the CUDA driver (its "
            "message stands above); install Python's headers (python3-dev), or set CC"
        ) from error
    except (OSError, RuntimeError, ImportError, AssertionError) as error:
        raise BackendError(f"backend triton: cannot open the CUDA driver: {error}") from error
    triton.runtime.driver.set_active(made)
