"""Dense layers in C, float32: x [N,C], w [K,C], y [N,K]; each weight is read, or written, once.

BLAS copies both factors into an order of its own first, which for few images takes longer than
the products. Here the kernels take them as they lie, in register tiles of images and outputs.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

from .. import spec
from ..errors import require_support
from ..numpy.threads import get_threads, parallel
from ..spec.contract import Array, Config, Out, dtype_name, implements
from . import library
from .plan import MOST_ELEMENTS, address

FORWARD, DGRAD, WGRAD = range(3)  # kinds of dense.c
MOST_IMAGES = 32  # with more, products are the work, and BLAS is faster
PER_WORKER = 1 << 19  # weights and products, some 50 us; to wake a thread takes nearly as long


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments cannot run here; None if it can."""
    for name in ("x", "w", "dy", "out"):
        array = arguments.get(name)
        if array is None:
            continue
        if array.dtype != "float32":
            return f"computes in float32 only, {name} is {dtype_name(array)}"
        if math.prod(array.shape) >= MOST_ELEMENTS:
            return f"takes arrays of fewer than {MOST_ELEMENTS} elements, {name} has more"
    images = _sizes(function, arguments)[0]
    if images > MOST_IMAGES:
        return f"takes at most {MOST_IMAGES} images, where weights are the traffic, not {images}"
    if function == "dense_dgrad" and images == 1:
        return "leaves the gradient of one image to BLAS, which is as fast as memory there"
    return None


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> Config:
    """The instruction set and threads of one call; `variant` forces the first.

    Raises: UnsupportedError.
    """
    require_support(function, "native", supports(function, arguments))
    variant = variant or library.runnable()[-1]
    images, features, outputs = _sizes(function, arguments)
    work = features * outputs * (8 + images)  # a weight takes as long as 8 products of it
    workers = max(1, min(get_threads(), work // PER_WORKER))
    reason = f"float32, in register tiles ({variant}), nothing packed"
    return Config(f"dense-{variant}", (("workers", workers),), 0, reason)


def _sizes(function: str, a: Mapping[str, Any]) -> tuple[int, int, int]:
    """N, C and K of a call."""
    if function == "dense_wgrad":
        return a["x"].shape[0], *a["out"].shape[::-1]
    return a["out"].shape[0], *a["w"].shape[::-1]


def _run(
    function: str, kind: int, arguments: Mapping[str, Any], config: Config | None,
    *, relu: bool = False,
) -> None:  # fmt: skip
    if config is None:
        config = choose(function, arguments)
    else:
        require_support(function, "native", supports(function, arguments))
    images, features, outputs = _sizes(function, arguments)
    given = {name: address(array) for name, array in arguments.items()}
    problem = library.Dense(
        **given, images=images, features=features, outputs=outputs, relu=relu, kind=kind
    )
    compiled = library.open_library(config.algorithm.removeprefix("dense-"))
    compiled.dense_plan(ctypes.byref(problem))
    tickets, entry = (ctypes.c_int64 * 3)(), compiled.dense_run
    pointers = ctypes.addressof(problem), ctypes.addressof(tickets), None
    parallel(min(config["workers"], max(1, problem.chunks)), lambda *_: entry(*pointers))


@implements(spec.dense)
def dense(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Dot products of rows of x and of w."""
    _run("dense", FORWARD, {"x": x, "w": w, "b": b, "out": out}, config, relu=relu)


@implements(spec.dense_dgrad)
def dense_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Sums of rows of w; a strip of features stays in the L1 cache."""
    arguments = {"dy": dy, "w": w, "out": out, "mask": mask, "db": db}
    _run("dense_dgrad", DGRAD, arguments, config)


@implements(spec.dense_wgrad)
def dense_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Outer products of dy and x, summed over the images in order."""
    _run("dense_wgrad", WGRAD, {"x": x, "dy": dy, "out": out}, config)
