"""Guarded memory: arrays on a device with elements around them that nobody may touch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...engine.device import Device, numpy_dtype
from ...kernels import spec
from ...kernels.spec import grid

GUARD = 64  # elements before and behind every array that nobody may touch


def blank(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of values that no kernel gives: NaN, or 113."""
    is_float = dtype in spec.contract.FLOATS
    return np.full(shape, np.nan if is_float else 113, numpy_dtype(dtype))


@dataclass(frozen=True)
class Placed:
    """An array in device memory between guards, perhaps part of a buffer with more around it.

    `memory` is [GUARD + elements + GUARD], `before` what was in it; `shape` that of the buffer,
    `window` the array's part of it; `border` is where an output's buffer has zeros afterwards.
    """

    memory: Any
    view: Any
    before: np.ndarray
    shape: tuple[int, ...]
    window: tuple[Any, ...]
    border: np.ndarray | None

    def whole(self, memory: Any) -> Any:
        """The buffer in `memory` or in a copy of it."""
        return memory[GUARD : memory.shape[0] - GUARD].reshape(self.shape)


def place(host: np.ndarray, device: Device, *, written: bool) -> Placed:
    """Put an array on the device as it lies on the host, its pitch and its border included."""
    dtype, shape, window = str(host.dtype), host.shape, [slice(0, n) for n in host.shape]
    border = None
    if host.ndim == 4:
        lines, line, pitch = grid.grid(host)
        first = (pitch - host.shape[3]) // 2
        shape = (host.shape[0], lines, line, pitch)
        window[3] = slice(first, first + host.shape[3])
        border = np.zeros(shape, bool)
        border[..., window[3]] = True
        border[tuple(window)] = False
    before = blank((int(np.prod(shape)) + 2 * GUARD,), dtype)
    memory = device.empty(before.shape, dtype)
    placed = Placed(memory, None, before, shape, tuple(window), border if written else None)
    if not written:
        placed.whole(before)[placed.window] = host
        if border is not None:
            placed.whole(before)[border] = 0
    device.copy_from_host(memory, before)
    return replace(placed, view=placed.whole(memory)[placed.window])
