"""Loss scaling on the device (float16): who overflowed is found and decided without the host.

A step multiplies its loss by the scale. Afterwards the gradients are looked at; the update divides
by the scale, or leaves everything as it is after an overflow, and the scale of the next step is
set. The host reads later what was decided. See `kernels/spec/update.py:loss_scale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import spec
from .arena import ParameterArena
from .device import Device

GROWTH_STEPS = 2000  # steps in a row without overflow before the loss scale doubles
PARTS = 256  # of the gradients, looked at side by side: two for each of an H100's multiprocessors
OP = spec.LossScale(GROWTH_STEPS)


class LossScaling:
    """The scale, the steps without overflow, and the verdict on the latest step, each [1]."""

    def __init__(self, arena: ParameterArena) -> None:
        """Allocate beside an arena whose gradients are to be looked at."""
        self.arena = arena
        device = arena.device
        self.scale = device.zeros((1,), arena.dtype)
        self.good = device.zeros((1,), "int32")
        self.divisor = device.zeros((1,), arena.dtype)  # of the step's gradients
        self.skip = device.zeros((1,), "int32")
        self._flags = device.zeros((PARTS,), "int32")

    @staticmethod
    def bytes(device: Device) -> int:
        """Bytes that it takes on a device."""
        return 4 * device.aligned(4) + device.aligned(4 * PARTS)

    def set(self, scale: float, good: int) -> None:
        """Go on from a scale and a number of steps without overflow."""
        self.arena.device.copy_from_host(self.scale, np.array([scale]))
        self.arena.device.copy_from_host(self.good, np.array([good]))

    def decide(self) -> tuple[Any, Any]:
        """Look at the gradients of a step and set the scale of the next; (divisor, skip)."""
        function = self.arena.device.function
        function("non_finite")(self.arena.gradients, self._flags)
        function("loss_scale")(self._flags, self.scale, self.good, self.divisor, self.skip, op=OP)
        return self.divisor, self.skip
