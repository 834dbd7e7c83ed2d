"""Tiles of pixels x channels: how the kernels that are bound by memory cut up their arrays."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of_pixels(
    pixels, channels, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, LONG: tl.constexpr
):
    """This program's pixels [BLOCK_PIXELS, 1], channels [1, BLOCK_CHANNELS], and which exist.

    Programs count channels first. With LONG the pixels are int64, and so are offsets made of them.
    """
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    block = tl.program_id(0) // blocks
    if LONG:
        block = block.to(tl.int64)
    m = (block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    return m, c, (m < pixels) & (c < channels)
