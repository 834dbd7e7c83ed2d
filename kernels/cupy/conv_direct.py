"""Launches of the tiled direct convolution: which tile, and how much shared memory it takes.

The method is in conv_direct.cuh, forward and the fused pool in conv_forward.cu. A tile is chosen
from shapes alone; everything but the element type and the tile is an argument of the kernel, so a
whole network needs few instantiations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

from .. import spec
from ..spec.grid import Grid, grid
from .launch import Kernel, cdiv, launch, shared_limit, type_name, vector_width

FILTER_LANES = 8  # of a block's threads: neighbours with different filters
PATCH = 2, 4  # rows and columns of the pixels of a thread
STATIC_BYTES = 4096  # that the kernels declare beside: the shares of the bias gradient
FEW_CHANNELS, FEW_FILTERS = 4, 16  # below, smaller tiles are filled better
THREADS = ((4, 4), (4, 2))  # rows and columns of threads: tiles of 8 x 16 and 8 x 8 pixels


@dataclass(frozen=True)
class Window:
    """What a tile sees along both axes: taps, and pixels from output to output and tap to tap."""

    taps: tuple[int, int]
    stride: tuple[int, int]
    step: tuple[int, int]

    def gap(self) -> tuple[int, int]:
        """Pixels between neighbours of the halo, on whose grid lies all that a tile reads."""
        axes = zip(self.taps, self.stride, self.step, strict=True)
        h, w = (gcd(stride, step if taps > 1 else 0) for taps, stride, step in axes)
        return h, w


@dataclass(frozen=True)
class Tile:
    """The numbers of `Block` in conv_direct.cuh, and how many taps the halo serves at once."""

    chunk: int  # channels of a step
    filters: int  # of a thread
    thread_rows: int
    thread_columns: int
    window_r: int
    window_s: int

    def items(self) -> tuple[tuple[str, int], ...]:
        """The tile as the entries of a `Config`."""
        return tuple(vars(self).items())

    @property
    def rows(self) -> int:
        """Rows of pixels."""
        return PATCH[0] * self.thread_rows

    @property
    def columns(self) -> int:
        """Columns of pixels."""
        return PATCH[1] * self.thread_columns

    @property
    def block_filters(self) -> int:
        """Filters of a block."""
        return self.filters * FILTER_LANES

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return FILTER_LANES * self.thread_rows * self.thread_columns

    def template(self, array: Any, width: int) -> str:
        """The template arguments for arrays of this type, copied `width` elements at a time."""
        numbers = (min(width, self.chunk), self.chunk, self.filters)
        told = ", ".join(map(str, (*numbers, self.thread_rows, self.thread_columns)))
        return f"{type_name(array)}, {told}"

    def pitch(self, itemsize: int) -> int:
        """Elements from filter to filter in shared memory: an odd multiple of 16 bytes, or 8."""
        return self.chunk + (0 if self.chunk * itemsize % 32 else 16 // itemsize)

    def shared_bytes(self, window: Window, itemsize: int) -> int:
        """Bytes of the halo and of a row of filters, twice each, as `correlate` lays them out."""
        pixels = 1
        for outputs, stride, step, taps, gap in zip(
            (self.rows, self.columns), window.stride, window.step, window.taps, window.gap(),
            strict=True,
        ):  # fmt: skip
            pixels *= ((outputs - 1) * stride + (taps - 1) * step) // gap + 1
        halos = cdiv(2 * pixels * self.chunk, 16) * 16
        row = window.taps[1] * self.block_filters * self.pitch(itemsize)
        return itemsize * (halos + 2 * row)


def choose_tile(
    pixels: tuple[int, int], channels: int, filters: int, window: Window, itemsize: int
) -> Tile:
    """The tile of images of `pixels` rows and columns, with channels and filters of one group.

    Of the tiles whose halo for all taps fits, twice a multiprocessor, the one that covers the
    image with the fewest threads; half as many pixels read the filters twice as often, which is
    worth a quarter more. Where no halo fits, it serves one tap at a time.
    """
    chunk = 4 if channels <= FEW_CHANNELS else 8
    if window.taps == (1, 1) and channels > 8:
        chunk = 16  # more products between two barriers
    of_thread = 2 if filters <= FEW_FILTERS else 8
    tiles = [Tile(chunk, of_thread, *threads, *window.taps) for threads in THREADS]

    def cost(tile: Tile) -> int:
        threads = cdiv(pixels[0], tile.rows) * cdiv(pixels[1], tile.columns) * tile.threads
        return threads * (4 if tile is tiles[0] else 5)

    limit = shared_limit() - STATIC_BYTES
    for room in (limit // 2, limit):
        for tile in sorted(tiles, key=cost):
            if tile.shared_bytes(window, itemsize) <= room:
                return tile
    return replace(min(tiles, key=cost), window_r=1, window_s=1)


def grid_of(array: Any) -> Grid:
    """Where the pixels of an array lie, or of None."""
    return Grid(0, 0, 0) if array is None else grid(array)


def window_of(op: spec.Conv2d, tile: Tile) -> Window:
    """What a tile sees of x in the forward pass, with the taps that its halo serves."""
    return Window((tile.window_r, tile.window_s), op.stride, op.dilation)


def forward_tile(
    shape: tuple[int, ...], w: tuple[int, ...], op: spec.Conv2d, itemsize: int
) -> Tile:
    """The tile of conv2d with output [N, P, Q, K] and filters [K, R, S, C/groups]."""
    window = Window((w[1], w[2]), op.stride, op.dilation)
    return choose_tile((shape[1], shape[2]), w[3], w[0] // op.groups, window, itemsize)


def forward(
    x: Any, w: Any, b: Any, residual: Any, out: Any, op: spec.Conv2d, relu: bool, tile: Tile
) -> None:
    """out = conv(x, w) + b + residual, then ReLU."""
    extents = out.shape[1], out.shape[2]
    _launch("false", (x, w, b, residual, out, None), extents, op, relu, tile)


def forward_pooled(
    x: Any, w: Any, b: Any, out: Any, code: Any, op: spec.Conv2d, tile: Tile
) -> None:
    """out, code = max_pool(relu(conv(x, w) + b)) over 2x2 windows."""
    extents = 2 * out.shape[1], 2 * out.shape[2]
    _launch("true", (x, w, b, None, out, code), extents, op, True, tile)


def _launch(
    pool: str,
    arrays: tuple[Any, ...],  # x, w, b, residual, out, code
    extents: tuple[int, int],  # P and Q
    op: spec.Conv2d,
    relu: bool,
    tile: Tile,
) -> None:
    x, w, _, residual, out, _ = arrays
    n, height, width, _ = x.shape
    k, r, s, c = w.shape
    filters, grids = k // op.groups, (grid(x), grid_of(residual), grid(out))
    window = window_of(op, tile)
    copied = vector_width(x, w, rows=(c, grids[0].pitch))
    launch(
        Kernel("conv_forward.cu", f"conv2d_kernel<{tile.template(x, copied)}, {pool}>"),
        n * op.groups * cdiv(filters, tile.block_filters)
        * cdiv(extents[0], tile.rows) * cdiv(extents[1], tile.columns),
        tile.threads,
        *(*arrays, height, width, *extents, c, filters, r, s),
        *(op.groups, *grids[0], *grids[1], *grids[2]),
        *(*op.stride, *op.dilation, op.padding[0], op.padding[2]),
        *(op.padding_mode == "edge", relu, *window.gap(), tile.window_r, tile.window_s),
        shared_bytes=tile.shared_bytes(window, x.dtype.itemsize),
    )  # fmt: skip
