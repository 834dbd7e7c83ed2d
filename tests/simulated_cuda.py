"""A simulated CUDA device under the part of CuPy's interface that the engine uses.

Work is queued on streams and runs late: only when somebody waits, and then in an order that no
event forbids, drawn from a seed. So a missing wait, a staging buffer filled again too early or a
result read too early gives wrong numbers, as it may on a real device. A graph is the list of what
was queued during its capture. Memory is the host's; `allocations` and `log` say what happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cnnengine.kernels import cuda, registry

PROPERTIES = {"name": b"Simulated GPU", "major": 9, "minor": 0, "multiProcessorCount": 132}


class CUDARuntimeError(RuntimeError):
    """As CuPy's: a status and its text."""

    def __init__(self, text: str, status: int = 700) -> None:
        super().__init__(text)
        self.status = status


class CUDADriverError(RuntimeError):
    """As CuPy's."""


NO_DEVICE = CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected", 100)


class Freed:
    """What CuPy frees when Python lets go of it; a lost device refuses, and Python prints that."""

    device: Device

    def __del__(self) -> None:
        if self.device.lost is not None:
            raise self.device.lost


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class Array(np.ndarray):
    """Memory of the simulated device: host memory that says it is not."""

    __cuda_array_interface__ = True

    @property
    def data(self) -> Any:  # CuPy's pointer, where NumPy has a buffer
        return SimpleNamespace(ptr=self.ctypes.data)

    def __array_function__(self, *_: Any) -> Any:
        raise TypeError("NumPy's functions do not take device arrays")


class Event(Freed):
    """Done when the work in front of its latest record is done."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.recorded = 0  # how often; each record is a point of its own
        self.reached = 0

    def record(self, stream: Stream) -> None:
        self.recorded += 1
        point = self.recorded
        stream.enqueue("record", lambda: setattr(self, "reached", max(self.reached, point)))

    @property
    def done(self) -> bool:
        """Whether it is reached; a moment passes with every question, in which work goes on.

        Never on a lost device: CuPy's is False for every error.
        """
        assert self.device.current.captured is None, "asked during a capture"
        try:
            self.device.check()
        except (CUDARuntimeError, CUDADriverError):
            return False
        for stream in self.device.streams:
            for _ in range(self.device.random.randrange(200)):
                if not stream.queue or not self.device.one(stream):
                    break
        return self.reached >= self.recorded

    def synchronize(self) -> None:
        self.device.work_until(lambda: self.reached >= self.recorded)


class Stream(Freed):
    """A queue of work."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.queue: list[tuple[str, Callable[[], Any]]] = []
        self.captured: list[tuple[str, Callable[[], Any]]] | None = None
        device.streams.append(self)
        self.ptr = len(device.streams)
        self.device_id = 0

    def use(self) -> Stream:
        self.device.current = self
        return self

    def enqueue(self, what: str, work: Callable[[], Any]) -> None:
        self.device.check()
        if self.captured is not None:
            self.captured.append((what, work))
        else:
            self.queue.append((what, work))

    def wait_event(self, event: Event) -> None:
        point = event.recorded
        self.enqueue("wait", lambda: event.reached >= point)

    def synchronize(self) -> None:
        assert self.captured is None, "a capture may not wait"
        self.device.work_until(lambda: not self.queue)

    def begin_capture(self, mode: int) -> None:
        assert self.captured is None
        self.captured = []

    def end_capture(self) -> Graph:
        assert self.captured is not None
        graph, self.captured = Graph(self.device, self.captured), None
        self.device.log.append(f"captured {len(graph.work)}")
        return graph


class Graph(Freed):
    """What was queued during a capture."""

    def __init__(self, device: Device, work: list[tuple[str, Callable[[], Any]]]) -> None:
        self.device, self.work = device, work

    def launch(self, stream: Stream) -> None:
        stream.device.log.append("replay")
        for what, work in self.work:
            stream.enqueue(what, work)


