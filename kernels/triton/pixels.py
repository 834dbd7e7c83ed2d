"""Tiles of pixels x channels: how the kernels that are bound by memory cut up their arrays."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .launch import cdiv, launch
from .tiles import power_of_two, row_tile

TILE = 2048  # elements of a program at a time: 16 a thread, two 16-byte vectors of a 16-bit type
PROGRAMS = 264  # that sums are cut into: two for each multiprocessor of an H100, more do no harm
CHANNELS = 64  # of a program that sums over pixels: 128 bytes of a 16-bit type


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


def launch_on_tiles(kernel: Any, images: Any, *arguments: Any, long: bool, **more: Any) -> None:
    """Launch a kernel that begins with `tile_of_pixels` on the tiles of `images` [N,H,W,C].

    `long`: offsets need 64 bits; `more`: constants of the kernel.
    """
    n, h, w, c = images.shape
    rows, columns = row_tile(c, TILE)
    programs = cdiv(n * h * w, rows) * cdiv(c, columns)
    more.update(BLOCK_PIXELS=rows, BLOCK_CHANNELS=columns, LONG=long)
    launch(kernel, programs, *arguments, **more)


def sums_tile(channels: int) -> tuple[int, int]:
    """(pixels, channels) of the tile of a program that sums over pixels."""
    columns = power_of_two(channels, 1, CHANNELS)
    return TILE // columns, columns


def splits_of_pixels(pixels: int, channels: int) -> tuple[int, int]:
    """(splits, pixels of a split) of sums over pixels: up to about PROGRAMS programs.

    At least one split, which sums up to zero where there are no pixels.
    """
    high, broad = sums_tile(channels)
    splits = PROGRAMS // max(cdiv(channels, broad), 1)
    splits = max(min(splits, cdiv(pixels, 2 * high), 256), 1)
    rows = max(cdiv(cdiv(pixels, splits), high), 1) * high
    return max(cdiv(pixels, rows), 1), rows
