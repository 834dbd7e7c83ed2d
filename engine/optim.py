"""Optimizers: one call over the whole parameter arena; state lives in arenas of the same order.

Parameters that learn at paces of their own (`ir.Pace`) get one call for each pace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..kernels import spec
from .arena import Layout, ParameterArena, Stretch
from .device import Device
from .errors import InputError, unknown_name

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
        self.name, self.arena = name, arena
        device, size = arena.device, arena.trainable_until
        paces = max(1, len(arena.stretches))
        self._lr = device.zeros((paces,), arena.dtype)
        self._step = device.zeros((paces,), "int64")
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
        paces = max(1, len(layout.stretches))
        return (
            states * device.aligned(layout.trainable_until * item) + device.aligned(item)
            + device.aligned(paces * item) + device.aligned(paces * 8)
        )  # fmt: skip

    def load(self, state: Mapping[str, np.ndarray], source: str) -> None:
        """Fill the state arenas, as `state` has them. Raises: InputError when they do not fit."""
        wanted = {name: array.shape for name, array in self.state.items()}
        if {name: array.shape for name, array in state.items()} != wanted:
            raise InputError(f"{source} has no fitting state of the optimizer {self.name}")
        for name, array in self.state.items():
            self.arena.device.copy_from_host(array, state[name])

    def state_dict(self) -> dict[str, dict[str, np.ndarray]]:
        """Kind of state ("velocity") → trainable parameter → a copy on the host."""
        return {kind: {name: self.arena.device.to_host(view) for name, view in self._views(array)}
                for kind, array in self.state.items()}  # fmt: skip

    def carry_over(self, before: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take the state of another optimizer's parameters; those that it had not stay as new."""
        for kind, array in self.state.items():
            for name, view in self._views(array):
                if name in before[kind]:
                    self.arena.device.copy_from_host(view, before[kind][name])

    def _views(self, state: Any) -> Iterator[tuple[str, Any]]:
        for parameter in self.arena.parameters:
            if parameter.trainable:
                name = parameter.value.name
                yield name, self.arena.view(state, name)

    def update(self, lr: float, step: int, grad_scale: float = 1.0) -> None:
        """One step with the gradients in the arena, which are `grad_scale` times too large.

        step counts the updates made before this one.
        """
        device = self.arena.device
        paces = [p.pace for p in self.arena.stretches]
        device.copy_from_host(self._lr, np.array([lr * p.rate for p in paces]))
        device.copy_from_host(self._step, np.array([step + 1 - p.since for p in paces]))
        device.copy_from_host(self._scale, np.array([grad_scale]))
        self.launch(self._lr, self._step, None if grad_scale == 1.0 else self._scale)

    def launch(self, lr: Any, step: Any, grad_scale: Any = None, skip: Any = None) -> None:
        """The same with the numbers in device memory, one for each pace; `step` counts from 1.

        Nothing changes where `skip` is not 0.
        """
        for number, stretch in enumerate(self.arena.stretches):
            mine = slice(number, number + 1)
            self._launch(stretch, lr[mine], step[mine], grad_scale, skip)

    def _launch(self, stretch: Stretch, lr: Any, step: Any, grad_scale: Any, skip: Any) -> None:
        arena, device = self.arena, self.arena.device
        part = slice(stretch.start, stretch.end)
        w, g = arena.master[part], arena.gradients[part]
        low = None if arena.low is None else arena.low[part]
        state = [array[part] for array in self.state.values()]
        told: dict[str, Any] = {
            "op": self.op, "decay_until": stretch.decay_until - stretch.start,
            "grad_scale": grad_scale, "skip": skip,
        }  # fmt: skip
        if isinstance(self.op, spec.SGD):
            device.function("sgd_update")(w, g, *state, low, lr, **told)
        else:
            device.function("adamw_update")(w, g, *state, low, lr, step, **told)
