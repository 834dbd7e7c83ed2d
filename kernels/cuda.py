"""Device services for the GPU backends and the engine, on CuPy: memory, copies, streams, graphs.

    if (reason := missing(0)) is None:
        gpu = Gpu(0)
        gpu.copy(array, host)                     # on its compute stream, in order with launches
        graph = gpu.capture(lambda: step())       # nothing runs; later graph.launch(gpu.compute)

All of CuPy that is used here comes through `cupy()`, so tests can put a simulated device behind it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arrays import on_host
from .errors import BackendError
from .spec.contract import address

OUT_OF_MEMORY = 2  # CUDA's status
NO_DEVICE = 100  # the same, also where CUDA_VISIBLE_DEVICES hides every GPU
LEAST_CAPABILITY = (8, 0)  # of the GPU: the first with bfloat16 and asynchronous copies
EXTRA = "pip install 'cnnengine[cuda12]' (or [cuda13], for a driver that runs CUDA 13)"


def cupy() -> Any:
    """CuPy. Raises: ImportError when it is not installed or does not fit this machine."""
    return importlib.import_module("cupy")


def has_driver() -> bool:
    """Whether NVIDIA's driver can be loaded."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def missing(index: int | None = None, least: tuple[int, int] = LEAST_CAPABILITY) -> str | None:
    """Why GPU `index` (None: the current one) cannot be used and what mends it; None if it can.

    `least` is the compute capability that the kernels need.
    """
    if not has_driver():
        return "no NVIDIA driver (libcuda.so.1 cannot be loaded); install one"
    try:
        runtime = cupy().cuda.runtime
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            return f"CuPy cannot be loaded ({error}); {EXTRA}"
        return f"CuPy is not installed; {EXTRA}"
    except ImportError as error:
        told = next(iter(str(error).split("\n")), "").strip()
        return f"CuPy cannot be loaded ({told}); {EXTRA}"
    try:
        driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver // 1000 < built // 1000:
            return (
                f"the NVIDIA driver runs CUDA up to {_version(driver)}, this CuPy is made for CUDA "
                f"{_version(built)}; update the driver, or {EXTRA}"
            )
        count = runtime.getDeviceCount()
        if index is not None and index >= count:
            told = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            return f"there is no GPU {index}; name one that is here: {told}"
        told = runtime.getDeviceProperties(runtime.getDevice() if index is None else index)
    except runtime.CUDARuntimeError as error:
        if error.status == NO_DEVICE:
            return "no CUDA GPU is visible; look at CUDA_VISIBLE_DEVICES"
        return f"CUDA cannot be used ({error}); update the NVIDIA driver"
    capability = (told["major"], told["minor"])
    if capability < least:
        name = told["name"].decode()
        here, needed = (".".join(map(str, c)) for c in (capability, least))
        return f"{name} has compute capability {here}; take a GPU with {needed} or newer"
    return None


def current() -> int | None:
    """The number of the current GPU; None where CUDA cannot be asked."""
    try:
        return cupy().cuda.runtime.getDevice() if has_driver() else None
    except (ImportError, RuntimeError):
        return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def capability(index: int) -> tuple[int, int]:
    """Compute capability of a device, like (9, 0)."""
    told = cupy().cuda.runtime.getDeviceProperties(index)
    return told["major"], told["minor"]


def floats(count: int) -> Any:
    """`count` float32 on the current device, content arbitrary."""
    return cupy().empty(count, "float32")


def failures() -> tuple[type[Exception], ...]:
    """The errors by which CUDA says that the device or the work on it has failed."""
    cuda = cupy().cuda
    return cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError


def out_of_memory() -> type[Exception]:
    """The error of a GPU that has not so much memory left."""
    return cupy().cuda.memory.OutOfMemoryError


def quieten() -> None:
    """Print no longer that CUDA refuses to free what is left on a GPU that is lost.

    CuPy frees events, streams and graphs when Python lets go of them, and each refusal is printed
    with a traceback, by `sys.unraisablehook` or, from compiled code, by `sys.excepthook`.
    """
    lost, unraisable, uncaught = failures(), sys.unraisablehook, sys.excepthook

    def unraisable_hook(told: Any) -> None:
        if not isinstance(told.exc_value, lost):
            unraisable(told)

    def uncaught_hook(kind: Any, error: BaseException, trace: Any) -> None:
        ours = trace is not None and not trace.tb_frame.f_code.co_filename.endswith(".pyx")
        if ours or not isinstance(error, lost):
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = unraisable_hook, uncaught_hook


