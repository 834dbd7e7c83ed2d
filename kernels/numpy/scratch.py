"""The scratch memory of a call: flat arrays cut out of the caller's workspace, one set a thread."""

from __future__ import annotations

from typing import Any

import numpy as np

ALIGN = 64  # bytes of a cache line; arrays across two lines an element take twice as long


class Scratch:
    """One array that all threads share, and a list of arrays of each thread's own."""

    def __init__(
        self, shared: int, own: tuple[int, ...], workers: int, dtype: str, workspace: Any | None
    ) -> None:
        """Cut up `workspace` (uint8, of `scratch_bytes`); None: allocated for this one call.

        shared and own are numbers of elements of `dtype`.
        """
        if workspace is None:
            workspace = np.empty(scratch_bytes(shared, own, workers, dtype), np.uint8)
        self._own, self._workers, self._dtype = own, workers, dtype
        self.shared, *self._parts = _carve(workspace, (shared, *own * workers), dtype)

    def of(self, worker: int) -> list[Any]:
        """The worker's arrays; newly allocated if there are more threads than were planned."""
        size = len(self._own)
        if worker < self._workers:
            return self._parts[size * worker : size * (worker + 1)]
        memory = np.empty(scratch_bytes(0, self._own, 1, self._dtype), np.uint8)
        return _carve(memory, self._own, self._dtype)


def scratch_bytes(shared: int, own: tuple[int, ...], workers: int, dtype: str) -> int:
    """The workspace that `Scratch` needs, wherever it begins."""
    size = np.dtype(dtype).itemsize
    return ALIGN + sum(_aligned(count * size) for count in (shared, *own * workers))


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _carve(memory: Any, elements: tuple[int, ...], dtype: str) -> list[Any]:
    offset, parts = -memory.ctypes.data % ALIGN, []
    for count in elements:
        size = count * np.dtype(dtype).itemsize
        parts.append(memory[offset : offset + size].view(dtype))
        offset += _aligned(size)
    return parts
