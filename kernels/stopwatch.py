"""How long a call keeps the GPU busy, by CUDA events on CuPy's current stream.

Before each call writes to a buffer larger than any L2 cache take the cache's content away and keep
the GPU busy while the call is being launched, so that the launch itself is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

from .cuda import cupy

COLD_BYTES = 256 * 2**20
WRITES = 4  # one takes an H100 0.1 ms, in which Python launches two or three kernels


class Stopwatch:
    """Measures calls, one at a time."""

    def __init__(self) -> None:
        """Allocate the buffer that empties the cache."""
        self._cold = cupy().empty(COLD_BYTES, "uint8")

    def __call__(self, call: Callable[[], object]) -> float:
        """Microseconds from the call's first work on the GPU to its last."""
        begun, ended = cupy().cuda.Event(), cupy().cuda.Event()
        for _ in range(WRITES):
            self._cold.fill(0)
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        return 1000 * cupy().cuda.get_elapsed_time(begun, ended)