class Gpu:
    """One GPU with two streams: `compute` for kernels, `copies` for what may overlap with them.

    Neither waits for CUDA's default stream, nor does that wait for them.
    """

    def __init__(self, index: int) -> None:
        """Open GPU `index` and make its compute stream the current one.

        Raises: BackendError when CUDA cannot open it.
        """
        cp = cupy()
        self.index = index
        try:
            cp.cuda.Device(index).use()
            told = cp.cuda.runtime.getDeviceProperties(index)
            self.compute = cp.cuda.Stream(non_blocking=True)
            self.copies = cp.cuda.Stream(non_blocking=True)
        except cp.cuda.runtime.CUDARuntimeError as error:
            quieten()
            raise BackendError(f"GPU {index} cannot be opened: {error}") from error
        self.name: str = told["name"].decode()
        self.capability: tuple[int, int] = told["major"], told["minor"]
        self.use()

    def use(self) -> None:
        """Make this GPU and its compute stream the current ones of this thread."""
        cupy().cuda.Device(self.index).use()
        self.compute.use()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device's memory; free is also what CuPy keeps for later."""
        free, total = cupy().cuda.runtime.memGetInfo()
        return free + cupy().get_default_memory_pool().free_bytes(), total

    def bus(self) -> str:
        """Where the GPU sits, like "0000:3B:00.0": the driver's tools count GPUs otherwise."""
        return cupy().cuda.runtime.deviceGetPCIBusId(self.index)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """A new array on the device, content arbitrary. Raises: MemoryError."""
        return cupy().empty(tuple(shape), dtype)

    def pinned(self, size: int) -> np.ndarray:
        """uint8 [size] on the host, page-locked: copies from and to it run beside other work.

        Raises: BackendError when the machine has not so much memory to lock.
        """
        try:
            memory = cupy().cuda.alloc_pinned_memory(max(1, size))
        except cupy().cuda.runtime.CUDARuntimeError as error:
            if error.status != OUT_OF_MEMORY:
                raise
            raise BackendError(
                f"{size:,} bytes of the machine's own memory cannot be locked for copies to the "
                f"GPU ({error}); end what else runs on the machine, or use a smaller --batch-size"
            ) from error
        return np.frombuffer(memory, np.uint8, size)

    def event(self) -> Any:
        """A mark that streams record and wait for; it keeps no time."""
        return cupy().cuda.Event(disable_timing=True)

    def copy(self, out: Any, source: Any, stream: Any = None) -> None:
        """Start a copy between contiguous arrays of equal bytes, host or device, on a stream.

        None is the compute stream. The source stays as it is, and host memory alive, until the
        stream has come so far: CUDA waits for memory that is not pinned on most machines only.
        """
        self.transfer(out, source, stream)()

    def transfer(self, out: Any, source: Any, stream: Any = None) -> Callable[[], None]:
        """What starts such a copy, as often as it is called: addresses are looked up only here.

        It keeps both arrays alive.
        """
        assert out.nbytes == source.nbytes, "copies keep their size"
        if source.nbytes == 0:
            return lambda: None
        runtime = cupy().cuda.runtime
        to_host, from_host = on_host(out), on_host(source)
        kind = runtime.memcpyDeviceToDevice
        if to_host or from_host:
            kind = runtime.memcpyDeviceToHost if to_host else runtime.memcpyHostToDevice
        queue = (stream or self.compute).ptr
        start = functools.partial(
            runtime.memcpyAsync, address(out), address(source), source.nbytes, kind, queue
        )
        start.arrays = out, source  # type: ignore[attr-defined]
        return start

    def fill(self, array: Any, byte: int) -> None:
        """Set every byte of a contiguous array, on the compute stream."""
        if array.nbytes:
            runtime = cupy().cuda.runtime
            runtime.memsetAsync(address(array), byte, array.nbytes, self.compute.ptr)

    def capture(self, run: Callable[[], None]) -> Any:
        """A graph of all that `run` launches on the compute stream; nothing of it runs now.

        Every kernel must have run once before: loading one cannot be captured.
        """
        mode = cupy().cuda.runtime.streamCaptureModeThreadLocal
        self.compute.begin_capture(mode)
        try:
            run()
        except BaseException:
            with contextlib.suppress(*failures()):  # that the capture is broken says less
                self.compute.end_capture()
            raise
        return self.compute.end_capture()
