"""Sums in a fixed order: of activations over their pixels, and of partial sums (reduce.cu).

Pixels are cut into splits by shape alone; a block sums one split for up to 128 bytes of channels,
and the sums of the splits are added in order. Same inputs, same bits.
"""

from __future__ import annotations

from typing import Any

import numpy

from .group import THREADS, group
from .launch import Kernel, cdiv, launch, type_name

MOST_LANES = 8  # of a block, as in reduce.cuh
BLOCKS = 528  # that sums are cut into: four for each multiprocessor of an H100
LEAST_WALK = 8  # pixels that a thread sums before another split is worth it
FAN_IN = 256  # rows of partial sums that one block adds up
COLUMNS = 32  # of such a block


def _channel_blocks(channels: int, width: int) -> tuple[int, int]:
    """(lanes of a block, blocks that the channels take) in groups of `width` channels."""
    groups = cdiv(channels, width)
    lanes = 1
    while lanes < min(groups, MOST_LANES):
        lanes *= 2
    return lanes, cdiv(groups, lanes)


def splits_of_pixels(pixels: int, channels: int, width: int) -> tuple[int, int]:
    """(splits, pixels of a split) of sums over pixels, for groups of `width` channels.

    At least one split, which sums up to zero where there are no pixels.
    """
    lanes, blocks = _channel_blocks(channels, width)
    rows = THREADS // lanes
    most = max(BLOCKS // max(blocks, 1), 1)
    splits = max(min(most, cdiv(pixels, LEAST_WALK * rows)), 1)
    of_split = max(cdiv(cdiv(pixels, splits), rows), 1) * rows
    return max(cdiv(pixels, of_split), 1), of_split


def strips(images: Any, splits: int) -> int:
    """The blocks of a kernel that begins with `strip_of_thread`, for images [..., C]."""
    return splits * _channel_blocks(images.shape[-1], group(images))[1]


def sum_pixels(x: Any, out: Any, splits: int, of_split: int, pitch: int, divisor: float) -> None:
    """out [splits, C] = the sums of x [..., C] over `of_split` pixels each, over `divisor`."""
    channels = x.shape[-1]
    pixels = x.size // channels if channels else 0
    launch(
        Kernel("reduce.cu", f"column_sums_kernel<{type_name(x)}, {type_name(out)}>"),
        *(strips(x, splits), THREADS, x, out),
        *(numpy.int64(pixels), channels, numpy.int64(pitch), numpy.int64(of_split), divisor),
    )


def add_in_order(parts: Any, out: Any, terms: int, scale: float = 1.0) -> None:
    """out = scale * the sum of parts [terms, out.size] (flat float32) over terms, in fixed order.

    The order is that of a tree with FAN_IN branches; parts is overwritten. Of no terms (then parts
    is None) the sum is zeros.
    """
    kernel = Kernel("reduce.cu", f"add_rows_kernel<{FAN_IN}>")
    count, stride, blocks = out.size, 1, cdiv(out.size, COLUMNS)
    while terms > FAN_IN:
        rows = cdiv(terms, FAN_IN)
        launch(kernel, blocks * rows, THREADS, parts, None, count, terms, stride, 1.0)
        terms, stride = rows, stride * FAN_IN
    launch(kernel, blocks, THREADS, parts, out, count, terms, stride, float(scale))
