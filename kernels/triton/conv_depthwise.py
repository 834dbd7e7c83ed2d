"""Depthwise convolution: every filter sees one channel, so there is no matrix product to form.

    out[n,p,q,k]   = sum over r,s of    x[n,h,v,k // m] * w[k,r,s]       m filters a channel
    dx[n,h,v,c]    = sum over j,r,s of  dy[n,p,q,c * m + j] * w[c * m + j,r,s]
    dw[k,r,s]      = sum over n,p,q of  dy[n,p,q,k] * x[n,h,v,k // m]

As products with tensor cores these would be one column of sixteen. Here threads lie along the
channels, where neighbours in memory are neighbours, and add float32 products on plain cores: the
work is bound by memory, and a pixel that several taps see comes from the cache. A tile is
[BLOCK_PIXELS, BLOCK_CHANNELS]. The gradient of w has a program for each tap and share of the
pixels; shares are added in order by the caller, as in `conv_wgrad.py`.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec.grid import grid, positions
from .border import placed
from .conv_gather import load_pixels, within
from .launch import cdiv, large, launch, narrow, wide
from .tiles import Tile, power_of_two

MOST_FILTERS = 4  # a channel: with more of them a product fills tensor cores
LEAST_STEPS = 8  # blocks of pixels in a share of wgrad


def is_depthwise(w_shape: tuple[int, ...], op: spec.Conv2d) -> bool:
    """Whether filters [K, R, S, C / groups] see one channel each, and few of them the same."""
    return op.groups > 1 and w_shape[3] == 1 and w_shape[0] // op.groups <= MOST_FILTERS


def depthwise_tile(pixels: int, channels: int, processors: int) -> Tile:
    """4096 sums, up to 64 channels wide; fewer where processors would have no tile.

    A thread with 4 pixels of 8 channels loads each weight once for all four: weights of neighbour
    channels lie R * S apart, and cost as many loads as 8 pixels.
    """
    columns, sums = power_of_two(channels, 1, 64), 4096
    while sums > 1024 and cdiv(pixels, sums // columns) * cdiv(channels, columns) < processors:
        sums //= 2
    return Tile(sums // columns, columns, depth=1, group=1, warps=4, stages=2)


def one_phase(op: spec.Conv2d) -> spec.Conv2d:
    """`op` as the scratch memory of dgrad sees it: its tiles do not go by phases of the stride."""
    return replace(op, stride=(1, 1))


def shares(pixels: int, w_shape: tuple[int, ...], tile: Tile, processors: int) -> int:
    """Into how many shares wgrad's pixels go: about two programs for each multiprocessor."""
    programs = w_shape[1] * w_shape[2] * cdiv(w_shape[0], tile.columns)
    most = cdiv(pixels, tile.rows * LEAST_STEPS)
    return max(1, min(2 * processors // programs, most))


@triton.jit
def _depthwise_kernel(
    x,  # [N, H, W, C]
    w,  # [K, R, S]
    b,  # [K] float32 or None
    residual,  # [N, P, Q, K] or None
    out,  # [N, P, Q, K]
    pixels, H, W, P, Q,
    x_pitch, residual_lines, residual_line, residual_pitch, out_lines, out_line, out_pitch,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, M: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
    EDGE: tl.constexpr, RELU: tl.constexpr, BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of out."""
    column_tiles: tl.constexpr = (K + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    row = tl.program_id(0) // column_tiles
    if LONG:
        row = row.to(tl.int64)
    m = (row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    column = tl.program_id(0) % column_tiles
    k = (column * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    ok = (m < pixels) & (k < K)
    n = m // Q // P
    h0 = m // Q % P * STRIDE_H - TOP
    w0 = m % Q * STRIDE_W - LEFT
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for tap in range(R * S):
        h = h0 + tap // S * DILATION_H
        v = w0 + tap % S * DILATION_W
        seen = load_pixels(x, n, h, v, k // M, ok, H, W, x_pitch, EDGE)
        weight = tl.load(w + (k * (R * S) + tap), mask=k < K, other=0.0)
        total += wide(seen) * wide(weight)
    if b is not None:
        total += tl.load(b + k, mask=k < K, other=0.0)
    if residual is not None:
        at = placed(m, P, Q, residual_lines, residual_line, BORDER)
        total += wide(tl.load(residual + (at * residual_pitch + k), mask=ok, other=0.0))
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # a NaN is not below 0
    at = placed(m, P, Q, out_lines, out_line, BORDER)
    tl.store(out + (at * out_pitch + k), narrow(total, out.dtype.element_ty), mask=ok)


@triton.jit
def _depthwise_dgrad_kernel(
    dy,  # [N, P, Q, K]
    w,  # [K, R, S]
    mask,  # [N, H, W, C] or None
    sums,  # [row tiles, C] float32 or None: the shares of db
    out,  # [N, H, W, C]
    pixels, H, W, P, Q,
    dy_pitch, mask_lines, mask_line, mask_pitch, out_lines, out_line, out_pitch,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, M: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of out; a tap counts where the stride leads from a pixel of out to one of dy."""
    column_tiles: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    row = tl.program_id(0) // column_tiles
    if LONG:
        row = row.to(tl.int64)
    m = (row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    column = tl.program_id(0) % column_tiles
    c = (column * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    ok = (m < pixels) & (c < C)
    n = m // W // H
    h = m // W % H + TOP
    v = m % W + LEFT
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for step in range(R * S * M):
        tap = step // M
        k = c * M + step % M
        up = h - tap // S * DILATION_H
        over = v - tap % S * DILATION_W
        p = up // STRIDE_H
        q = over // STRIDE_W
        here = (p * STRIDE_H == up) & (q * STRIDE_W == over) & within(p, P) & within(q, Q)
        part = tl.load(dy + (((n * P + p) * Q + q) * dy_pitch + k), mask=ok & here, other=0.0)
        weight = tl.load(w + (k * (R * S) + tap), mask=c < C, other=0.0)
        total += tl.where(here, wide(part) * wide(weight), 0.0)
    if mask is not None:
        at = placed(m, H, W, mask_lines, mask_line, BORDER)
        gate = tl.load(mask + (at * mask_pitch + c), mask=ok, other=0.0)
        total = tl.where(wide(gate) <= 0, 0.0, total)  # a NaN is not below 0
    if sums is not None:
        tl.store(sums + (row * C + c), tl.sum(tl.where(ok, total, 0.0), 0)[None, :], mask=c < C)
    at = placed(m, H, W, out_lines, out_line, BORDER)
    tl.store(out + (at * out_pitch + c), narrow(total, out.dtype.element_ty), mask=ok)


@triton.jit
def _depthwise_wgrad_kernel(
    x,  # [N, H, W, C]
    dy,  # [N, P, Q, K]
    out,  # [shares, K, R, S] float32
    pixels, H, W, P, Q, steps,  # steps of BLOCK_PIXELS in a share
    x_pitch, dy_pitch,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, M: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, EDGE: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tap of BLOCK_CHANNELS filters over one share of the pixels."""
    column_tiles: tl.constexpr = (K + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    tap = tl.program_id(0) % (R * S)  # all taps of a share run together, and share its pixels
    column = tl.program_id(0) // (R * S) % column_tiles
    share = tl.program_id(0) // (R * S) // column_tiles
    k = (column * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    first = share * steps * BLOCK_PIXELS
    if LONG:
        first = share.to(tl.int64) * steps * BLOCK_PIXELS
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for step in range(steps):
        m = (first + step * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
        h = m // Q % P * STRIDE_H - TOP + tap // S * DILATION_H
        v = m % Q * STRIDE_W - LEFT + tap % S * DILATION_W
        ok = (m < pixels) & (k < K)
        seen = load_pixels(x, m // Q // P, h, v, k // M, ok, H, W, x_pitch, EDGE)
        part = tl.load(dy + (m * dy_pitch + k), mask=ok, other=0.0)
        total += wide(seen) * wide(part)
    at = (share * K + k) * (R * S) + tap
    tl.store(out + at, tl.sum(total, 0)[None, :], mask=k < K)


def _constants(op: spec.Conv2d, w_shape: tuple[int, ...], corner: Any, tile: Tile) -> Any:
    return {
        **{"R": w_shape[1], "S": w_shape[2], "M": w_shape[0] // op.groups},
        **{"STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1]},
        **{"DILATION_H": op.dilation[0], "DILATION_W": op.dilation[1]},
        **{"TOP": corner[0], "LEFT": corner[1]},
        **{"BLOCK_PIXELS": tile.rows, "BLOCK_CHANNELS": tile.columns, "warps": tile.warps},
    }


def forward(
    x: Any, w: Any, b: Any, residual: Any, out: Any, op: spec.Conv2d, relu: bool, tile: Tile
) -> None:
    """Launch `_depthwise_kernel`: a program for each tile of pixels and filters."""
    n, p, q, k = out.shape
    seen, beside, here = grid(x), grid(out if residual is None else residual), grid(out)
    launch(
        _depthwise_kernel,
        cdiv(n * p * q, tile.rows) * cdiv(k, tile.columns),
        *(x, w, b, residual, out, n * p * q, seen.lines, seen.line, p, q),
        *(seen.pitch, *beside, *here),
        K=k,
        EDGE=op.padding_mode == "edge",
        RELU=relu,
        BORDER=(*beside[:2], *here[:2]) != (p, q, p, q),
        LONG=large(x, residual, out),
        **_constants(op, w.shape, (op.padding[0], op.padding[2]), tile),
    )


def dgrad(
    dy: Any, w: Any, out: Any, mask: Any, sums: Any, op: spec.Conv2d, corner: Any, tile: Tile
) -> None:
    """Launch `_depthwise_dgrad_kernel`; `sums` has a row for each tile of pixels.

    `corner` is (rows, columns) of padding in front of the first pixel of out.
    """
    n, h, width, c = out.shape
    seen, beside, here = grid(dy), grid(out if mask is None else mask), grid(out)
    launch(
        _depthwise_dgrad_kernel,
        cdiv(n * h * width, tile.rows) * cdiv(c, tile.columns),
        *(dy, w, mask, sums, out, n * h * width, h, width, seen.lines, seen.line),
        *(seen.pitch, *beside, *here),
        C=c,
        BORDER=(*beside[:2], *here[:2]) != (h, width, h, width),
        LONG=large(dy, mask, out),
        **_constants(op, w.shape, corner, tile),
    )


def wgrad(
    x: Any, dy: Any, out: Any, op: spec.Conv2d, shape: tuple[int, ...], tile: Tile, parts: int
) -> None:
    """Launch `_depthwise_wgrad_kernel`; out is float32 [parts, *shape], dw's shape [K, R, S, 1]."""
    seen, summed = grid(x), grid(dy)
    pixels = positions(dy)  # a border adds zeros
    launch(
        _depthwise_wgrad_kernel,
        parts * shape[1] * shape[2] * cdiv(shape[0], tile.columns),
        *(x, dy, out, pixels, seen.lines, seen.line, summed.lines, summed.line),
        *(cdiv(cdiv(pixels, tile.rows), parts), seen.pitch, summed.pitch),
        K=shape[0],
        EDGE=op.padding_mode == "edge",
        LONG=large(x, dy),
        **_constants(op, shape, (op.padding[0], op.padding[2]), tile),
    )
