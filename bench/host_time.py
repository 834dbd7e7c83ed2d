"""The host's time for a training step on a GPU, which handing it over takes; the step's own apart.

As many steps as may be on their way are handed over one after the other, with nothing to wait for
and no result read, and then all are waited for. A batch that lies in the slots' pinned memory is
not written there again: how long that takes depends on the size of the images and is told apart.
"""

from __future__ import annotations

import gc
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.data import Batch

if TYPE_CHECKING:
    from .our_side import OurSide

WRITTEN, BARE = 3, 10  # rounds with a batch that is written, and with one that lies there


class Placed(Batch):
    """A batch that lies in the slots already: its labels are known, nothing is to be written."""

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What is left to write: nothing."""
        return {}


def host_time(side: OurSide) -> dict[str, float]:
    """Medians in seconds: `host_seconds` a step, and `host_batch_seconds` to write its batch."""
    told = side.batch
    placed = Placed(told.index, told.images, told.labels, told.ids)
    enabled = gc.isenabled()
    gc.disable()
    try:
        with side.device.session():
            written = median(_handed_over(side, told, WRITTEN))  # fills every slot
            bare = median(_handed_over(side, placed, BARE))
    finally:
        if enabled:
            gc.enable()
    return {"host_seconds": bare, "host_batch_seconds": max(written - bare, 0.0)}


def _handed_over(side: OurSide, batch: Batch, rounds: int) -> list[float]:
    """Seconds for each step of rounds of as many steps as may be on their way."""
    taken = []
    for _ in range(rounds):
        known: list[Any] = []
        for _ in range(side.device.slots):
            begun = time.perf_counter()
            known += side.hand_over(batch)
            taken.append(time.perf_counter() - begun)
        side.settle(known + side.steps.drain())
    return taken
