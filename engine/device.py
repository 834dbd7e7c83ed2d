"""Devices: where arrays live, and which backends may run there, best first.

    device = open_device("auto")      # a GPU if one can be used, else the CPU
    device.zeros((64, 10), "float32")

An explicit choice never falls back: `open_device("cuda")` without a GPU raises InputError with
what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ..kernels import registry, triton
from ..kernels.numpy import threads
from .errors import InputError

DEVICES = ("auto", "cpu", "cuda", "interpreter")
BACKENDS = {  # of each device, best first: the first that supports a call gets it
    "cpu": ("native", "numpy"),
    "interpreter": ("triton",),
}
PARTIAL = ("native",)  # has not the whole contract, so it cannot be the only one
KERNELS = ("auto", *(n for names in BACKENDS.values() for n in names if n not in PARTIAL))
SLOW = "the interpreter runs the GPU's kernels step by step in Python: a thousand times slower"


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy element type of that name; bfloat16 comes from ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@dataclass(frozen=True)
class Device:
    """NumPy arrays, and the backends that run on them: the CPU's, or a GPU's in an interpreter.

    `declined` says of each backend that would be better why it cannot run here; `warning` what one
    should know before work starts, if anything.
    """

    name: str
    backends: tuple[str, ...]
    declined: tuple[str, ...] = ()
    warning: str = ""

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
        """The contract function `name` of the backend that has all of them (the last listed)."""
        return registry.load(self.backends[-1]).function(name)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Open while work runs: backends own their threads or streams inside."""
        with contextlib.ExitStack() as stack:
            for name in self.backends:
                stack.enter_context(registry.load(name).session())
            yield


def open_device(name: str = "auto", kernels: str = "auto") -> Device:
    """The device called `name`, with one backend if `kernels` names it, else all that can run.

    Raises: InputError for an unknown name or a device or backend that is not here.
    """
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    if name == "cuda":
        raise InputError(f"--device cuda: {cuda_missing()}")
    place = "cpu" if name == "auto" else name
    usable = _backends(place, kernels)
    if place == "interpreter":
        if (reason := triton.interpret()) is not None:
            raise InputError(f"--device interpreter: {reason}")
        return Device(place, usable, warning=SLOW)
    missing = {name: registry.missing(name) for name in usable}
    return Device(
        place, tuple(name for name in usable if missing[name] is None),
        tuple(f"kernels {name}: {reason}" for name, reason in missing.items() if reason),
    )  # fmt: skip


def _backends(place: str, kernels: str) -> tuple[str, ...]:
    """The backends of a device, or the one that `kernels` names. Raises: InputError."""
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


def cuda_missing() -> str:
    """What keeps the engine from running on a GPU here, in one line."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 cannot be loaded); use --device cpu"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; pip install 'cnnengine[cuda12]', or use --device cpu"
    return "this version has no GPU kernels; use --device cpu"
