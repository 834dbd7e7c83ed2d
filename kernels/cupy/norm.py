"""Normalisation: batch norm (norm_batch.cu) and local response normalisation (norm_response.cu).

Batch norm's sums over pixels are cut into splits by shape alone and joined in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from .. import spec
from ..spec import LRN, BatchNorm, Config
from ..spec.contract import ITEMSIZE, Array, InOut, Out, dtype_name
from .group import BYTES, THREADS, launch_on_pixels, pitch, pixels_of
from .launch import Kernel, cdiv, launch, scratch, type_name, usable
from .reduce import add_in_order, splits_of_pixels, strips

BATCH, RESPONSE = "norm_batch.cu", "norm_response.cu"
CHANNELS = 32  # of a block that joins statistics


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """How many splits the sums of a batch norm take, of how many pixels each."""
    if function not in ("batch_norm_training", "batch_norm_backward"):
        return Config("cuda", reason="one kernel")
    n, h, w, c = arguments["x"].shape
    width = BYTES // ITEMSIZE[dtype_name(arguments["x"])]
    splits, rows = splits_of_pixels(n * h * w, c, width)
    reason = f"{splits} sums of {rows} pixels, joined in order"
    return Config("split sums", (("splits", splits), ("rows", rows)), 8 * splits * c, reason)


def _launch_on_strips(name: str, x: Any, splits: int, *arguments: Any) -> None:
    """Launch a kernel of batch norm that sums over splits of the pixels of x."""
    kernel = Kernel(BATCH, f"{name}<{type_name(x)}>")
    launch(kernel, strips(x, splits), THREADS, *arguments)


def _normalise(
    x: Any, mean: Any, spread: Any, gamma: Any, beta: Any, out: Any, *settings: Any
) -> None:
    sizes = *pixels_of(x), pitch(x), pitch(out)
    arguments = x, mean, spread, gamma, beta, out, *sizes, *settings
    launch_on_pixels(BATCH, "normalise_kernel", x, *arguments)


@spec.implements(spec.batch_norm_training)
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
    """Three launches: statistics of splits, joined and kept, then the normalised batch."""
    vectors = {"gamma": gamma, "beta": beta, "mean": mean, "invstd": invstd}
    running = {"running_mean": running_mean, "running_var": running_var}
    usable("batch_norm_training", x=x, out=out, workspace=workspace, **vectors, **running)
    config = config or choose("batch_norm_training", {"x": x})
    pixels, c = pixels_of(x)
    splits, rows = config["splits"], numpy.int64(config["rows"])
    parts = scratch(workspace, 2 * splits * c)
    sizes = x, parts, pixels, c, pitch(x), rows, splits
    _launch_on_strips("statistics_kernel", x, splits, *sizes)
    launch(
        *(Kernel(BATCH, "join_statistics_kernel"), cdiv(c, CHANNELS), THREADS),
        *(parts, mean, invstd, running_mean, running_var, pixels, c, rows, splits),
        *(op.eps, op.momentum),
    )
    _normalise(x, mean, invstd, gamma, beta, out, 0.0, 0, int(relu))


@spec.implements(spec.batch_norm_inference)
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
    """Normalise by the running statistics, in one launch."""
    vectors = {"running_mean": running_mean, "running_var": running_var}
    usable("batch_norm_inference", x=x, gamma=gamma, beta=beta, out=out, **vectors)
    _normalise(x, running_mean, running_var, gamma, beta, out, op.eps, 1, int(relu))


@spec.implements(spec.batch_norm_backward)
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
    """Sums of splits, added in order to dgamma and dbeta; then dx, which needs both."""
    images = {"x": x, "dy": dy, "mask": mask, "out": out}
    vectors = {"gamma": gamma, "mean": mean, "invstd": invstd, "dgamma": dgamma, "dbeta": dbeta}
    usable("batch_norm_backward", **images, **vectors, workspace=workspace)
    config = config or choose("batch_norm_backward", {"x": x})
    pixels, c = pixels_of(x)
    splits, rows = config["splits"], numpy.int64(config["rows"])
    parts = scratch(workspace, 2 * splits * c)
    sizes = pixels, c, pitch(x), pitch(dy), pitch(x if mask is None else mask)
    sums = x, dy, mask, mean, invstd, parts, *sizes, rows, splits
    _launch_on_strips("batch_norm_sums_kernel", x, splits, *sums)
    add_in_order(parts[: splits * c], dbeta, splits)
    add_in_order(parts[splits * c :], dgamma, splits)
    arguments = x, dy, mask, gamma, mean, invstd, dgamma, dbeta, out, *sizes, pitch(out)
    launch_on_pixels(BATCH, "batch_norm_backward_kernel", x, *arguments)


@spec.implements(spec.lrn)
def lrn(x: Array, out: Out, *, op: LRN) -> None:
    """out = x * response^-beta, the response summed from the neighbours in the cache."""
    usable("lrn", x=x, out=out)
    sizes = *pixels_of(x), pitch(x), pitch(out)
    launch_on_pixels(RESPONSE, "lrn_kernel", x, x, out, *sizes, *_settings(op))


@spec.implements(spec.lrn_backward)
def lrn_backward(x: Array, dy: Array, out: Out, *, op: LRN) -> None:
    """The responses of all windows that a channel is in, computed again."""
    usable("lrn_backward", x=x, dy=dy, out=out)
    sizes = *pixels_of(x), pitch(x), pitch(dy), pitch(out)
    launch_on_pixels(RESPONSE, "lrn_backward_kernel", x, x, dy, out, *sizes, *_settings(op))


def _settings(op: LRN) -> tuple[int, float, float, float]:
    """size, k, alpha / size and beta, as the kernels take them."""
    return op.size, float(op.k), op.alpha / op.size, float(op.beta)
