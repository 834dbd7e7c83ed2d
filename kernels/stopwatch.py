"""How long a call keeps the GPU busy, by CUDA events on CuPy's current stream.

Before each call a write to a buffer larger than any L2 cache takes the cache's content away and
keeps the GPU busy while the call is being launched, so that the launch itself is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

from .cuda import cupy

COLD_BYTES = 256 * 2**20


class Stopwatch:
    """Measures calls, one at a time."""

    def __init__(self) -> None:
        """Allocate the buffer that empties the cache."""
        self._cold = cupy().empty(COLD_BYTES, "uint8")

    def __call__(self, call: Callable[[], object]) -> float:
        """Microseconds from the call's first work on the GPU to its last."""
        begun, ended = cupy().cuda.Event(), cupy().cuda.Event()
        self._cold.fill(0)
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        return 1000 * cupy().cuda.get_elapsed_time(begun, ended)
