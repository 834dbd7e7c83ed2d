"""Arenas: all parameters in one array, all gradients in another, in one order.

Order: trainable weights (weight decay applies), then other trainable parameters, then frozen
ones; every parameter starts at a multiple of 16 elements. So an update, an all-reduce or a
checkpoint is one operation on one contiguous array, and gradients exist for the front part only.
Parameters that learn at another pace lie in a stretch of their own, with an update of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels import spec
from . import files
from .device import Device
from .ir import Pace, Parameter, paces
from .ir import Value as GraphValue

ALIGNMENT = 16  # elements: a cache line of float32


@dataclass(frozen=True)
class Stretch:
    """Elements start … end of an arena that learn at one pace; weight decay until decay_until."""

    pace: Pace
    start: int
    decay_until: int
    end: int


class Layout:
    """Where each parameter lies in an arena; no memory yet."""

    def __init__(
        self, parameters: Sequence[Parameter], aside: frozenset[str] = frozenset()
    ) -> None:  # fmt: skip
        """Lay out `parameters`, but those whose names are in `aside`."""
        dtypes = {p.value.dtype for p in parameters}
        parameters = [p for p in parameters if p.value.name not in aside]
        self.parameters: tuple[Parameter, ...] = ()
        self.slots: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.size = 0
        self.stretches: list[Stretch] = []  # in the order of `ir.paces`
        trainable = [p for p in parameters if p.trainable]
        for pace in paces(parameters):
            start = self.size
            self._add(p for p in trainable if p.pace == pace and p.decay)
            decay_until = self.size
            self._add(p for p in trainable if p.pace == pace and not p.decay)
            self.stretches.append(Stretch(pace, start, decay_until, self.size))
        self.trainable_until = self.size
        self._add(p for p in parameters if not p.trainable)
        self.low_dtype = next((d for d in dtypes if d in ("float16", "bfloat16")), None)
        self.dtype = "float64" if "float64" in dtypes else "float32"

    def _add(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            value = parameter.value
            self.parameters += (parameter,)
            self.slots[value.name] = (self.size, value.shape)
            self.size += -(-math.prod(value.shape) // ALIGNMENT) * ALIGNMENT

    def bytes(self, device: Device, *, trains: bool = True) -> int:
        """Bytes of all arenas of this layout on a device, gradients only if it `trains`."""
        item = spec.ITEMSIZE[self.dtype]
        low = spec.ITEMSIZE[self.low_dtype] if self.low_dtype else 0
        sizes = (self.size * item, self.trainable_until * item * trains, self.size * low)
        return sum(map(device.aligned, sizes))


class ParameterArena:
    """Master parameters (float32 or float64), their 16-bit copy if needed, and their gradients.

    There are no gradients, and no memory for them, where nothing trains. Parameters that are put
    `aside` are on the host only: something else is computed from them when they are loaded.
    """

    def __init__(
        self, parameters: Sequence[Parameter], device: Device, *, trains: bool = True,
        aside: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """Lay out `parameters` and allocate on `device`; all start at zero."""
        self.layout = layout = Layout(parameters, aside)
        self.parameters, self._slots = layout.parameters, layout.slots
        self.stretches, self.trainable_until = layout.stretches, layout.trainable_until
        self.size, self.dtype, self.low_dtype = layout.size, layout.dtype, layout.low_dtype
        self.device = device
        self.master = device.zeros((self.size,), self.dtype)
        self.gradients = device.zeros((self.trainable_until * trains,), self.dtype)
        self.low = device.zeros((self.size,), self.low_dtype) if self.low_dtype else None
        self._aside = {
            p.value.name: np.zeros(p.value.shape, self.dtype)
            for p in parameters
            if p.value.name in aside
        }
        self._wanted: dict[str, np.ndarray] = {}  # what is aside and still wanted on the device

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, view of the master) for every parameter, in arena order, then what is aside."""
        for name in self._slots:
            yield name, self.view(self.master, name)
        yield from self._aside.items()

    def view(self, arena: np.ndarray, name: str) -> np.ndarray:
        """A parameter's part of an array in the order of the arena."""
        start, shape = self._slots[name]
        return arena[start : start + math.prod(shape)].reshape(shape)

    def host(self, name: str) -> np.ndarray:
        """The master of a parameter, on the host."""
        found = self._aside.get(name)
        return self.device.to_host(self.view(self.master, name)) if found is None else found

    def array(self, value: GraphValue) -> np.ndarray:
        """The memory that kernels read for a parameter: the master's, or its 16-bit copy's.

        Of one that is aside a copy is made, the first time that somebody asks.
        """
        if value.name in self._aside:
            if value.name not in self._wanted:
                self._wanted[value.name] = self.device.empty(value.shape, value.dtype)
                self._bring(value.name)
            return self._wanted[value.name]
        is_low = value.dtype == self.low_dtype and self.low is not None
        return self.view(self.low if is_low else self.master, value.name)  # type: ignore[arg-type]

    def _bring(self, name: str) -> None:
        self.device.copy_from_host(self._wanted[name], self._aside[name])

    def gradient(self, name: str) -> np.ndarray:
        """The gradient of a trainable parameter."""
        return self.view(self.gradients, name)

    def refresh_low(self) -> None:
        """Copy the master into the 16-bit copy (after initialisation or loading)."""
        if self.low is not None:
            self.device.function("cast")(self.master, self.low)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name → a copy on the host, in the order of the network."""
        kept = {name: np.array(array) for name, array in self._aside.items()}
        return {**{name: self.host(name) for name in self._slots}, **kept}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Fill every parameter from host arrays of the same names and shapes.

        What is aside stays where it is if it cannot change, in a mapped file.
        """
        for name in self._aside:
            array = np.asarray(arrays[name], self.dtype)
            self._aside[name] = array.copy() if array.flags.writeable else array
        for name in self._wanted:
            self._bring(name)
        for name in self._slots:
            host, view = arrays[name], self.view(self.master, name)
            for part in files.parts(view):
                self.device.copy_from_host(view[part], host[part])
                files.forget(host)
        self.refresh_low()
