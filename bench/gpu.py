"""Timing on a GPU: CUDA events around graphs of many calls that rotate over buffers.

A graph of many calls takes the host out of the figure; what a launch costs the host without one is
told apart. To start a graph costs something too, and not the same on both sides: torch's replay
first fills two numbers of its random generator, on the GPU. So a graph lasts for `LEAST_SECONDS`
or more, and the GPU is kept busy while the host starts it. The calls go round a ring of buffers
that is twice as large as the L2 cache, so that no call finds its inputs there. Candidates take
turns, round after round, on one stream; results are medians with quartiles, in seconds a call.
Clocks are left as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.device import Device
from ..kernels import cuda
from .timing import FEWEST_ROUNDS, MOST_ROUNDS, Timing
from .work import Host, Work

LEAST_SECONDS = 0.005  # of one graph: what is not a call's own takes a few microseconds of it
MOST_CALLS = 4000  # of one graph
CALLS = 20  # one by one, at least
AHEAD = 4  # writes of a ring's size before a graph: on an H100 0.15 ms, in which the host starts it
ROTATE = 2  # the ring is that many times as large as the L2 cache
SHARE = 0.25  # of the free memory that one ring may take
WARM = 3  # replays before the first that counts

Replay = Callable[[], object]


@dataclass(frozen=True)
class Ring:
    """One way to do the work: a call for each set of buffers, and what makes a graph of calls."""

    name: str
    calls: Sequence[Callable[[], object]]
    capture: Callable[[Callable[[], None]], Replay]


@dataclass(frozen=True)
class Recorded:
    """`count` calls in a graph, or one after the other where `graph` is False."""

    replay: Replay
    count: int
    graph: bool


class OnDevice(Host):
    """A copy of a work's arrays in a device's memory, its images perhaps in a border of zeros."""

    def __init__(self, work: Work, device: Device, border: tuple[int, int] = (0, 0)) -> None:
        """Copy them there; `border`: rows below and columns to the right of each image."""
        self.device, self._border = device, border
        self._size = work.layer.x_shape(work.batch)[1:3]
        self._buffers: dict[int, Any] = {}  # of bordered arrays, by the identity of these
        given = {n: self.empty(array.shape, str(array.dtype)) for n, array in work.given.items()}
        for name, array in work.given.items():
            buffer = self._buffers.get(id(given[name]), given[name])
            whole = np.zeros(buffer.shape, array.dtype)
            whole[tuple(map(slice, array.shape))] = array
            device.copy_from_host(buffer, whole)
        super().__init__(given)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """An array with arbitrary content on the device."""
        if len(shape) != 4 or tuple(shape[1:3]) != self._size or not any(self._border):
            return self.device.empty(tuple(shape), dtype)
        n, h, w, c = shape
        buffer = self.device.empty((n, h + self._border[0], w + self._border[1], c), dtype)
        images = buffer[:, :h, :w]
        self._buffers[id(images)] = buffer
        return images

    def to_host(self, array: Any) -> np.ndarray:
        """A copy of one of its arrays as a NumPy array."""
        whole = self.device.to_host(self._buffers.get(id(array), array))
        return whole[tuple(map(slice, array.shape))]


def sets(moved: int, cache: int, free: int) -> int:
    """How many sets of buffers of `moved` bytes a ring has: past the cache, within the memory."""
    wanted = math.ceil(ROTATE * cache / max(moved, 1)) + 1
    return max(1, min(wanted, int(SHARE * free) // max(moved, 1)))


def release() -> None:
    """Give back what CuPy keeps of arrays that are gone: other libraries cannot ask it for that."""
    cuda.cupy().get_default_memory_pool().free_all_blocks()


class GpuTimer:
    """Times rings of calls on one GPU's compute stream."""

    def __init__(self, gpu: cuda.Gpu) -> None:
        """Make the events."""
        self.gpu = gpu
        events = cuda.cupy().cuda
        self._begun, self._ended = events.Event(), events.Event()
        self._elapsed = events.get_elapsed_time  # milliseconds
        self._cache: int = events.runtime.getDeviceProperties(gpu.index)["l2CacheSize"]
        self._ahead = gpu.empty((ROTATE * self._cache,), np.dtype(np.uint8))

    def sets_for(self, moved: int) -> int:
        """Sets of buffers for work that moves `moved` bytes a call."""
        return sets(moved, self._cache, self.gpu.memory()[0])

    def launch(self, ring: Ring) -> float:
        """Seconds in which the host hands one call to the GPU, without a graph: the median."""
        taken = []
        for _ in range(math.ceil(CALLS / len(ring.calls))):
            for call in ring.calls:
                begun = time.perf_counter()
                call()
                taken.append(time.perf_counter() - begun)
            self.gpu.compute.synchronize()
        return sorted(taken)[len(taken) // 2]

    def record(self, ring: Ring) -> Recorded:
        """A graph of the ring's calls; plain calls where this way cannot be captured."""
        made = self._record(ring, 1)
        if not made.graph:
            return self._record(ring, math.ceil(CALLS / len(ring.calls)))
        taken = min(self.seconds(made)[0] for _ in range(WARM)) * made.count
        if taken >= LEAST_SECONDS:
            return made
        wanted = min(made.count * LEAST_SECONDS / max(taken, 1e-9), MOST_CALLS)
        return self._record(ring, math.ceil(wanted / len(ring.calls)))

    def _record(self, ring: Ring, rounds: int) -> Recorded:
        kept: list[object] = [None] * len(ring.calls)  # results stay, so each has its own memory

        def run() -> None:
            for _ in range(rounds):
                for i, call in enumerate(ring.calls):
                    kept[i] = call()

        run()  # kernels load and algorithms are chosen outside the capture
        self.gpu.compute.synchronize()
        count = rounds * len(ring.calls)
        try:
            return Recorded(ring.capture(run), count, True)
        except (RuntimeError, *cuda.failures()):
            return Recorded(run, count, False)

    def seconds(self, recorded: Recorded) -> tuple[float, float]:
        """(seconds, processor seconds) a call of one replay."""
        for _ in range(AHEAD):
            self.gpu.fill(self._ahead, 0)
        cpu = time.process_time()
        self._begun.record(self.gpu.compute)
        recorded.replay()
        self._ended.record(self.gpu.compute)
        self._ended.synchronize()
        wall = self._elapsed(self._begun, self._ended) / 1e3
        return wall / recorded.count, (time.process_time() - cpu) / recorded.count

    def measure(
        self, rings: Sequence[Ring], *, seconds: float, rounds: int | None
    ) -> tuple[dict[str, Timing], dict[str, Any]]:
        """Name → timing; and launch times, and the ways that were timed without a graph."""
        launches = {ring.name: self.launch(ring) for ring in rings}
        recorded = {ring.name: self.record(ring) for ring in rings}
        estimates = {}
        for name, one in recorded.items():
            for _ in range(WARM):
                estimates[name] = self.seconds(one)[0] * one.count
        if rounds is None:
            fitting = int(seconds * len(rings) / max(sum(estimates.values()), 1e-9))
            rounds = min(max(fitting, FEWEST_ROUNDS), MOST_ROUNDS)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in recorded}
        names = list(recorded)
        for turn in range(rounds):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                samples[name].append(self.seconds(recorded[name]))
        timings = {n: Timing.of(taken, recorded[n].count) for n, taken in samples.items()}
        without = [name for name, one in recorded.items() if not one.graph]
        return timings, {"launch": launches, "without_graph": without}

    def capture(self, run: Callable[[], None]) -> Replay:
        """A graph of our launches."""
        graph = self.gpu.capture(run)
        return lambda: graph.launch(self.gpu.compute)
