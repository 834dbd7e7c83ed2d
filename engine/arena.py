"""Arenas: all parameters in one array, all gradients in another, in one order.

Order: trainable weights (weight decay applies), then other trainable parameters, then frozen
ones; every parameter starts at a multiple of 16 elements. So an update, an all-reduce or a
checkpoint is one operation on one contiguous array, and gradients exist for the front part only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..kernels import spec
from . import files
from .device import Device
from .ir import Parameter
from .ir import Value as GraphValue

ALIGNMENT = 16  # elements: a cache line of float32


class Layout:
    """Where each parameter lies in an arena; no memory yet."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        """Lay out `parameters`."""
        groups = [
            [p for p in parameters if p.trainable and p.decay],
            [p for p in parameters if p.trainable and not p.decay],
            [p for p in parameters if not p.trainable],
        ]
        self.parameters = tuple(p for group in groups for p in group)
        self.slots: dict[str, tuple[int, tuple[int, ...]]] = {}
        ends, end = [], 0
        for group in groups:
            for parameter in group:
                value = parameter.value
                self.slots[value.name] = (end, value.shape)
                end += -(-math.prod(value.shape) // ALIGNMENT) * ALIGNMENT
            ends.append(end)
        self.decay_until, self.trainable_until, self.size = ends
        dtypes = {p.value.dtype for p in parameters}
        self.low_dtype = next((d for d in dtypes if d in ("float16", "bfloat16")), None)
        self.dtype = "float64" if "float64" in dtypes else "float32"

    def bytes(self, device: Device, *, trains: bool = True) -> int:
        """Bytes of all arenas of this layout on a device, gradients only if it `trains`."""
        item = spec.ITEMSIZE[self.dtype]
        low = spec.ITEMSIZE[self.low_dtype] if self.low_dtype else 0
        sizes = (self.size * item, self.trainable_until * item * trains, self.size * low)
        return sum(map(device.aligned, sizes))


class ParameterArena:
    """Master parameters (float32 or float64), their 16-bit copy if needed, and their gradients.

    There are no gradients, and no memory for them, where nothing trains.
    """

    def __init__(
        self, parameters: Sequence[Parameter], device: Device, *, trains: bool = True
    ) -> None:
        """Lay out `parameters` and allocate on `device`; all start at zero."""
        self.layout = layout = Layout(parameters)
        self.parameters, self._slots = layout.parameters, layout.slots
        self.decay_until, self.trainable_until = layout.decay_until, layout.trainable_until
        self.size, self.dtype, self.low_dtype = layout.size, layout.dtype, layout.low_dtype
        self.device = device
        self.master = device.zeros((self.size,), self.dtype)
        self.gradients = device.zeros((self.trainable_until * trains,), self.dtype)
        self.low = device.zeros((self.size,), self.low_dtype) if self.low_dtype else None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, view of the master) for every parameter, in arena order."""
        for name in self._slots:
            yield name, self._view(self.master, name)

    def _view(self, arena: np.ndarray, name: str) -> np.ndarray:
        start, shape = self._slots[name]
        return arena[start : start + math.prod(shape)].reshape(shape)

    def master_of(self, name: str) -> np.ndarray:
        """The master of a parameter."""
        return self._view(self.master, name)

    def array(self, value: GraphValue) -> np.ndarray:
        """The memory that kernels read for a parameter: the master's, or its 16-bit copy's."""
        is_low = value.dtype == self.low_dtype and self.low is not None
        return self._view(self.low if is_low else self.master, value.name)  # type: ignore[arg-type]

    def gradient(self, name: str) -> np.ndarray:
        """The gradient of a trainable parameter."""
        return self._view(self.gradients, name)

    def refresh_low(self) -> None:
        """Copy the master into the 16-bit copy (after initialisation or loading)."""
        if self.low is not None:
            self.device.function("cast")(self.master, self.low)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name → a copy on the host, in the order of the network."""
        return {name: self.device.to_host(view) for name, view in self}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Fill every parameter from host arrays of the same names and shapes."""
        for name, view in self:
            host = arrays[name]
            for part in files.parts(view):
                self.device.copy_from_host(view[part], host[part])
                files.forget(host)
        self.refresh_low()
