"""Optimizers: one call over the whole parameter arena; state lives in arenas of the same order."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import spec
from .arena import Layout, ParameterArena
from .device import Device
from .errors import unknown_name

OPTIMIZERS = ("sgd", "adamw")


class Optimizer:
    """Updates a parameter arena. `lr` and `step` live in device memory."""

    def __init__(
        self, name: str, arena: ParameterArena, *, weight_decay: float, momentum: float = 0.9,
        nesterov: bool = True,
    ) -> None:  # fmt: skip
        """Allocate the state of the optimizer called `name`. Raises: InputError."""
        if name not in OPTIMIZERS:
            raise unknown_name("optimizer", name, OPTIMIZERS)
        self.arena = arena
        device, size = arena.device, arena.trainable_until
        self._lr = device.zeros((1,), arena.dtype)
        self._step = device.zeros((1,), "int64")
        self._scale = device.zeros((1,), arena.dtype)
        self.op: spec.SGD | spec.AdamW
        if name == "sgd":
            self.op = spec.SGD(momentum, nesterov and momentum > 0, weight_decay)
            self.state = {"velocity": device.zeros((size,), arena.dtype)}
        else:
            self.op = spec.AdamW(weight_decay=weight_decay)
            self.state = {name: device.zeros((size,), arena.dtype) for name in ("first", "second")}

    @staticmethod
    def bytes(name: str, layout: Layout, device: Device) -> int:
        """Bytes that the optimizer called `name` takes beside arenas of that layout."""
        item = spec.ITEMSIZE[layout.dtype]
        states = {"sgd": 1, "adamw": 2}.get(name, 0)
        return states * device.aligned(layout.trainable_until * item) + 3 * device.aligned(8)

    def update(self, lr: float, step: int, grad_scale: float = 1.0) -> None:
        """One step with the gradients in the arena, which are `grad_scale` times too large.

        step counts the updates made before this one.
        """
        device = self.arena.device
        device.copy_from_host(self._lr, np.array([lr]))
        device.copy_from_host(self._step, np.array([step + 1]))
        device.copy_from_host(self._scale, np.array([grad_scale]))
        self.launch(self._lr, self._step, None if grad_scale == 1.0 else self._scale)

    def launch(self, lr: Any, step: Any, grad_scale: Any = None, skip: Any = None) -> None:
        """The same with the numbers in device memory, each [1]; `step` counts from 1.

        Nothing changes where `skip` is not 0.
        """
        arena, device = self.arena, self.arena.device
        end = arena.trainable_until
        w = arena.master[:end]
        low = None if arena.low is None else arena.low[:end]
        if isinstance(self.op, spec.SGD):
            device.function("sgd_update")(
                w, arena.gradients, self.state["velocity"], low, lr, op=self.op,
                decay_until=arena.decay_until, grad_scale=grad_scale, skip=skip,
            )  # fmt: skip
        else:
            device.function("adamw_update")(
                w, arena.gradients, self.state["first"], self.state["second"], low, lr,
                step, op=self.op, decay_until=arena.decay_until, grad_scale=grad_scale, skip=skip,
            )  # fmt: skip
