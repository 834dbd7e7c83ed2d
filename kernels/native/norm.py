"""Batch norm and LRN in C, float32: chunks of pixels that stay in cache.

Batch norm reads each array once a stage. Training has two stages, statistics of each chunk and
normalisation, and so has the gradient; in between the chunks are joined here, in order and in
float64. Chunks depend on the shape alone.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import spec
from ..arrays import pixel_pitch
from ..errors import require_support
from ..numpy.threads import get_threads
from ..spec import LRN, BatchNorm, Config
from ..spec.contract import Array, InOut, Out, dtype_name, implements
from . import library, plan
from .plan import MOST_ELEMENTS, address

STATISTICS, NORMALISE, GRADIENTS, SPREAD = range(4)  # stages of norm.c


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments cannot run here; None if it can."""
    x = arguments["x"]
    if x.dtype != "float32":
        return f"computes in float32 only, x is {dtype_name(x)}"
    if math.prod(x.shape) >= MOST_ELEMENTS:
        return f"takes arrays of fewer than {MOST_ELEMENTS} elements, x has more"
    return None


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> Config:
    """The plan for one call as a Config; `variant` forces an instruction set.

    Raises: UnsupportedError.
    """
    require_support(function, "native", supports(function, arguments))
    *pixels, channels = arguments["x"].shape
    variant = variant or library.filled(channels)
    workers = get_threads()
    if function in ("lrn", "lrn_backward"):
        made = _lrn_plan(math.prod(pixels), channels, arguments["op"], variant, workers)
    else:
        sums = function != "batch_norm_inference"
        made = _plan(math.prod(pixels), channels, sums, variant, workers)
    reason = f"float32, in vectors ({variant}), chunks: {made.problems[0].chunks}"
    return Config(f"chunks-{variant}", (("workers", workers),), made.workspace_bytes, reason)


@functools.lru_cache(maxsize=512)
def _plan(pixels: int, channels: int, sums: bool, variant: str, workers: int) -> plan.Plan:
    problem = library.Norm(pixels=pixels, channels=channels)
    library.open_library(variant).norm_plan(ctypes.byref(problem))
    size = plan.aligned(4 * problem.chunks * 2 * channels) if sums else 0
    return plan.Plan((problem,), (), (size,), 0, max(1, min(workers, problem.chunks)))


class _Stages:
    """The stages of one call, which share a plan and a workspace."""

    def __init__(self, function: str, x: Array, workspace: Any, config: Config | None) -> None:
        config = config or choose(function, {"x": x})
        require_support(function, "native", supports(function, {"x": x}))
        variant = config.algorithm.removeprefix("chunks-")
        *pixels, self.channels = x.shape
        self.pixels = math.prod(pixels)
        sums = function != "batch_norm_inference"
        self._made = _plan(self.pixels, self.channels, sums, variant, config["workers"])
        self._entry = library.open_library(variant).norm_run
        if workspace is None:
            workspace = np.empty(self._made.workspace_bytes, np.uint8)
        self._workspace = workspace
        self._sums_at = workspace.ctypes.data

    def run(self, stage: int, *, relu: bool = False, **arrays: Array | None) -> None:
        """One stage on all threads; `arrays` by their names in C."""

        def fill(p: Any, shared: list[int]) -> None:
            self._sums_at = shared[0]
            p.stage, p.relu, p.sums = stage, relu, shared[0]
            for name, array in arrays.items():
                setattr(p, name, address(array))
                if array is not None and array.ndim == 4:
                    setattr(p, f"{name}_pitch", pixel_pitch(array))

        plan.run(self._made, self._entry, self._workspace, fill)

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pixels of each chunk [chunks, 1], its two sums [chunks, C] each), all float64."""
        problem = self._made.problems[0]
        counts = np.full((problem.chunks, 1), float(problem.pixels_per_chunk))
        if problem.chunks:
            counts[-1] = self.pixels - (problem.chunks - 1) * problem.pixels_per_chunk
        size = problem.chunks * 2 * self.channels
        used = plan.floats(self._workspace, self._sums_at, size)
        both = used.reshape(problem.chunks, 2, self.channels).astype(np.float64)
        return counts, both[:, 0], both[:, 1]


@implements(spec.batch_norm_training)
@np.errstate(all="ignore")
def batch_norm_training(
    x: Array,
    gamma: Array,
    beta: Array,
    out: Out,
    mean: Out,
    invstd: Out,
    running_mean: InOut,
    running_var: InOut,
    *,
    op: BatchNorm,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Statistics of chunks, joined by the formula of Chan, Golub & LeVeque; then normalised."""
    stages = _Stages("batch_norm_training", x, workspace, config)
    if stages.pixels == 0:
        mean.fill(0)
        invstd.fill(0)
        return
    stages.run(STATISTICS, x=x)
    counts, means, squares = stages.sums()
    total = np.add.reduce(counts * means, axis=0) / stages.pixels
    square = np.add.reduce(squares + counts * np.square(means - total), axis=0)
    mean[:] = total
    invstd[:] = 1.0 / np.sqrt(square / stages.pixels + op.eps)
    running_mean *= 1.0 - op.momentum
    running_mean += op.momentum * total
    running_var *= 1.0 - op.momentum
    running_var += op.momentum / (stages.pixels - 1) * square
    scale = gamma * invstd
    stages.run(NORMALISE, x=x, mean=mean, scale=scale, shift=beta, out=out, relu=relu)


