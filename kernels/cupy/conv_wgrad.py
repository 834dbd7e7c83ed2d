"""The gradient of w: launches of conv_wgrad.cu, which holds the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import spec
from ..spec.grid import grid
from .launch import (
    Kernel,
    cdiv,
    launch,
    multiprocessors,
    type_name,
    vector_width,
)
from .reduce import add_in_order

PIXELS = 16  # of a step, as in conv_wgrad.cu
FILTER_THREADS, TAP_THREADS = 8, 16
LEAST_STEPS = 8  # of a split: fewer would be all prologue
MOST_SPLITS = 64
BLOCKS = 3  # that a multiprocessor has registers for

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WgradTile:
    """Filters and taps of a thread, and into how many shares the pixels go."""

    filters: int
    taps: int
    splits: int

    def items(self) -> tuple[tuple[str, int], ...]:
        """The tile as the entries of a `Config`."""
        return tuple(vars(self).items())

    def blocks(self, w: Shape, groups: int) -> int:
        """Blocks of one split for filters [K, R, S, C/groups]."""
        filters = cdiv(w[0] // groups, self.filters * FILTER_THREADS)
        return groups * filters * cdiv(w[1] * w[2] * w[3], self.taps * TAP_THREADS)


def wgrad_tile(pixels: int, w: Shape, op: spec.Conv2d) -> WgradTile:
    """The tile for filters [K, R, S, C/groups] summed over so many pixels: all blocks at once."""
    filters = 8 if w[0] // op.groups > 4 * FILTER_THREADS else 4
    taps = 8 if w[1] * w[2] * w[3] > 4 * TAP_THREADS else 4
    blocks = WgradTile(filters, taps, 1).blocks(w, op.groups)
    most = cdiv(pixels, PIXELS) // LEAST_STEPS
    splits = max(1, min(BLOCKS * multiprocessors() // blocks, most, MOST_SPLITS))
    return WgradTile(filters, taps, splits)


def wgrad(x: Any, dy: Any, out: Any, op: spec.Conv2d, tile: WgradTile, workspace: Any) -> None:
    """dw; `workspace` is float32 [splits * dw's size], or unused for one split."""
    n, p, q, k = dy.shape
    _, r, s, c = out.shape
    pixels, parts = n * p * q, tile.splits
    if pixels == 0:
        add_in_order(None, out, 0)
        return
    filters, grids = k // op.groups, (grid(x), grid(dy))
    width = min(vector_width(x, dy, rows=(c, filters, *(g.pitch for g in grids))), 4 * tile.taps)
    target = out if parts == 1 else workspace[: parts * out.size]
    types = f"{type_name(x)}, {width}, {tile.filters}, {tile.taps}"
    launch(
        Kernel("conv_wgrad.cu", f"conv2d_wgrad_kernel<{types}>"),
        parts * tile.blocks(out.shape, op.groups),
        FILTER_THREADS * TAP_THREADS,
        *(x, dy, target, n, x.shape[1], x.shape[2], p, q, c, filters, r, s, op.groups),
        *(*grids[0], *grids[1], *op.stride, *op.dilation, op.padding[0], op.padding[2]),
        *(op.padding_mode == "edge", cdiv(cdiv(pixels, PIXELS), parts)),
    )
    if parts > 1:
        add_in_order(target, out, parts)
