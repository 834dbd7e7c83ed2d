"""What a figure was measured on: processor, cores, versions, BLAS; and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from ..kernels.numpy import threads

# Core types under which OpenBLAS uses fewer vector bits than an AVX2 or AVX-512 processor has.
_BELOW_AVX2 = (
    "generic", "prescott", "core2", "penryn", "dunnington", "nehalem", "atom", "sandybridge",
    "opteron", "opteron_sse3", "barcelona", "bobcat", "nano", "athlon", "banias", "katmai",
    "northwood", "coppermine", "bulldozer", "piledriver", "steamroller",
)  # fmt: skip
_AVX2 = ("haswell", "zen", "excavator")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")  # the packages that CuPy comes in


def describe() -> dict[str, Any]:
    """The machine: processor model, vector instructions, cores, memory, system, load."""
    facts = _cpuinfo()
    flags = facts.get("flags", "").split()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cpu_id": "/".join(facts.get(k, "?") for k in ("cpu family", "model", "stepping")),
        "vector": [f for f in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile") if f in flags],
        "cores": threads.cores(),
        "system": f"{platform.system()} {platform.release()}",
        "load": load,
        "blas": blas(),
    }


def describe_gpu(device: Any) -> dict[str, Any]:
    """The GPU of a CUDA device: name, capability, multiprocessors, memory, cache, CUDA versions."""
    from ..kernels import cuda

    runtime = cuda.cupy().cuda.runtime
    told = runtime.getDeviceProperties(device.gpu.index)
    return {
        "name": device.gpu.name,
        "capability": ".".join(map(str, device.gpu.capability)),
        "multiprocessors": told["multiProcessorCount"],
        "memory": device.gpu.memory()[1],
        "l2_cache": told["l2CacheSize"],
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
    }


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def blas() -> list[dict[str, Any]]:
    """NumPy's BLAS as it is loaded: library, version, core type, threads outside a session."""
    return [
        {
            "library": pool["internal_api"],
            "version": pool.get("version"),
            "core_type": pool.get("architecture"),
            "threads": pool["num_threads"],
        }
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]


def versions() -> dict[str, str | None]:
    """Versions of what took part (None: not installed), our revision last."""
    told: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("cnnengine", "numpy", "torch", "triton"):
        told[name] = _version(name)
    told["cupy"] = next(filter(None, map(_version, CUPY)), None)
    return {**told, "revision": revision()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str | None:
    """The git revision that this package is checked out at, "+" if it was changed since."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:  # installed, not checked out
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return commit and commit + ("+" if changed else "")


class Elsewhere:
    """How busy other processes keep the machine while this runs, as a share of all processors."""

    def __init__(self) -> None:
        """Start counting."""
        self._before = _busy_and_own()

    def share(self) -> float | None:
        """Since the start, 0 … 1; None where the system does not tell."""
        after = _busy_and_own()
        if after is None or self._before is None:
            return None
        total, busy, own = (a - b for a, b in zip(after, self._before, strict=True))
        return min(max((busy - own) / total, 0.0), 1.0) if total > 0 else 0.0


def _busy_and_own() -> tuple[float, float, float] | None:
    """Seconds of all processors: in all, not idle, and spent by this process."""
    try:
        words = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9]]
    idle = ticks[3] + ticks[4]  # idle, waiting for a disk
    return sum(ticks), sum(ticks) - idle, sum(os.times()[:2])


def torch_missing() -> str | None:
    """Why there is no comparison with torch, with the install line; None if there can be."""
    if importlib.util.find_spec("torch") is not None:
        return None
    return "torch is not installed; pip install torch"


def no_comparison(*, gpu: bool) -> str | None:
    """Why nothing of torch can stand beside ours, on a GPU or a CPU; None if it can."""
    if (told := torch_missing()) is not None or not gpu:
        return told
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} cannot use this GPU; install torch made for CUDA"


def warnings(described: Mapping[str, Any], count: int) -> list[str]:
    """What is wrong with the machine for measuring with `count` threads, a line each."""
    told = []
    for library in described["blas"]:
        core = (library["core_type"] or "").lower()
        has = "AVX-512" if "avx512f" in described["vector"] else "AVX2"
        below_avx2 = core in _BELOW_AVX2 and "avx2" in described["vector"]
        if below_avx2 or (core in _AVX2 and has == "AVX-512"):
            forced = os.environ.get("OPENBLAS_CORETYPE")
            why = f"OPENBLAS_CORETYPE={forced}" if forced else "its own choice"
            told.append(
                f"{library['library']} runs its {library['core_type']} kernels ({why}) on a "
                f"processor with {has}: matrix products are slower than they need be"
            )
    if not described["blas"]:
        told.append("threadpoolctl sees no BLAS in NumPy: its threads cannot be held to one")
    if count > described["cores"]:
        told.append(f"{count} threads on {described['cores']} cores: they take turns")
    if described["load"] is not None and described["load"] > 0.5 * described["cores"]:
        told.append(f"the machine is busy (load {described['load']:.1f}): figures are noisy")
    return told


def set_threads(count: int, *, torch: bool = True) -> int:
    """Use `count` threads on both sides (0: one a core); returns the count."""
    count = count or threads.cores()
    threads.set_threads(count)
    if torch and torch_missing() is None:
        from torch import set_num_threads

        set_num_threads(count)
    return count
