"""Sums of a gradient's columns, one for each channel: what a bias gets.

The pixels are cut into splits that do not depend on the GPU's load; each program adds up the pixels
of a split for a block of channels, and a second pass adds the splits in order (`launch.py`).
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

import math

import triton
import triton.language as tl

from ..spec.contract import Array
from .launch import add_in_order, cdiv, launch, pixel_pitch, wide
from .pixels import sums_tile


@triton.jit
def _bias_grad_kernel(
    dy,  # [pixels, K], `pitch` elements from pixel to pixel
    out,  # float32 [splits, K]
    pixels,
    channels,
    pitch,
    rows,  # pixels of a split
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    split = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    end = tl.minimum((split + 1) * rows, pixels)
    for start in range(split * rows, end, BLOCK_PIXELS):
        m = (start + tl.arange(0, BLOCK_PIXELS))[:, None]
        inside = (m < end) & (c < channels)[None, :]
        total += wide(tl.load(dy + m * pitch + c[None, :], mask=inside, other=0.0))
    tl.store(out + split * channels + c, tl.sum(total, axis=0), mask=c < channels)


def column_sums(dy: Array, out: Array, splits: int, rows: int, memory: Array) -> None:
    """out [K] = sums of dy [..., K]; splits of `rows` pixels, their sums in `memory`."""
    pixels, channels = math.prod(dy.shape[:-1]), dy.shape[-1]
    pitch = pixel_pitch(dy) if dy.ndim == 4 else channels
    high, broad = sums_tile(channels)
    sums = out if splits == 1 else memory[: splits * channels]
    launch(
        _bias_grad_kernel,
        splits * cdiv(channels, broad),
        *(dy, sums, pixels, channels, pitch, rows),
        BLOCK_PIXELS=high,
        BLOCK_CHANNELS=broad,
    )
    if splits > 1:
        add_in_order(sums, out, splits)
