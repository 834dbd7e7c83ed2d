"""Normalisation: batch norm (training, inference, gradient) and local response normalisation.

The statistics read x once. Every thread keeps, for each of its channels, a count, a mean and a sum
of squares about that mean (Welford 1962); means and squares of parts are then joined by

    mean = sum n_i mean_i / N,    squares = sum squares_i + n_i (mean_i - mean)^2

(Chan, Golub & LeVeque 1983): over the pixels of a program, and by a second kernel over programs.
Like two passes, and unlike E[x^2] - E[x]^2, this survives a mean far from zero. All sums are in a
fixed order: `rows` pixels a split, splits in order. LRN computes its response again in the
gradient; the neighbours' values come from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec import LRN, BatchNorm, Config
from ..spec.contract import Array, InOut, Out
from .launch import add_in_order, cdiv, large, launch, narrow, pixel_pitch, scratch, usable, wide
from .pixels import TILE, splits_of_pixels, sums_tile, tile_of_pixels
from .tiles import power_of_two, row_tile


@triton.jit
def _statistics_kernel(
    x,  # [pixels, C], x_pitch elements from pixel to pixel
    parts,  # float32 [2, splits, C]: means, squares
    pixels,
    channels,
    x_pitch,
    rows,  # pixels of a split
    splits,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    split = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    count = tl.zeros((BLOCK_PIXELS, 1), tl.float32)
    mean = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    squares = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * rows, pixels)
    for start in range(split * rows, end, BLOCK_PIXELS):
        m = (start + tl.arange(0, BLOCK_PIXELS))[:, None]
        inside = (m < end) & (c < channels)[None, :]
        at = m * x_pitch + c[None, :]
        value = wide(tl.load(x + at, mask=inside, other=0.0))
        count += tl.where(m < end, 1.0, 0.0)
        change = tl.where(inside, value - mean, 0.0)
        mean += change / tl.maximum(count, 1.0)
        squares += change * (value - mean)
    total = tl.maximum(tl.sum(count, axis=0), 1.0)
    joined = tl.sum(count * mean, axis=0) / total
    apart = mean - joined[None, :]
    squares = tl.sum(squares + count * apart * apart, axis=0)
    at = parts + (split * channels + c)
    tl.store(at, joined, mask=c < channels)
    tl.store(at + splits * channels, squares, mask=c < channels)


@triton.jit
def _join_statistics_kernel(
    parts,  # float32 [2, splits, C]: means, squares
    mean,  # float32 [C], like all below
    invstd,
    running_mean,
    running_var,
    pixels,
    channels,
    rows,
    splits,
    eps,
    momentum,  # 0 for an empty batch
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    c = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    split = tl.arange(0, BLOCK_SPLITS)[:, None]
    inside = (split < splits) & (c < channels)[None, :]
    at = parts + split * channels + c[None, :]
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + splits * channels, mask=inside, other=0.0)
    count = tl.maximum(tl.minimum(pixels - split * rows, rows), 0).to(tl.float32)
    total = tl.maximum(pixels, 1).to(tl.float32)
    joined = tl.sum(count * means, axis=0) / total
    apart = means - joined[None, :]
    spread = tl.sum(squares + count * apart * apart, axis=0)
    deviation = tl.where(pixels > 0, 1.0 / tl.sqrt(spread / total + eps), 0.0)
    tl.store(mean + c, joined, mask=c < channels)
    tl.store(invstd + c, deviation, mask=c < channels)
    old_mean = tl.load(running_mean + c, mask=c < channels, other=0.0)
    old_var = tl.load(running_var + c, mask=c < channels, other=0.0)
    unbiased = spread / tl.maximum(total - 1.0, 1.0)
    new_mean = (1.0 - momentum) * old_mean + momentum * joined
    new_var = (1.0 - momentum) * old_var + momentum * unbiased
    tl.store(running_mean + c, new_mean, mask=c < channels)
    tl.store(running_var + c, new_var, mask=c < channels)


@triton.jit
def _normalise_kernel(
    x,  # [pixels, C], x_pitch
    mean,  # float32 [C], like gamma and beta
    spread,  # float32 [C]: 1/sqrt(var + eps), or the variance
    gamma,
    beta,
    out,  # [pixels, C], out_pitch
    pixels,
    channels,
    x_pitch,
    out_pitch,
    eps,
    OF_VARIANCE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    scale = tl.load(spread + c, mask=c < channels, other=1.0)
    if OF_VARIANCE:
        scale = 1.0 / tl.sqrt(scale + eps)
    scale = scale * tl.load(gamma + c, mask=c < channels, other=0.0)
    value = wide(tl.load(x + m * x_pitch + c, mask=inside, other=0.0))
    y = (value - tl.load(mean + c, mask=c < channels, other=0.0)) * scale
    y += tl.load(beta + c, mask=c < channels, other=0.0)
    if RELU:
        y = tl.where(y <= 0, 0.0, y)
    tl.store(out + m * out_pitch + c, narrow(y, out.dtype.element_ty), mask=inside)


@triton.jit
def _batch_norm_sums_kernel(
    x,  # [pixels, C], x_pitch; dy and mask the same with pitches of their own
    dy,
    mask,  # or None
    mean,  # float32 [C], like invstd
    invstd,
    parts,  # float32 [2, splits, C]: sums of dy, of dy * xhat
    pixels,
    channels,
    x_pitch,
    dy_pitch,
    mask_pitch,
    rows,
    splits,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    split = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    centre = tl.load(mean + c, mask=c < channels, other=0.0)
    scale = tl.load(invstd + c, mask=c < channels, other=0.0)
    plain = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    against = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * rows, pixels)
    for start in range(split * rows, end, BLOCK_PIXELS):
        m = (start + tl.arange(0, BLOCK_PIXELS))[:, None]
        inside = (m < end) & (c < channels)
        value = wide(tl.load(x + m * x_pitch + c, mask=inside, other=0.0))
        gradient = wide(tl.load(dy + m * dy_pitch + c, mask=inside, other=0.0))
        if mask is not None:
            alive = wide(tl.load(mask + m * mask_pitch + c, mask=inside, other=0.0))
            gradient = tl.where(alive <= 0, 0.0, gradient)
        plain += gradient
        against += tl.where(inside, gradient * ((value - centre) * scale), 0.0)
    c = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    at = parts + (split * channels + c)
    tl.store(at, tl.sum(plain, axis=0), mask=c < channels)
    tl.store(at + splits * channels, tl.sum(against, axis=0), mask=c < channels)


@triton.jit
def _batch_norm_backward_kernel(
    x,  # [pixels, C], x_pitch; dy, mask and out the same with pitches of their own
    dy,
    mask,  # or None
    gamma,  # float32 [C], like all up to dbeta
    mean,
    invstd,
    dgamma,
    dbeta,
    out,
    pixels,
    channels,
    x_pitch,
    dy_pitch,
    mask_pitch,
    out_pitch,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    scale = tl.load(invstd + c, mask=c < channels, other=0.0)
    value = wide(tl.load(x + m * x_pitch + c, mask=inside, other=0.0))
    normal = (value - tl.load(mean + c, mask=c < channels, other=0.0)) * scale
    gradient = wide(tl.load(dy + m * dy_pitch + c, mask=inside, other=0.0))
    if mask is not None:
        alive = wide(tl.load(mask + m * mask_pitch + c, mask=inside, other=0.0))
        gradient = tl.where(alive <= 0, 0.0, gradient)
    mean_dy = tl.load(dbeta + c, mask=c < channels, other=0.0) / pixels
    mean_dyx = tl.load(dgamma + c, mask=c < channels, other=0.0) / pixels
    scale = scale * tl.load(gamma + c, mask=c < channels, other=0.0)
    dx = scale * (gradient - mean_dy - normal * mean_dyx)
    tl.store(out + m * out_pitch + c, narrow(dx, out.dtype.element_ty), mask=inside)


@triton.jit
def _response(row, c, exists, channels, k, share, SIZE: tl.constexpr):
    """k + share * the sum of x^2 over the window of channel c; `row` points to the pixels."""
    total = tl.zeros(exists.shape, tl.float32)
    for i in range(SIZE):
        at = c + (i - SIZE // 2)
        here = exists & (at >= 0) & (at < channels)
        value = wide(tl.load(row + at, mask=here, other=0.0))
        total += value * value
    return k + share * total


@triton.jit
def _lrn_kernel(
    x,  # [pixels, C], x_pitch
    out,  # the same, out_pitch
    pixels,
    channels,
    x_pitch,
    out_pitch,
    k,
    share,  # alpha / size
    beta,
    SIZE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    row = x + m * x_pitch
    response = _response(row, c, inside, channels, k, share, SIZE)
    y = wide(tl.load(row + c, mask=inside, other=0.0)) * tl.exp2(-beta * tl.log2(response))
    tl.store(out + m * out_pitch + c, narrow(y, out.dtype.element_ty), mask=inside)


@triton.jit
def _lrn_backward_kernel(
    x,  # [pixels, C], x_pitch
    dy,  # the same, dy_pitch
    out,  # dx, the same, out_pitch
    pixels,
    channels,
    x_pitch,
    dy_pitch,
    out_pitch,
    k,
    share,  # alpha / size
    beta,
    SIZE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    """dx = dy d^-beta - 2 beta share x * sum of dy x d^(-beta - 1) over the windows c is in."""
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    x_row, dy_row = x + m * x_pitch, dy + m * dy_pitch
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for i in range(SIZE):
        at = c + (i - (SIZE - 1) // 2)  # the window, mirrored
        here = inside & (at >= 0) & (at < channels)
        power = tl.log2(_response(x_row, at, here, channels, k, share, SIZE))
        value = wide(tl.load(x_row + at, mask=here, other=0.0))
        gradient = wide(tl.load(dy_row + at, mask=here, other=0.0))
        total += tl.where(here, gradient * value * tl.exp2((-beta - 1.0) * power), 0.0)
    power = tl.log2(_response(x_row, c, inside, channels, k, share, SIZE))
    value = wide(tl.load(x_row + c, mask=inside, other=0.0))
    gradient = wide(tl.load(dy_row + c, mask=inside, other=0.0))
    dx = gradient * tl.exp2(-beta * power) - 2.0 * beta * share * value * total
    tl.store(out + m * out_pitch + c, narrow(dx, out.dtype.element_ty), mask=inside)


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """How many splits the sums of a batch norm take, of how many pixels each."""
    if function not in ("batch_norm_training", "batch_norm_backward"):
        return Config("triton", reason="one kernel")
    n, h, w, c = arguments["x"].shape
    splits, rows = splits_of_pixels(n * h * w, c)
    reason = f"{splits} sums of {rows} pixels, joined in order"
    return Config("split sums", (("splits", splits), ("rows", rows)), 8 * splits * c, reason)


def _launch(kernel: Any, x: Array, *arguments: Any, long: bool, **constants: Any) -> None:
    """Launch on tiles of pixels x channels of x; `long`: offsets need 64 bits."""
    n, h, w, c = x.shape
    rows, columns = row_tile(c, TILE)
    programs = cdiv(n * h * w, rows) * cdiv(c, columns)
    constants.update(BLOCK_PIXELS=rows, BLOCK_CHANNELS=columns, LONG=long)
    launch(kernel, programs, *arguments, **constants)


def _normalise(
    x: Array, mean: Array, spread: Array, gamma: Array, beta: Array, out: Array, **constants: Any
) -> None:
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(out), constants.pop("eps")
    arguments = x, mean, spread, gamma, beta, out, *sizes
    _launch(_normalise_kernel, x, *arguments, long=large(x, out), **constants)


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
        _statistics_kernel,
        splits * cdiv(c, broad),
        *(x, parts, pixels, c, pixel_pitch(x), rows, splits),
        BLOCK_PIXELS=high,
        BLOCK_CHANNELS=broad,
    )
    deep = power_of_two(splits, 1, 256)
    columns = min(broad, TILE // deep)
    launch(
        _join_statistics_kernel,
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
        _batch_norm_sums_kernel,
        splits * cdiv(c, broad),
        *(x, dy, mask, mean, invstd, parts, pixels, c, *pitches, rows, splits),
        BLOCK_PIXELS=high,
        BLOCK_CHANNELS=broad,
    )
    add_in_order(parts[: splits * c], dbeta, splits)
    add_in_order(parts[splits * c :], dgamma, splits)
    arguments = x, dy, mask, gamma, mean, invstd, dgamma, dbeta, out, pixels, c, *pitches
    long = large(x, dy, mask, out)
    _launch(_batch_norm_backward_kernel, x, *arguments, pixel_pitch(out), long=long)


@spec.implements(spec.lrn)
def lrn(x: Array, out: Out, *, op: LRN) -> None:
    """out = x * response^-beta, the response summed from the neighbours in the cache."""
    usable("lrn", x=x, out=out)
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(out)
    settings = op.k, op.alpha / op.size, op.beta
    _launch(_lrn_kernel, x, x, out, *sizes, *settings, long=large(x, out), SIZE=op.size)


@spec.implements(spec.lrn_backward)
def lrn_backward(x: Array, dy: Array, out: Out, *, op: LRN) -> None:
    """One program a tile: the responses of all windows that a channel is in, computed again."""
    usable("lrn_backward", x=x, dy=dy, out=out)
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(dy), pixel_pitch(out)
    settings = op.k, op.alpha / op.size, op.beta
    arguments = x, dy, out, *sizes, *settings
    _launch(_lrn_backward_kernel, x, *arguments, long=large(x, dy, out), SIZE=op.size)