@implements(spec.batch_norm_inference)
@np.errstate(all="ignore")
def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    out: Out,
    *,
    op: BatchNorm,
    relu: bool = False,
) -> None:
    """Normalise by the running statistics."""
    scale = gamma / np.sqrt(running_var + np.float32(op.eps))
    stages = _Stages("batch_norm_inference", x, None, None)
    stages.run(NORMALISE, x=x, mean=running_mean, scale=scale, shift=beta, out=out, relu=relu)


@implements(spec.batch_norm_backward)
@np.errstate(all="ignore")
def batch_norm_backward(
    x: Array,
    dy: Array,
    gamma: Array,
    mean: Array,
    invstd: Array,
    out: Out,
    dgamma: Out,
    dbeta: Out,
    *,
    op: BatchNorm,
    mask: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Sums of chunks, added in order, for dgamma and dbeta; then dx, which needs both."""
    stages = _Stages("batch_norm_backward", x, workspace, config)
    stages.run(GRADIENTS, x=x, dy=dy, mask=mask, mean=mean)
    _, plain, products = stages.sums()
    total = np.add.reduce(plain, axis=0)
    product = np.add.reduce(products, axis=0) * invstd
    dbeta[:], dgamma[:] = total, product
    count = max(1, stages.pixels)
    shift, slope = ((v / count).astype(np.float32) for v in (total, product * invstd))
    scale = gamma * invstd
    stages.run(
        SPREAD, x=x, dy=dy, mask=mask, mean=mean, scale=scale, shift=shift, slope=slope, out=out
    )


@functools.lru_cache(maxsize=512)
def _lrn_plan(pixels: int, channels: int, op: LRN, variant: str, workers: int) -> plan.Plan:
    most = max(0, channels - 1)
    problem = library.Lrn(
        pixels=pixels, channels=channels,
        before=min(op.size // 2, most), after=min((op.size - 1) // 2, most),
        scale=op.alpha / op.size, k=op.k, exponent=-op.beta,
        slope=2.0 * op.alpha * op.beta / op.size,
    )  # fmt: skip
    library.open_library(variant).lrn_plan(ctypes.byref(problem))
    scratch = plan.aligned(4 * problem.scratch_floats)
    return plan.Plan((problem,), (), (), scratch, max(1, min(workers, problem.chunks)))


def _run_lrn(function: str, x: Array, dy: Array | None, out: Array, op: LRN) -> None:
    require_support(function, "native", supports(function, {"x": x}))
    *pixels, channels = x.shape
    variant = library.filled(channels)
    made = _lrn_plan(math.prod(pixels), channels, op, variant, get_threads())

    def fill(p: Any, shared: list[int]) -> None:
        p.x, p.dy, p.out = address(x), address(dy), address(out)
        p.x_pitch, p.out_pitch = pixel_pitch(x), pixel_pitch(out)
        p.dy_pitch = 0 if dy is None else pixel_pitch(dy)

    plan.run(made, library.open_library(variant).lrn_run, None, fill)


@implements(spec.lrn)
def lrn(x: Array, out: Out, *, op: LRN) -> None:
    """Squares, their sums over neighbouring channels, and the power, a few pixels at a time."""
    _run_lrn("lrn", x, None, out, op)


@implements(spec.lrn_backward)
def lrn_backward(x: Array, dy: Array, out: Out, *, op: LRN) -> None:
    """The responses again, then each channel's part in those of its neighbours."""
    _run_lrn("lrn_backward", x, dy, out, op)
