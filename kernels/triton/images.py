"""Pictures: one sweep that reads a byte and writes a float for every element.

A program works on BLOCK_ELEMENTS neighbours of one image. Width and channels are constants, so
that the compiler divides by them with a multiplication and a shift.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import spec
from ..spec.contract import Array, Out
from .launch import cdiv, launch, narrow, usable

BLOCK = 1024  # elements of a program: 8 a thread, a 16-byte vector of a 16-bit type


@triton.jit
def _normalise_kernel(
    images,  # uint8 [N, height, WIDTH, CHANNELS]
    moves,  # int32 [N, 3]: down, right, mirror; or None
    mean,  # float32 [CHANNELS], as is scale
    scale,
    out,  # [N, height, WIDTH, CHANNELS]
    height,
    blocks,  # of an image
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
):
    n = tl.program_id(0) // blocks
    i = tl.program_id(0) % blocks * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    size = height * WIDTH * CHANNELS
    first = n.to(tl.int64) * size
    channel = i % CHANNELS
    row, column = i // CHANNELS // WIDTH, i // CHANNELS % WIDTH
    if moves is not None:
        column = tl.where(tl.load(moves + 3 * n + 2) != 0, WIDTH - 1 - column, column)
        column -= tl.load(moves + 3 * n + 1)
        row -= tl.load(moves + 3 * n)
    inside = (i < size) & (row >= 0) & (row < height) & (column >= 0) & (column < WIDTH)
    at = images + first + ((row * WIDTH + column) * CHANNELS + channel)
    value = tl.load(at, mask=inside, other=0).to(tl.float32)
    value = (value - tl.load(mean + channel)) * tl.load(scale + channel)
    tl.store(out + first + i, narrow(value, out.dtype.element_ty), mask=i < size)


@spec.implements(spec.normalise)
def normalise(images: Array, moves: Array | None, mean: Array, scale: Array, out: Out) -> None:
    """Each element finds the pixel that its image's move brings there, or black."""
    usable("normalise", images=images, moves=moves, mean=mean, scale=scale, out=out)
    N, H, W, C = images.shape
    blocks = cdiv(H * W * C, BLOCK)
    launch(
        _normalise_kernel,
        N * blocks,
        *(images, moves, mean, scale, out, H, blocks),
        WIDTH=W,
        CHANNELS=C,
        BLOCK_ELEMENTS=BLOCK,
    )
