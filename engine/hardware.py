"""Facts about this machine: processor, BLAS, GPU, and the packages that use them.

Nothing here imports a large package: versions come from the packages' metadata, the driver is
asked through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..kernels import cuda, registry
from ..kernels.numpy.threads import cores
from .device import AUTO, BACKENDS

CPUINFO = Path("/proc/cpuinfo")

# Vector instruction sets, widest first, and the flags of /proc/cpuinfo that make one.
VECTOR_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("AVX-512", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"})),
    ("AVX2", frozenset({"avx2", "fma"})),
    ("AVX", frozenset({"avx"})),
    ("SSE", frozenset({"sse2"})),
    ("NEON", frozenset({"asimd"})),
)
TOLD_FLAGS = (
    "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_bf16", "asimd", "sve",
)  # fmt: skip
# What OpenBLAS's x86 kernels, named by its core type, use at most.
CORE_LEVELS = {
    **dict.fromkeys(("SkylakeX", "Cooperlake", "SapphireRapids"), "AVX-512"),
    **dict.fromkeys(("Haswell", "Zen", "Excavator"), "AVX2"),
    **dict.fromkeys(("Sandybridge", "Bulldozer", "Piledriver", "Steamroller"), "AVX"),
    **dict.fromkeys(("Nehalem", "Prescott", "Core2", "Penryn", "Dunnington", "Katmai", "Coppermine",
                     "Northwood", "Banias", "Athlon", "Opteron", "Opteron_SSE3", "Barcelona",
                     "Bobcat", "Atom"), "SSE"),
}  # fmt: skip
CORE_TYPE = "OPENBLAS_CORETYPE"


@dataclass(frozen=True)
class Processor:
    """The CPU: its model, its widest vector level, the flags that matter, processors usable."""

    model: str
    level: str
    flags: tuple[str, ...]
    cores: int
    usable: int


@dataclass(frozen=True)
class Blas:
    """A BLAS library in this process; `warning` says when it is below what the CPU offers."""

    name: str
    version: str
    core_type: str
    threads: int
    path: str
    warning: str = ""


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: memory in bytes, compute capability like (9, 0)."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver; `cuda` is the newest CUDA that it runs, like (12, 8)."""

    version: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The processor, from /proc/cpuinfo where there is one."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    told: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip().lower(), value.strip())
    flags = frozenset((told.get("flags") or told.get("features") or "").split())
    model = told.get("model name") or platform.processor() or platform.machine()
    return Processor(
        model, vector_level(flags), tuple(f for f in TOLD_FLAGS if f in flags), os.cpu_count() or 1,
        cores(),
    )  # fmt: skip


def vector_level(flags: frozenset[str]) -> str:
    """The widest vector level whose flags are all there; "" when none is known."""
    return next((name for name, needed in VECTOR_LEVELS if needed <= flags), "")


def blas_libraries(cpu: Processor) -> list[Blas]:
    """The BLAS libraries that NumPy brought into this process."""
    import numpy as np  # noqa: F401  (loads its BLAS)
    from threadpoolctl import threadpool_info

    found = []
    for info in threadpool_info():
        if info["user_api"] == "blas":
            core = info.get("architecture") or ""
            found.append(Blas(
                info["internal_api"], info["version"] or "", core, info["num_threads"],
                info["filepath"], core_warning(core, cpu.level, os.environ.get(CORE_TYPE)),
            ))  # fmt: skip
    return found


def core_warning(core_type: str, level: str, forced: str | None) -> str:
    """Why a BLAS with kernels for `core_type` is slow on a CPU with `level`; "" if it is not.

    `forced` is what OPENBLAS_CORETYPE says, if it is set.
    """
    names = [name for name, _ in VECTOR_LEVELS]
    used = CORE_LEVELS.get(core_type)
    if used is None or level not in names or names.index(used) <= names.index(level):
        return ""
    told = f"{core_type} kernels use {used}, this CPU has {level}"
    if forced:
        return f"{told}; {CORE_TYPE}={forced} is set: unset it"
    return f"{told}; set {CORE_TYPE} in the environment to a core type that has {level}"


def backends() -> list[tuple[str, str | None]]:
    """Every backend's name, and why it cannot run here with what mends it (None: it can)."""
    names = dict.fromkeys((*BACKENDS["cpu"], *registry.BACKENDS))
    return [(name, registry.missing(name)) for name in names]


def devices() -> list[tuple[str, str | None]]:
    """The devices without an interpreter, and why one cannot be used with what mends it."""
    return [("cpu", None), ("cuda", cuda.missing(0))]


def installed_like(pattern: str) -> str | None:
    """Name and version of the first installed distribution whose name matches wholly."""
    for found in metadata.distributions():
        name = found.metadata["Name"] or ""
        if re.fullmatch(pattern, name):
            return f"{name} {found.version}"
    return None


def nvidia_driver() -> Driver | str:
    """The driver and its GPUs, or why there is none, in one line."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 cannot be loaded)"
    code = cuda.cuInit(0)
    if code != 0:
        return f"the NVIDIA driver is here but finds no GPU it can use (cuInit answers {code})"
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(cuda, i) for i in range(count.value))
    return Driver(_driver_version(), (version.value // 1000, version.value % 1000 // 10), gpus)


def idle_gpu() -> str | None:
    """What to tell who trains by `--device auto` beside a GPU, which `AUTO` leaves alone.

    None without a GPU, or where there is nothing to tell.
    """
    if AUTO != "cpu" or not cuda.has_driver():
        return None
    reason = cuda.missing(0)
    if reason is None:
        return (
            "--device auto is the CPU until GPUs have been tried; to train on the GPU that is "
            "here, add --device cuda"
        )
    driver = nvidia_driver()
    if isinstance(driver, str) or not driver.gpus:
        return None
    return (
        f"--device auto is the CPU; before --device cuda can take the {driver.gpus[0].name} that "
        f"is here: {reason}"
    )


CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return Gpu(name.value.decode(), memory.value, (capability[0], capability[1]))


def _driver_version() -> str:
    """Like "570.86.15", from NVML; "unknown" without it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    text = ctypes.create_string_buffer(96)
    if nvml.nvmlInit_v2() != 0:
        return "unknown"
    try:
        code = nvml.nvmlSystemGetDriverVersion(text, len(text))
        return text.value.decode() if code == 0 else "unknown"
    finally:
        nvml.nvmlShutdown()
