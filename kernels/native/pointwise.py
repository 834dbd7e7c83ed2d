"""What activations in C share: one pass over flat arrays, on the threads that are worth waking."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import require_support
from ..numpy.threads import get_threads, parallel
from ..spec import Config
from ..spec.contract import Array, dtype_name
from . import library
from .plan import MOST_ELEMENTS, address

LEAK, LEAK_EACH, RELU_FORWARD, RELU_GRADIENT, CLIP, CLIP_GRADIENT = range(6)  # kinds of pointwise.c
PER_WORKER = 1 << 17  # elements, some 50 us; to wake another thread takes nearly as long
PERIOD = max(library.LANES.values())


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments cannot run here; None if it can."""
    out = arguments["out"]
    if out.dtype != "float32":
        return f"computes in float32 only, out is {dtype_name(out)}"
    if math.prod(out.shape) >= MOST_ELEMENTS:
        return f"takes arrays of fewer than {MOST_ELEMENTS} elements, out has more"
    return None


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> Config:
    """The instruction set and threads of one call; `variant` forces the first.

    Raises: UnsupportedError.
    """
    require_support(function, "native", supports(function, arguments))
    variant = variant or library.runnable()[-1]
    workers = _workers(math.prod(arguments["out"].shape))
    reason = f"float32, in vectors ({variant}), one pass"
    return Config(f"pointwise-{variant}", (("workers", workers),), 0, reason)


def _workers(elements: int) -> int:
    return max(1, min(get_threads(), elements // PER_WORKER))


def run(
    function: str, kind: int, x: Array, out: Array, dy: Array | None = None, *,
    slopes: np.ndarray | None = None, **numbers: float,
) -> None:  # fmt: skip
    """out = what `kind` makes of x (and dy), of `slopes` [C] and of the numbers that C names.

    Raises: UnsupportedError.
    """
    period = PERIOD
    if slopes is not None:  # repeated until whole vectors hold whole pixels
        if repeats := PERIOD // math.gcd(PERIOD, max(1, slopes.size)) - 1:
            slopes = np.tile(slopes, repeats + 1)
        period = max(PERIOD, slopes.size)
    problem = library.Pointwise(
        x=address(x), dy=address(x if dy is None else dy), out=address(out),
        slopes=address(slopes), elements=out.size, period=period, kind=kind, **numbers,
    )  # fmt: skip
    launch(function, "pointwise", problem, out)


def launch(function: str, kernel: str, problem: ctypes.Structure, out: Array) -> None:
    """Run a C kernel's problem, which fills `out`, on all threads. Raises: UnsupportedError."""
    config = choose(function, {"out": out})
    compiled = library.open_library(config.algorithm.removeprefix("pointwise-"))
    getattr(compiled, f"{kernel}_plan")(ctypes.byref(problem))
    tickets, entry = (ctypes.c_int64 * 3)(), getattr(compiled, f"{kernel}_run")
    arguments = ctypes.addressof(problem), ctypes.addressof(tickets), None
    parallel(config["workers"], lambda worker, _: entry(*arguments))
