"""What this machine can do at most, measured here, and which share of it a kernel reaches.

Two ceilings (Williams, Waterman & Patterson 2009): the rate of a copy in memory (bytes read plus
bytes written a second) and the rate of a large matrix product. A kernel that moves `bytes` and
computes `flops` cannot take less than the longer of bytes / copy and flops / gemm: its floor. The
share of the roofline is floor / time. An algorithm that multiplies less than the definition
(Winograd) may pass 1, and so may data that a cache holds.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..kernels.numpy import threads

COPY_BYTES = 1 << 26  # of one array: larger than the caches
GEMM_SIZE = 1024  # rows, columns and depth
GPU_COPY_BYTES, GPU_GEMM_SIZE = 1 << 29, 8192
REPEATS = 12


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second of a copy, and FLOP/s of a matrix product by type or precision."""

    copy: float
    gemm: dict[str, float]

    def floor(self, flops: int, moved: int, kind: str) -> float | None:
        """Seconds below which no kernel of this type can be; None if its product has no rate."""
        if flops == 0:
            return moved / self.copy
        rate = self.gemm.get(kind)
        return None if rate is None else max(flops / rate, moved / self.copy)

    def told(self) -> dict[str, Any]:
        """As it is kept in a result."""
        return {"copy": self.copy, "gemm": dict(self.gemm)}


def _best(call: Callable[[], object]) -> float:
    """The least seconds of a few calls, the first of which does not count."""
    call()
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def measure_host() -> Ceilings:
    """The CPU's ceilings on as many threads as the kernels use; a float32 product by NumPy's BLAS.

    The best of a few calls: a ceiling that other work has lowered would be no ceiling.
    """
    count = threads.get_threads()
    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)
    size = -(-source.size // count)

    def copy(chunk: int, _: int) -> None:
        part = slice(chunk * size, (chunk + 1) * size)
        np.copyto(target[part], source[part])

    seconds = _best(lambda: threads.parallel(count, copy))
    square = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    out = np.empty_like(square)
    with threadpool_limits(count, "blas"):
        product = _best(lambda: np.matmul(square, square, out))
    flops = 2 * GEMM_SIZE**3
    return Ceilings(2 * source.nbytes / seconds, {"float32": flops / product})


def measure_gpu(device: Any, kinds: Sequence[str], *, against: bool) -> Ceilings:
    """A GPU's ceilings: a copy in its memory and, by torch where it is `against`, products."""
    from .gpu import GpuTimer, Ring

    timer = GpuTimer(device.gpu)
    a, b = (device.zeros((GPU_COPY_BYTES,), "uint8") for _ in range(2))

    def rate(name: str, call: Callable[[], object], capture: Any) -> float:
        ring = Ring(name, [call], capture)
        return timer.measure([ring], seconds=0.1, rounds=REPEATS)[0][name].best

    with device.session():
        gpu = device.gpu
        copy = 2 * GPU_COPY_BYTES / rate("copy", lambda: gpu.copy(b, a), timer.capture)
        gemm: dict[str, float] = {}
        if against:
            from . import baselines_cuda

            with baselines_cuda.on_stream(gpu.compute.ptr, gpu.index) as stream:
                for kind in dict.fromkeys(kinds):
                    with baselines_cuda.product(kind, GPU_GEMM_SIZE) as call:
                        capture = functools.partial(baselines_cuda.capture, stream)
                        gemm[kind] = 2 * GPU_GEMM_SIZE**3 / rate(kind, call, capture)
    return Ceilings(copy, gemm)


def add_shares(row: dict[str, Any], ceilings: Ceilings, kind: str) -> None:
    """Give a row its floor and the shares of the roofline that both sides reach."""
    floor = ceilings.floor(row["flops"], row["bytes"], kind)
    row["floor"] = floor
    for name in ("ours", "baseline"):
        seconds = row.get(name)
        share = floor / seconds if floor is not None and seconds else None
        row["roofline" if name == "ours" else "baseline_roofline"] = share
