"""Direct convolution in C, float32: no im2col; register tiles over a padded copy that stays in L2.

Forward and dgrad are one kernel (`correlate.c`): dgrad is a forward convolution of dy with flipped,
transposed weights, one for each phase of the stride. wgrad (`wgrad.c`) sums, per tap, outer
products of dy and x over pixels. Work is cut into chunks by its shape alone and partial sums are
added in the order of the chunks, so bits do not depend on the number of threads. The method is
that of Georganas et al. 2018, "Anatomy of High-Performance Deep Learning Convolutions".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import spec
from ..errors import UnsupportedError
from ..numpy.threads import get_threads
from ..spec.contract import Array, Config, Out, dtype_name, implements
from . import library, plan
from .plan import address, pixel_pitch

LEAST_CHANNELS = 4  # of a group: below, most of a tile would be padding


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments cannot run here; None if it can."""
    for name in ("x", "dy", "out"):
        if name in arguments and (dtype := dtype_name(arguments[name])) != "float32":
            return f"computes in float32 only, {name} is {dtype}"
    if function == "conv2d_relu_pool_backward":
        return None
    op = arguments["op"]
    if op.groups > 1:
        k, _, _, c = arguments["out" if function == "conv2d_wgrad" else "w"].shape
        if min(c, k // op.groups) < LEAST_CHANNELS:
            return (
                f"groups of fewer than {LEAST_CHANNELS} channels would be mostly padding, "
                f"here {c} -> {k // op.groups}"
            )
    if function == "conv2d_dgrad" and op.padding_mode == "edge" and op.stride != (1, 1):
        return f"the gradient of edge padding needs stride 1, not {op.stride}"
    return None


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> Config:
    """The plan for one call as a Config; `variant` forces an instruction set.

    Raises: UnsupportedError.
    """
    if (reason := supports(function, arguments)) is not None:
        raise UnsupportedError(f"{function}: backend native {reason}; use backend numpy")
    variant = variant or library.runnable()[-1]
    workers = get_threads()
    made = _plan(function, arguments, variant, workers)
    return Config(
        f"direct-{variant}",
        (("workers", workers),),
        made.workspace_bytes,
        f"float32, direct in register tiles ({variant}), chunks: "
        + ", ".join(str(p.chunks) for p in made.problems),
    )


def _plan(function: str, a: Mapping[str, Any], variant: str, workers: int) -> plan.Plan:
    if function == "conv2d_dgrad":
        db = a.get("db") is not None
        return plan.dgrad(
            tuple(a["out"].shape), tuple(a["w"].shape), a["op"], db, variant, workers
        )
    pool = function == "conv2d_relu_pool"
    return plan.forward(
        tuple(a["x"].shape), tuple(a["w"].shape), a["op"], pool, variant, workers
    )


def _planned(
    function: str, config: Config | None, workspace: Any, **arguments: Any
) -> tuple[plan.Plan, str]:
    if config is None or workspace is None:
        config = config or choose(function, arguments)
    variant = config.algorithm.removeprefix("direct-")
    return _plan(function, arguments, variant, config["workers"]), variant


@implements(spec.conv2d)
def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    op: spec.Conv2d,
    relu: bool = False,
    residual: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Bias and ReLU join in the registers; a residual on the way out of the L1 cache."""
    made, variant = _planned("conv2d", config, workspace, x=x, w=w, out=out, op=op)

    def fill(p: Any, shared: list[np.ndarray]) -> None:
        p.x, p.w, p.b, p.out = address(x), address(w), address(b), address(out)
        p.residual, p.relu, p.packed = address(residual), relu, address(shared[0])
        p.x_pitch, p.out_pitch = pixel_pitch(x), pixel_pitch(out)
        p.residual_pitch = 0 if residual is None else pixel_pitch(residual)

    for _ in plan.run(made, library.open_library(variant).correlate_run, workspace, fill):
        pass


@implements(spec.conv2d_relu_pool)
def conv2d_relu_pool(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    code: Out | None,
    *,
    op: spec.Conv2d,
    pool: spec.MaxPool2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Two rows of the convolution at a time stay in the L1 cache and are pooled from there."""
    made, variant = _planned("conv2d_relu_pool", config, workspace, x=x, w=w, out=out, op=op)

    def fill(p: Any, shared: list[np.ndarray]) -> None:
        p.x, p.w, p.b, p.out = address(x), address(w), address(b), address(out)
        p.code, p.packed = address(code), address(shared[0])
        p.x_pitch, p.out_pitch = pixel_pitch(x), pixel_pitch(out)

    for _ in plan.run(made, library.open_library(variant).correlate_run, workspace, fill):
        pass


@implements(spec.conv2d_dgrad)
def conv2d_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    op: spec.Conv2d,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """The forward kernel on dy with flipped, transposed weights; a stride has a pass per phase."""
    made, variant = _planned(
        "conv2d_dgrad", config, workspace, dy=dy, w=w, out=out, op=op, db=db
    )

    def fill(p: Any, shared: list[np.ndarray]) -> None:
        p.x, p.w, p.out = address(dy), address(w), address(out)
        p.mask, p.packed = address(mask), address(shared[0])
        p.x_pitch, p.out_pitch = pixel_pitch(dy), pixel_pitch(out)
        p.mask_pitch = 0 if mask is None else pixel_pitch(mask)
        p.db = None if db is None else address(shared[1])

    if db is not None:
        db[...] = 0
    for p, shared in plan.run(
        made, library.open_library(variant).correlate_run, workspace, fill
    ):
        if db is not None:
            parts = shared[1][: p.chunks * out.shape[3]].reshape(p.chunks, out.shape[3])
            db += np.add.reduce(parts, axis=0)
