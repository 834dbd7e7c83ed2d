"""The kernels of batch norm: statistics, normalisation, sums of gradients, gradient.

The statistics read x once. Every thread keeps, for each of its channels, a count, a mean and a sum
of squares about that mean (Welford 1962); means and squares of parts are then joined by

    mean = sum n_i mean_i / N,    squares = sum squares_i + n_i (mean_i - mean)^2

(Chan, Golub & LeVeque 1983): over the pixels of a program, and by a second kernel over programs.
Like two passes, and unlike E[x^2] - E[x]^2, this survives a mean far from zero. All sums are in a
fixed order: `rows` pixels a split, splits in order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import narrow, wide
from .pixels import tile_of_pixels


@triton.jit
def statistics_kernel(
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
    """The mean and the sum of squares about it of one split, for a block of channels."""
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
def join_statistics_kernel(
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
    """Mean and 1/sqrt(var + eps) from those of the splits; moves the running statistics."""
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
def normalise_kernel(
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
    """out = (x - mean) * spread * gamma + beta, then max(0, .) with RELU."""
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
def batch_norm_sums_kernel(
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
    """The sums of one split that dbeta and dgamma are made of, dy being 0 where mask <= 0."""
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    split = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    i = tl.arange(0, BLOCK_PIXELS)[:, None]
    centre = tl.load(mean + c, mask=c < channels, other=0.0)
    scale = tl.load(invstd + c, mask=c < channels, other=0.0)
    plain = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    against = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    first = split * rows
    x += first * x_pitch  # offsets from here are small: 32 bits, and half the registers
    dy += first * dy_pitch
    if mask is not None:
        mask += first * mask_pitch
    left = tl.minimum(pixels - first, rows).to(tl.int32)
    for start in range(0, left, BLOCK_PIXELS):
        inside = (i < left - start) & (c < channels)
        value = wide(tl.load(x + (i * x_pitch + c), mask=inside, other=0.0))
        gradient = wide(tl.load(dy + (i * dy_pitch + c), mask=inside, other=0.0))
        if mask is not None:
            alive = wide(tl.load(mask + (i * mask_pitch + c), mask=inside, other=0.0))
            gradient = tl.where(alive <= 0, 0.0, gradient)
            mask += BLOCK_PIXELS * mask_pitch
        plain += gradient
        against += tl.where(inside, gradient * ((value - centre) * scale), 0.0)
        x += BLOCK_PIXELS * x_pitch
        dy += BLOCK_PIXELS * dy_pitch
    c = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    at = parts + (split * channels + c)
    tl.store(at, tl.sum(plain, axis=0), mask=c < channels)
    tl.store(at + splits * channels, tl.sum(against, axis=0), mask=c < channels)


@triton.jit
def batch_norm_backward_kernel(
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
    """out = dx = gamma * invstd * (dy - dbeta / M - xhat * dgamma / M), M pixels."""
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
