"""Normalisation: batch norm (training, inference, gradient) and local response normalisation.

Batch norm's sums over pixels are cut into splits by shape alone, added in order; its kernels and
their method are in `norm_batch.py`. LRN is in `norm_response.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import spec
from ..spec import LRN, BatchNorm, Config
from ..spec.contract import Array, InOut, Out
from . import norm_batch, norm_response
from .launch import add_in_order, cdiv, large, launch, pixel_pitch, scratch, usable
from .pixels import TILE, launch_on_tiles, splits_of_pixels, sums_tile
from .tiles import power_of_two


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """How many splits the sums of a batch norm take, of how many pixels each."""
    if function not in ("batch_norm_training", "batch_norm_backward"):
        return Config("triton", reason="one kernel")
    n, h, w, c = arguments["x"].shape
    splits, rows = splits_of_pixels(n * h * w, c)
    reason = f"{splits} sums of {rows} pixels, joined in order"
    return Config("split sums", (("splits", splits), ("rows", rows)), 8 * splits * c, reason)


def _normalise(
    x: Array, mean: Array, spread: Array, gamma: Array, beta: Array, out: Array, **constants: Any
) -> None:
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(out), constants.pop("eps")
    arguments = x, mean, spread, gamma, beta, out, *sizes
    launch_on_tiles(norm_batch.normalise_kernel, x, *arguments, long=large(x, out), **constants)


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
    n, h, w, c = x.shape
    pixels, splits, rows = n * h * w, config["splits"], config["rows"]
    parts = scratch(workspace, 2 * splits * c)
    high, broad = sums_tile(c)
    launch(
        norm_batch.statistics_kernel,
        splits * cdiv(c, broad),
        *(x, parts, pixels, c, pixel_pitch(x), rows, splits),
        BLOCK_PIXELS=high,
        BLOCK_CHANNELS=broad,
    )
    deep = power_of_two(splits, 1, 256)
    columns = min(broad, TILE // deep)
    launch(
        norm_batch.join_statistics_kernel,
        cdiv(c, columns),
        *(parts, mean, invstd, running_mean, running_var, pixels, c, rows, splits, op.eps),
        op.momentum if pixels else 0.0,
        BLOCK_SPLITS=deep,
        BLOCK_CHANNELS=columns,
    )
    _normalise(x, mean, invstd, gamma, beta, out, eps=0.0, OF_VARIANCE=False, RELU=relu)


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
    arguments = x, running_mean, running_var, gamma, beta, out
    _normalise(*arguments, eps=op.eps, OF_VARIANCE=True, RELU=relu)


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
    n, h, w, c = x.shape
    pixels, splits, rows = n * h * w, config["splits"], config["rows"]
    parts = scratch(workspace, 2 * splits * c)
    pitches = pixel_pitch(x), pixel_pitch(dy), c if mask is None else pixel_pitch(mask)
    high, broad = sums_tile(c)
    launch(
        norm_batch.batch_norm_sums_kernel,
        splits * cdiv(c, broad),
        *(x, dy, mask, mean, invstd, parts, pixels, c, *pitches, rows, splits),
        BLOCK_PIXELS=high,
        BLOCK_CHANNELS=broad,
    )
    add_in_order(parts[: splits * c], dbeta, splits)
    add_in_order(parts[splits * c :], dgamma, splits)
    arguments = x, dy, mask, gamma, mean, invstd, dgamma, dbeta, out, pixels, c, *pitches
    long = large(x, dy, mask, out)
    launch_on_tiles(
        norm_batch.batch_norm_backward_kernel, x, *arguments, pixel_pitch(out), long=long
    )


@spec.implements(spec.lrn)
def lrn(x: Array, out: Out, *, op: LRN) -> None:
    """out = x * response^-beta, the response summed from the neighbours in the cache."""
    usable("lrn", x=x, out=out)
    norm_response.response_norm(x, out, op)


@spec.implements(spec.lrn_backward)
def lrn_backward(x: Array, dy: Array, out: Out, *, op: LRN) -> None:
    """The responses of all windows that a channel is in, computed again."""
    usable("lrn_backward", x=x, dy=dy, out=out)
    norm_response.response_norm_backward(x, dy, out, op)
