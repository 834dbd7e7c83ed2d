"""The gradient of x by direct convolution: launches of conv_dgrad.cu, which holds the method.

Edge padding repeats border pixels, so that their gradient sums many pixels of the padded image:
that image's gradient goes to the workspace in float32, and a second kernel gathers from it.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy

from .. import spec
from ..spec.grid import grid
from .conv_direct import Tile, Window, choose_tile, grid_of
from .launch import Kernel, cdiv, launch, type_name, vector_width
from .reduce import add_in_order

FOLD_PIXELS, FOLD_CHANNELS, FOLD_THREADS = 64, 32, 256  # of a block of fold_kernel

Shape = tuple[int, ...]


def _commons(op: spec.Conv2d) -> tuple[int, int]:
    """The greatest common divisor of stride and dilation, along both axes."""
    h, w = (gcd(a, b) for a, b in zip(op.stride, op.dilation, strict=True))
    return h, w


def _phase_taps(w: Shape, op: spec.Conv2d) -> tuple[int, int]:
    """The most taps that a phase meets, along both axes."""
    common = _commons(op)
    return cdiv(w[1], op.stride[0] // common[0]), cdiv(w[2], op.stride[1] // common[1])


def _window(taps: tuple[int, int], op: spec.Conv2d) -> Window:
    """What a tile of a phase sees of dy."""
    common = _commons(op)
    return Window(taps, (1, 1), (op.dilation[0] // common[0], op.dilation[1] // common[1]))


def is_folded(op: spec.Conv2d) -> bool:
    """Whether dx is gathered from the gradient of its padded form."""
    return op.padding_mode == "edge" and any(op.padding)


def _phase_extents(shape: Shape, op: spec.Conv2d) -> tuple[int, int]:
    """Rows and columns of the largest phase of images [N, H, W, C]."""
    return cdiv(shape[1], op.stride[0]), cdiv(shape[2], op.stride[1])


def dgrad_tile(out: Shape, w: Shape, op: spec.Conv2d, itemsize: int) -> Tile:
    """The tile for dx of shape [N, H, W, C] and filters [K, R, S, C/groups]."""
    shape = op.padded_shape(out) if is_folded(op) else out
    window = _window(_phase_taps(w, op), op)
    return choose_tile(_phase_extents(shape, op), w[0] // op.groups, w[3], window, itemsize)


def _pixel_blocks(shape: Shape, op: spec.Conv2d, tile: Tile) -> int:
    """Blocks of pixels in images [N, H, W, C]: the tiles of all phases."""
    rows, columns = _phase_extents(shape, op)
    phases = op.stride[0] * op.stride[1]
    return shape[0] * phases * cdiv(rows, tile.rows) * cdiv(columns, tile.columns)


def scratch_floats(shape: Shape, op: spec.Conv2d, tile: Tile, db: bool) -> tuple[int, int]:
    """float32 of workspace for dx of this shape: (the padded gradient, the shares of db)."""
    if is_folded(op):
        return fold_floats(shape, op, db)
    return 0, _pixel_blocks(shape, op, tile) * shape[3] if db else 0


def fold_floats(shape: Shape, op: spec.Conv2d, db: bool) -> tuple[int, int]:
    """float32 that `fold` needs for dx of this shape: (the padded gradient, the shares of db)."""
    n, h, w, c = op.padded_shape(shape)
    blocks = cdiv(shape[0] * shape[1] * shape[2], FOLD_PIXELS)
    return n * h * w * c, blocks * c if db else 0


def dgrad(
    dy: Any, w: Any, out: Any, mask: Any, db: Any, op: spec.Conv2d, tile: Tile, workspace: Any
) -> None:
    """dx, its mask and db; `workspace` is float32 of `scratch_floats`."""
    padded, shares = scratch_floats(out.shape, op, tile, db is not None)
    sums = workspace[padded : padded + shares] if shares else None
    if not padded:
        _product(dy, w, out, mask, sums, op, (op.padding[0], op.padding[2]), tile)
    else:
        whole = workspace[:padded].reshape(op.padded_shape(out.shape))
        _product(dy, w, whole, None, None, op, (0, 0), tile)
        fold(whole, out, mask, sums, op)
    if db is not None:
        if sums is None:
            add_in_order(None, db, 0)  # no pixels
        else:
            add_in_order(sums, db, shares // out.shape[3])


def _product(
    dy: Any, w: Any, out: Any, mask: Any, sums: Any, op: spec.Conv2d, corner: Any, tile: Tile
) -> None:
    _, height, width, _ = out.shape
    k, r, s, c = w.shape
    depth, grids = k // op.groups, (grid(dy), grid_of(mask), grid(out))
    all_taps = _phase_taps(w.shape, op)
    whole = (tile.window_r, tile.window_s) == all_taps
    window = _window((tile.window_r, tile.window_s), op)
    copied = vector_width(dy, rows=(depth, grids[0].pitch))
    name = f"conv2d_dgrad_kernel<{tile.template(dy, copied)}, {type_name(out)}>"
    launch(
        Kernel("conv_dgrad.cu", name),
        _pixel_blocks(out.shape, op, tile) * op.groups * cdiv(c, tile.block_filters),
        tile.threads,
        *(dy, w, out, mask, sums, height, width, *dy.shape[1:3], c, depth, r, s, op.groups),
        *(*grids[0], *grids[1], *grids[2]),
        *(*op.stride, *op.dilation, *corner, *_commons(op), whole),
        shared_bytes=tile.shared_bytes(window, dy.dtype.itemsize),
    )


def fold(whole: Any, out: Any, mask: Any, sums: Any, op: spec.Conv2d) -> None:
    """dx from the float32 gradient of its padded form, and the shares of db, or None."""
    n, height, width, c = out.shape
    pixels = n * height * width
    launch(
        Kernel("conv_dgrad.cu", f"fold_kernel<{type_name(out)}>"),
        cdiv(pixels, FOLD_PIXELS) * cdiv(c, FOLD_CHANNELS),
        FOLD_THREADS,
        *(whole, out, mask, sums, numpy.int64(pixels), height, width, c),
        *(*grid_of(mask), *grid(out), *op.padding),
    )
