"""Devices: where arrays live, and which backends may run there, best first.

    device = open_device("cpu")
    device.zeros((64, 10), "float32")

An explicit choice never falls back: `open_device("cuda")` without a GPU raises InputError with
what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..kernels import cuda, registry, triton
from ..kernels.cupy import launch as cupy_launch
from ..kernels.numpy import threads
from .errors import InputError

DEVICES = ("auto", "cpu", "cuda", "interpreter")
AUTO = "cpu"  # until the GPU backends have run on a GPU
BACKENDS = {  # of each device, best first: the first that supports a call gets it
    "cpu": ("native", "numpy"),
    "cuda": ("triton", "cupy"),
    "interpreter": ("triton", "cupy"),  # auto: the first; CUDA C++ runs in a simulator
}
PARTIAL = ("native",)  # has not the whole contract, so it cannot be the only one
KERNELS = tuple(dict.fromkeys(
    ("auto", *(n for names in BACKENDS.values() for n in names if n not in PARTIAL))
))  # fmt: skip
SLOW = "the interpreter runs the GPU's kernels step by step in Python: a thousand times slower"


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy element type of that name; bfloat16 comes from ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@dataclass
class Device:
    """NumPy arrays, and the backends that run on them: the CPU's, or a GPU's in an interpreter.

    `declined` says of each backend that would be better why it cannot run here; `warning` what one
    should know before work starts, if anything.
    """

    name: str
    backends: tuple[str, ...]
    declined: tuple[str, ...] = ()
    warning: str = ""
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16", "fp64")
    products: str = "ieee"  # how float32 products are formed unless the user asks for less
    slots: int = 0  # training steps that are on their way at once
    pictures: bool = False  # networks take uint8 images, and move and normalise them here
    arena_bytes: int = 0  # allocated by `reserve`, if it allocates

    @property
    def place(self) -> str:
        """What decides the last bits of a result: the kind of device and its kernels."""
        return f"{self.name.partition(':')[0]} ({', '.join(self.backends)})"

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """An array with arbitrary content, 64-byte aligned."""
        kind = numpy_dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        raw = np.empty(count * kind.itemsize + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + count * kind.itemsize].view(kind).reshape(shape)

    def zeros(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """A copy as a NumPy array."""
        return np.array(array)

    def copy_from_host(self, array: Any, host: np.ndarray) -> None:
        """Fill `array` from a NumPy array of the same shape, converting the element type."""
        array[...] = host

    def function(self, name: str) -> Callable[..., None]:
        """The contract function `name` of the best backend that has all of them."""
        whole = next(backend for backend in self.backends if backend not in PARTIAL)
        return registry.load(whole).function(name)

    def all_finite(self, array: Any) -> bool:
        """Whether every number of an arena is finite."""
        return bool(np.isfinite(array).all())

    def reserve(self, size: int) -> None:
        """Announce that so many bytes, as `aligned` counts them, will be asked for from here on.

        Raises: MemoryError when there are not so many (the CPU finds that out when it uses them).
        """

    def release(self) -> None:
        """Let go of what `reserve` announced: nobody uses it any more."""

    def has_room(self, size: int) -> bool:
        """Whether so many bytes could be reserved."""
        return True

    def aligned(self, size: int) -> int:
        """Bytes that an array of `size` bytes takes."""
        return -(-size // 64) * 64

    def stage(self, block: Any) -> np.ndarray:
        """Host memory for the content of `block`, a uint8 array; `upload` brings it there."""
        return block

    def upload(self, block: Any, staged: np.ndarray) -> None:
        """Bring what was written into `stage(block)` into `block`."""

    def repeatable(self, run: Callable[[], None]) -> Callable[[], None]:
        """The fastest way to do again and again what `run` does, with the same arrays."""
        return run

    def works(self) -> bool:
        """Whether work can still run here: after some errors a GPU refuses all that follows."""
        return True

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Open while work runs: backends own their threads or streams inside."""
        with contextlib.ExitStack() as stack:
            for name in self.backends:
                stack.enter_context(registry.load(name).session())
            yield


def open_device(
    name: str = "auto", kernels: str = "auto", *, graphs: bool = True,
    instead: str = ", or use --device cpu",
) -> Device:  # fmt: skip
    """The device called `name`, with one backend if `kernels` names it, else all that can run.

    auto is `AUTO`. `graphs` False keeps a GPU from replaying steps as CUDA graphs (debugging).
    `instead`: how the error for a GPU that cannot be used ends, where the CPU is no way out.

    Raises: InputError for an unknown name or a device or backend that is not here.
    """
    place, colon, number = name.partition(":")
    if place not in DEVICES or (colon and place != "cuda"):
        raise InputError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    if colon and not (number.isascii() and number.isdigit()):
        raise InputError(f"--device must be cuda or cuda:N, like cuda:0, not {name!r}")
    place = AUTO if place == "auto" else place
    wanted = backends_of(place, kernels)
    if place == "interpreter":
        return _interpreter(wanted[0])
    if place == "cuda":
        _check_gpu(name, int(number or 0), wanted, instead)
    gpu = cuda.Gpu(int(number or 0)) if place == "cuda" else None  # the one that backends look at
    missing = {name: registry.missing(name) for name in wanted}
    usable = tuple(name for name in wanted if missing[name] is None)
    declined = tuple(f"kernels {name}: {reason}" for name, reason in missing.items() if reason)
    if not usable:
        raise InputError(f"--device {name}: {'; '.join(declined)}")
    if gpu is None:
        return Device(place, usable, declined)
    from .gpu import CudaDevice

    return CudaDevice(gpu, usable, declined, graphs=graphs)


def _interpreter(backend: str) -> Device:
    """Host arrays, and one GPU backend in what runs it on a CPU. Raises: InputError."""
    if backend == "cupy":
        cupy_launch.simulate()
    reason = triton.interpret() if backend == "triton" else registry.missing(backend)
    if reason is not None:
        raise InputError(f"--device interpreter: {reason}")
    # no tf32: products are formed in float32
    precisions = ("fp32", "fp16", "bf16")
    return Device("interpreter", (backend,), warning=SLOW, precisions=precisions, pictures=True)


def _check_gpu(name: str, index: int, backends: tuple[str, ...], instead: str) -> None:
    """Raises: InputError when GPU `index` cannot be used."""
    if (reason := cuda.missing(index)) is not None:
        raise InputError(f"--device {name}: {reason}{instead}")
    if "triton" in backends and triton.interpreted():
        raise InputError(
            f"--device {name}: TRITON_INTERPRET is set, which keeps Triton from the GPU; unset it"
        )
    if "cupy" in backends and cupy_launch.simulated():
        raise InputError(f"--device {name}: this process runs CUDA C++ in the simulator already")


def backends_of(place: str, kernels: str) -> tuple[str, ...]:
    """The backends of a device, or the one that `kernels` names. Raises: InputError."""
    if kernels in PARTIAL:
        raise InputError(
            f"--kernels {kernels}: they cannot run alone, not every function is among them; auto "
            "takes them wherever they can"
        )
    if kernels not in KERNELS:
        raise InputError(f"unknown kernels {kernels!r}; known: {', '.join(KERNELS)}")
    if kernels == "auto":
        return BACKENDS[place]
    if kernels not in BACKENDS[place]:
        places = " or ".join(p for p, names in BACKENDS.items() if kernels in names)
        raise InputError(f"--kernels {kernels}: not on device {place}; use --device {places}")
    return (kernels,)


def use_threads(count: int) -> None:
    """Let the CPU's kernels run on `count` threads; 0: one a core. No result depends on it."""
    threads.set_threads(count)
