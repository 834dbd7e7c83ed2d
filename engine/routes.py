"""The way of runs through a GPU's queues: what one run reads goes in, what it found comes out.

A run is handed over in one go and nobody waits: host → slot on the copy stream, while the run
before works, and slot → block of feeds, the run itself and results → host on the compute stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import cuda
from .device import Device
from .gpu import CudaDevice
from .runner import Feeds, Plan

Copy = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Route:
    """How the feeds of one plan get in by way of one slot, and its results out.

    A slot is memory for one run on its way: pinned on the host, and on the device, where feeds
    wait until the run before is done with the plan's block.
    """

    gpu: cuda.Gpu
    feeds: Feeds
    views: dict[str, np.ndarray]  # the arrays of the feeds, pinned on the host
    results: list[np.ndarray]  # pinned
    arrive: Copy  # the feeds, into the slot
    enter: Copy  # from the slot into the plan's block
    leave: tuple[Copy, ...]  # the results, from the device
    arrived: Any  # event: the feeds are in the slot
    done: Any  # event: the results are here, and the slot is free again

    def hand_over(self, run: Callable[[], None]) -> None:
        """Put `run` on the compute stream, fed with what is in `views`."""
        self.arrive()
        self.arrived.record(self.gpu.copies)
        self.gpu.compute.wait_event(self.arrived)
        self.enter()
        run()
        for leave in self.leave:
            leave()
        self.done.record(self.gpu.compute)


def make_routes(device: CudaDevice, results: Mapping[Plan, tuple[Any, ...]]) -> dict[Plan, Route]:
    """A new slot, and the routes of some plans through it; `results`: what each brings out."""
    gpu = device.gpu
    size = max(plan.feeds.size for plan in results)
    host, there = gpu.pinned(size), device.empty((size,), "uint8")
    pinned = gpu.pinned(max(sum(array.nbytes for array in told) for told in results.values()))
    arrived, done = gpu.event(), gpu.event()
    routes = {}
    for plan, found in results.items():
        mine, slot = host[: plan.feeds.size], there[: plan.feeds.size]
        read = _side_by_side(pinned, found)
        routes[plan] = Route(
            gpu, plan.feeds, plan.feeds.views_to_write(mine), read,
            gpu.transfer(slot, mine, gpu.copies), gpu.transfer(plan.block, slot),
            tuple(map(gpu.transfer, read, found)), arrived, done,
        )  # fmt: skip
    return routes


def slot_bytes(device: Device, feeds: Iterable[int]) -> int:
    """Bytes of a slot on the device, for plans whose blocks of feeds have such sizes."""
    return device.aligned(max(feeds, default=0))


def _side_by_side(block: np.ndarray, arrays: Iterable[Any]) -> list[np.ndarray]:
    """Host arrays like `arrays`, one after another in `block`."""
    found, start = [], 0
    for array in arrays:
        part = block[start : start + array.nbytes]
        found.append(part.view(array.dtype).reshape(array.shape))
        start += array.nbytes
    return found