class Device:
    """The whole simulated device, and the module that stands for CuPy (`module`)."""

    def __init__(self, seed: int = 0, memory: int = 1 << 30) -> None:
        self.random = random.Random(seed)
        self.memory, self.used = memory, 0
        self.pooled = 0  # of `used`, what nobody uses any more and CuPy keeps
        self.allocations: list[int] = []
        self.pinned: list[tuple[int, int]] = []  # address ranges
        self.kept: list[Any] = []  # all memory: queued work knows it by its address only
        self.log: list[str] = []
        self.moved: Counter[str] = Counter()  # bytes copied, by direction
        self.streams: list[Stream] = []
        self.error: Exception | None = None  # once set, every call fails with it
        self.lost: Exception | None = None  # the error with which a call has failed
        self.count, self.driver, self.built = 1, 12080, 12080
        self.properties: dict[str, Any] = dict(PROPERTIES)
        self.first: dict[str, Any] | None = None  # of GPU 0, if it is another model
        self.index = 0  # of the current GPU
        self.current = Stream(self)
        self.module = self._module()

    def properties_of(self, index: int) -> dict[str, Any]:
        return self.properties if index or self.first is None else self.first

    def check(self) -> None:
        if self.error is not None:
            if isinstance(self.error, (CUDARuntimeError, CUDADriverError)):
                self.lost = self.error
            raise self.error

    def work_until(self, finished: Callable[[], bool]) -> None:
        """Run queued work, each stream in order, the streams interleaved at random."""
        self.check()
        while not finished():
            ready = [s for s in self.streams if s.queue]
            self.random.shuffle(ready)
            assert any(self.one(stream) for stream in ready), "the streams wait for each other"
        self.check()

    def one(self, stream: Stream) -> bool:
        """Do the first piece of work of a stream; False if it waits for another stream."""
        what, work = stream.queue[0]
        if what == "wait" and not work():
            return False
        if what != "wait":
            work()
        if what not in ("wait", "record"):
            self.log.append(what)
        stream.queue.pop(0)
        return True

    def launch(self, name: str, work: Callable[[], None]) -> None:
        """Queue a kernel on the current stream."""
        self.current.enqueue(name, work)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        self.check()
        assert self.current.captured is None, "allocated during a capture"
        array = np.empty(shape, dtype)
        if self.used + array.nbytes > self.memory:
            raise OutOfMemoryError(f"out of memory allocating {array.nbytes} bytes")
        self.used += array.nbytes
        self.allocations.append(array.nbytes)
        array.reshape(-1).view(np.uint8)[:] = 0xFF  # NaN in every float type
        self.kept.append(array)
        return array.view(Array)

    def free_all_blocks(self) -> None:
        self.used -= self.pooled
        self.pooled = 0

    def _copy(self, out: int, source: int, size: int, kind: int, stream: int) -> None:
        queue = self.streams[stream - 1]
        name = ("", "host to device", "device to host", "device to device")[kind]
        values = _bytes(source, size)
        pinned = kind == 3 or self._is_pinned(source if kind == 1 else out)
        assert queue.captured is None or pinned, "memory that is not pinned, in a capture"
        if kind == 1 and not self._is_pinned(source) and self.random.random() < 0.5:
            values = values.copy()  # CUDA may take it into memory of its own first

        def work() -> None:
            self.moved[name] += size
            _bytes(out, size)[:] = values

        queue.enqueue(name, work)
        if kind == 2 and not self._is_pinned(out):
            queue.synchronize()

    def _is_pinned(self, address: int) -> bool:
        return any(start <= address < end for start, end in self.pinned)

    def alloc_pinned_memory(self, size: int) -> bytearray:
        self.check()
        assert self.current.captured is None, "allocated during a capture"
        self.allocations.append(size)
        memory = bytearray(size)
        self.kept.append(memory)
        start = np.frombuffer(memory, np.uint8).ctypes.data
        self.pinned.append((start, start + size))
        return memory

    def _module(self) -> Any:
        def count() -> int:
            self.check()
            if self.count == 0:
                raise NO_DEVICE
            return self.count

        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            driverGetVersion=lambda: self.driver,
            runtimeGetVersion=lambda: self.built,
            getDeviceCount=count,
            getDevice=lambda: self.index,
            getDeviceProperties=self.properties_of,
            deviceGetPCIBusId=lambda index: f"0000:3{index}:00.0",
            memGetInfo=lambda: (self.memory - self.used, self.memory),
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3,
            streamCaptureModeThreadLocal=1,
            memcpyAsync=self._copy,
            memsetAsync=lambda out, byte, size, stream: self.streams[stream - 1].enqueue(
                "fill", lambda: _bytes(out, size).fill(byte)
            ),
        )
        return SimpleNamespace(
            empty=self.empty,
            get_default_memory_pool=lambda: SimpleNamespace(
                free_bytes=lambda: self.pooled, free_all_blocks=self.free_all_blocks
            ),
            cuda=SimpleNamespace(
                runtime=runtime,
                driver=SimpleNamespace(CUDADriverError=CUDADriverError),
                nvrtc=SimpleNamespace(getVersion=lambda: (12, 8)),
                memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
                Device=lambda index: SimpleNamespace(use=lambda: setattr(self, "index", index)),
                Stream=lambda non_blocking: Stream(self),
                Event=lambda disable_timing: Event(self),
                alloc_pinned_memory=self.alloc_pinned_memory,
                get_current_stream=lambda: self.current,
            ),
        )


def _bytes(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Backend:
    """The NumPy backend, its kernels queued on the simulated device's current stream."""

    def __init__(self, device: Device) -> None:
        self.name = "simulated"
        self.device = device
        self.numpy = registry.load("numpy")
        self.supports, self.choose = self.numpy.supports, self.numpy.choose
        self.prepare = self.numpy.prepare
        self.borders = False

    def session(self) -> Any:
        return contextlib.nullcontext()

    def pretended(self, processors: int) -> Any:
        return contextlib.nullcontext()

    def function(self, name: str) -> Callable[..., None]:
        function = self.numpy.function(name)

        def host(value: Any) -> Any:
            if isinstance(value, (tuple, list)) and value and isinstance(value[0], np.ndarray):
                return [host(v) for v in value]
            if isinstance(value, np.ndarray):
                assert isinstance(value, Array), f"{name}: an argument lies on the host"
                return value.view(np.ndarray)
            return value

        def launched(*args: Any, **kwargs: Any) -> None:
            plain = [host(a) for a in args], {k: host(v) for k, v in kwargs.items()}
            self.device.launch(name, lambda: function.unchecked(*plain[0], **plain[1]))  # type: ignore[attr-defined]

        launched.unchecked = launched  # type: ignore[attr-defined]
        return launched


def install(monkeypatch: Any, **made: Any) -> Device:
    """A simulated device in the place of CuPy, and a backend on it called "simulated"."""
    device = Device(**made)
    monkeypatch.setattr(device, "lost", None)  # what a test leaves is freed later, in silence
    for hook in ("unraisablehook", "excepthook"):  # `cuda.quieten` sets them for its process
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setitem(sys.modules, "cupy", device.module)
    monkeypatch.setattr(cuda, "has_driver", lambda: True)
    load, missing, backend = registry.load, registry.missing, Backend(device)
    monkeypatch.setattr(registry, "load", lambda n: backend if n == backend.name else load(n))
    monkeypatch.setattr(registry, "missing", lambda n: None if n == backend.name else missing(n))
    return device
