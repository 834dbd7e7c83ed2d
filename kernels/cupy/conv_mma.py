"""Convolution on tensor cores: tiles, and the launches of conv_mma.cu, _dgrad.cu and _wgrad.cu.

Each pass is a matrix product whose operands are gathered while they are multiplied:

    forward   out [pixels, K]   =  patches of x [pixels, (r, s, c)]   @  w [(r, s, c), K]
    dgrad     dx [pixels, C]    =  patches of dy [pixels, (r, s, k)]  @  w [(r, s, k), C], by phases
    wgrad     dw [K, (r, s, c)] =  sum over splits of  dy [pixels, K] transposed  @  patches of x

float16 and bfloat16 are multiplied as they are; float32 as one TF32 product ("tf32") or as three
("tf32x3"). Sums are float32 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

from ..spec import Conv2d
from ..spec.grid import Grid, grid, positions
from .launch import LARGE, Kernel, address, cdiv, launch, multiprocessors, type_name
from .reduce import add_in_order

CHUNK_BYTES = 16  # of a copy
DEPTH_BYTES = 64  # of a step of the depth
STAGES = 4
LEAST_CHANNELS = 8  # of a group: with fewer, most of each product would be padding
LEAST_STEPS = 8  # of a split of wgrad: fewer would be all prologue
MOST_SPLITS = 64
NO_GRID = Grid(0, 0, 0)

# (rows, columns) of a tile -> those of a warp: four warps, or eight for the largest
WARPS = {
    (128, 128): (64, 32),
    (128, 64): (64, 32),
    (64, 128): (32, 64),
    (128, 32): (32, 32),
    (32, 128): (32, 32),
    (64, 64): (32, 32),
    (64, 32): (32, 16),
    (32, 64): (16, 32),
    (32, 32): (16, 16),
}


@dataclass(frozen=True)
class MmaTile:
    """What a block works on, in elements, and the stages of its pipeline.

    `group` tiles of rows run side by side before the next column of tiles.
    """

    rows: int
    columns: int
    depth: int
    stages: int = STAGES
    group: int = 8

    def items(self) -> tuple[tuple[str, int], ...]:
        """The tile as the entries of a `Config`."""
        return tuple(vars(self).items())

    @property
    def warp(self) -> tuple[int, int]:
        """(rows, columns) of the tile that one warp multiplies."""
        return WARPS[self.rows, self.columns]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.rows // self.warp[0]) * (self.columns // self.warp[1])

    @property
    def name(self) -> str:
        """The tile as a template argument."""
        sizes = (self.rows, self.columns, self.depth, *self.warp, self.stages)
        return f"Tile<{', '.join(map(str, sizes))}>"

    def shared_bytes(self, itemsize: int) -> int:
        """Dynamic shared memory: the stages of both operands, or the staged sums in their place."""
        stages = self.stages * (self.rows + self.columns) * self.depth * itemsize
        return max(stages, 4 * self.rows * (self.columns + 8))


def takes(dtype: str, op: Conv2d, pixels: int, filters: int, channels: int) -> str | None:
    """Why these kernels do not take a convolution; None if they do.

    `pixels` is the larger of N*H*W and N*P*Q; `filters` and `channels` are those of a group.
    """
    if dtype == "float32" and op.precision == "ieee":
        return "tensor cores have no IEEE products of float32"
    few = max(filters, channels) if op.groups == 1 else min(filters, channels)
    if few < LEAST_CHANNELS:
        return f"{channels} channels and {filters} filters a group would mostly be padding"
    if 4 * pixels > LARGE - 2**16:
        return f"{pixels} pixels are more than their 32-bit numbers count"
    return None


def tile(rows: int, columns: int, itemsize: int, batch: int = 1, processors: int = 1) -> MmaTile:
    """The tile of `batch` products [rows, columns] of elements of `itemsize` bytes.

    It is no larger than the product and is halved, down to 32, while there are fewer tiles than
    `processors`.
    """
    high, wide = (min(max(1 << (n - 1).bit_length(), 32), 128) for n in (max(rows, 1), columns))
    while batch * cdiv(rows, high) * cdiv(columns, wide) < processors and max(high, wide) > 32:
        if high >= wide:
            high //= 2
        else:
            wide //= 2
    return MmaTile(high, wide, DEPTH_BYTES // itemsize)


def splits(tile: MmaTile, pixels: int, rows: int, columns: int, groups: int) -> int:
    """Into how many shares wgrad's pixels go: about two blocks for each multiprocessor."""
    tiles = groups * cdiv(rows, tile.rows) * cdiv(columns, tile.columns)
    most = cdiv(pixels, tile.depth) // LEAST_STEPS
    return max(1, min(2 * multiprocessors() // tiles, most, MOST_SPLITS))


def padded(channels: int, itemsize: int) -> int:
    """Channels of a group, counted in whole chunks."""
    chunk = CHUNK_BYTES // itemsize
    return cdiv(channels, chunk) * chunk


def _aligned(*arrays: Any, rows: tuple[int, ...]) -> bool:
    """Whether all arrays (None is left out) begin at a chunk, and `rows` are whole chunks."""
    given = [array for array in arrays if array is not None]
    chunk = CHUNK_BYTES // given[0].dtype.itemsize
    return not any(address(a) % CHUNK_BYTES for a in given) and not any(n % chunk for n in rows)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _parts(op: Conv2d) -> int:
    return 2 if op.precision == "tf32x3" else 1


def _grid(array: Any) -> Grid:
    return NO_GRID if array is None else grid(array)


def forward(
    x: Any, w: Any, b: Any, residual: Any, out: Any, op: Conv2d, relu: bool, tile: MmaTile
) -> None:
    """Launch `conv2d_mma_kernel`: a block for each group, tile of pixels and tile of filters."""
    _forward(x, w, b, residual, out, None, op, relu, tile, pool=False)


def forward_pooled(x: Any, w: Any, b: Any, out: Any, code: Any, op: Conv2d, tile: MmaTile) -> None:
    """Launch `conv2d_mma_kernel` with its pool: a block's rows are the pixels of whole windows."""
    _forward(x, w, b, None, out, code, op, True, tile, pool=True)


def _forward(
    x: Any, w: Any, b: Any, residual: Any, out: Any, code: Any,
    op: Conv2d, relu: bool, tile: MmaTile, pool: bool,
) -> None:  # fmt: skip
    (n, p, q, k), (_, r, s, c) = out.shape, w.shape
    filters, outputs = k // op.groups, n * p * q
    rows = outputs * (4 if pool else 1)
    grids = (grid(x), _grid(residual), grid(out))
    loads = _aligned(x, w, rows=(c, grids[0].pitch))
    stores = _aligned(out, residual, code, b, rows=(filters, grids[1].pitch, grids[2].pitch))
    flags = map(_flag, (op.padding_mode == "edge", pool, loads))
    arguments = (type_name(x), tile.name, str(_parts(op)), *flags)
    launch(
        Kernel("conv_mma.cu", f"conv2d_mma_kernel<{', '.join(arguments)}>"),
        op.groups * cdiv(rows, tile.rows) * cdiv(filters, tile.columns),
        tile.threads,
        *(x, w, b, residual, out, code, outputs),
        *(x.shape[1], x.shape[2], p, q, c, filters, r, s),
        *(*op.stride, *op.dilation, op.padding[0], op.padding[2]),
        *(*grids[0], *grids[1], *grids[2], op.groups, int(relu), int(stores), tile.group),
        shared_bytes=tile.shared_bytes(x.dtype.itemsize),
    )


def phase_tiles(shape: tuple[int, ...], op: Conv2d, tile: MmaTile) -> int:
    """Tiles of rows in the largest phase of dgrad for images of this shape [N, H, W, C]."""
    pixels = shape[0] * cdiv(shape[1], op.stride[0]) * cdiv(shape[2], op.stride[1])
    return cdiv(pixels, tile.rows)


def shares(shape: tuple[int, ...], op: Conv2d, tile: MmaTile) -> int:
    """Rows of partial sums of db that dgrad leaves for images of this shape [N, H, W, C]."""
    return op.stride[0] * op.stride[1] * phase_tiles(shape, op, tile)


def dgrad(
    dy: Any, w: Any, out: Any, mask: Any, sums: Any, op: Conv2d, tile: MmaTile,
    corner: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Launch `conv2d_dgrad_mma_kernel`: a block for each group, phase and tile of dx.

    `sums` float32 [shares, C] receives the tiles' column sums, or is None; `corner` is (top, left)
    where it is not the padding's. `out` may be float32 whatever dy is.
    """
    (n, h, v, _), (k, r, s, c) = out.shape, w.shape
    filters, row_tiles = k // op.groups, phase_tiles(out.shape, op, tile)
    top, left = corner or (op.padding[0], op.padding[2])
    grids = (grid(dy), _grid(mask), grid(out))
    loads = _aligned(dy, w, rows=(filters, grids[0].pitch, c))
    stores = _aligned(dy, out, mask, rows=(c, grids[1].pitch, grids[2].pitch))
    arguments = (type_name(dy), type_name(out), tile.name, str(_parts(op)), _flag(loads))
    phases = op.stride[0] * op.stride[1]
    common = tuple(map(gcd, op.stride, op.dilation))
    launch(
        Kernel("conv_mma_dgrad.cu", f"conv2d_dgrad_mma_kernel<{', '.join(arguments)}>"),
        op.groups * phases * row_tiles * cdiv(c, tile.columns),
        tile.threads,
        *(dy, w, out, mask, sums, n, h, v, dy.shape[1], dy.shape[2], c, filters, r, s),
        *(*op.stride, *op.dilation),
        *(op.stride[0] // common[0], op.stride[1] // common[1]),
        *(op.dilation[0] // common[0], op.dilation[1] // common[1], top, left),
        *(*grids[0], *grids[1], *grids[2], op.groups, row_tiles, int(stores), tile.group),
        shared_bytes=tile.shared_bytes(dy.dtype.itemsize),
    )


def wgrad(x: Any, dy: Any, out: Any, op: Conv2d, tile: MmaTile, parts: int, memory: Any) -> None:
    """dw from `parts` splits; `memory` is float32 [parts * dw's size], or unused for one split."""
    (n, p, q, _), (k, r, s, c) = dy.shape, out.shape
    pixels, filters, itemsize = positions(dy), k // op.groups, x.dtype.itemsize
    if pixels == 0:
        out[...] = 0
        return
    grids = (grid(x), grid(dy))
    loads = _aligned(x, dy, rows=(c, filters, grids[0].pitch, grids[1].pitch))
    flags = map(_flag, (op.padding_mode == "edge", loads))
    arguments = (type_name(x), tile.name, str(_parts(op)), *flags)
    columns = r * s * padded(c, itemsize)
    target = out if parts == 1 else memory[: parts * out.size]
    launch(
        Kernel("conv_mma_wgrad.cu", f"conv2d_wgrad_mma_kernel<{', '.join(arguments)}>"),
        op.groups * parts * cdiv(filters, tile.rows) * cdiv(columns, tile.columns),
        tile.threads,
        *(x, dy, target, n, x.shape[1], x.shape[2], p, q, c, filters, r, s),
        *(*op.stride, *op.dilation, op.padding[0], op.padding[2]),
        *(*grids[0], *grids[1], op.groups, pixels, parts),
        *(cdiv(cdiv(pixels, tile.depth), parts), tile.group),
        shared_bytes=tile.shared_bytes(itemsize),
    )
    if parts > 1:
        add_in_order(target, out, parts)
