"""Convolution on tensor cores: tiles, and the launches of conv_mma.cu, _dgrad.cu and _wgrad.cu.

Each pass is a matrix product whose operands are gathered while they are multiplied:

    forward   out [pixels, K]   =  patches of x [pixels, (r, s, c)]   @  w [(r, s, c), K]
    dgrad     dx [pixels, C]    =  patches of dy [pixels, (r, s, k)]  @  w [(r, s, k), C], by phases
    wgrad     dw [K, (r, s, c)] =  sum over splits of  dy [pixels, K] transposed  @  patches of x

float16 and bfloat16 are multiplied as they are; float32 as one TF32 product ("tf32") or as three
("tf32x3"). Sums are float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

from ..spec import Config, Conv2d
from ..spec.contract import ITEMSIZE, dtype_name
from ..spec.grid import Grid, grid, positions
from .conv_dgrad import Shape, fold, fold_floats, is_folded
from .conv_mma_tile import CHUNK_BYTES, MmaTile, padded, splits, tile
from .launch import LARGE, Kernel, address, cdiv, launch, multiprocessors, type_name
from .reduce import add_in_order

LEAST_CHANNELS = 8  # of a group: with fewer, most of each product would be padding
NO_GRID = Grid(0, 0, 0)


def refusal(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why these kernels do not take a call of a convolution; None if they do."""
    op: Conv2d = arguments["op"]
    image = arguments["dy" if function == "conv2d_dgrad" else "x"]
    filters = arguments["out" if function == "conv2d_wgrad" else "w"].shape
    pixels = arguments["dy" if function == "conv2d_wgrad" else "out"]
    if dtype_name(image) == "float32" and op.precision == "ieee":
        return "tensor cores have no IEEE products of float32"
    k, c = filters[0] // op.groups, filters[3]
    if (max(k, c) if op.groups == 1 else min(k, c)) < LEAST_CHANNELS:
        return f"products of {c} channels and {k} filters a group would mostly be padding"
    of = grid(image)
    count = max(
        4 * positions(pixels), of.pitch * of.line * of.lines, k * c * filters[1] * filters[2]
    )
    return None if count < LARGE - 2**16 else f"{count} is more than its 32-bit numbers hold"


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The tile and workspace of a call that `refusal` does not refuse."""
    op, out = arguments["op"], tuple(arguments["out"].shape)
    if function == "conv2d_wgrad":
        count, itemsize = positions(arguments["dy"]), ITEMSIZE[dtype_name(arguments["x"])]
        rows, columns = out[0] // op.groups, out[1] * out[2] * padded(out[3], itemsize)
        chosen = tile(rows, columns, itemsize)  # splits, not small tiles, give work to all
        parts = splits(chosen, count, rows, columns, op.groups)
        size = 4 * parts * out[0] * out[1] * out[2] * out[3] if parts > 1 else 0
        reason = f"tensor cores: {parts} splits of {count} pixels, added in order"
        return Config("mma", (*chosen.items(), ("splits", parts)), size, reason)
    k, _, _, c = arguments["w"].shape
    itemsize, processors, size = ITEMSIZE[dtype_name(arguments["w"])], multiprocessors(), 0
    if function == "conv2d_dgrad":
        phases = op.stride[0] * op.stride[1]
        whole = op.padded_shape(out) if is_folded(op) else out
        rows = whole[0] * cdiv(whole[1], op.stride[0]) * cdiv(whole[2], op.stride[1])
        chosen = tile(rows, c, itemsize, op.groups * phases, processors)
        size = 4 * sum(scratch_floats(out, op, chosen, arguments.get("db") is not None))
        told = f"{phases} phases of stride {op.stride}, tiles"
    else:
        rows = out[0] * out[1] * out[2] * (4 if function == "conv2d_relu_pool" else 1)
        chosen = tile(rows, k // op.groups, itemsize, op.groups, processors)
        told = "tiles"
    reason = f"tensor cores: {told} of {chosen.rows} pixels x {chosen.columns}"
    return Config("mma", chosen.items(), size, reason)


def _aligned(*arrays: Any, rows: tuple[int, ...]) -> bool:
    """Whether all arrays (None is left out) begin at a chunk, and `rows` are whole chunks."""
    given = [array for array in arrays if array is not None]
    chunk = CHUNK_BYTES // given[0].dtype.itemsize
    return not any(address(a) % CHUNK_BYTES for a in given) and not any(n % chunk for n in rows)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _parts(op: Conv2d, array: Any) -> int:
    return 2 if op.precision == "tf32x3" and dtype_name(array) == "float32" else 1


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
    arguments = (type_name(x), tile.name, str(_parts(op, x)), *flags)
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


def _phase_tiles(shape: Shape, op: Conv2d, tile: MmaTile) -> int:
    """Tiles of rows in the largest phase of images [N, H, W, C]."""
    pixels = shape[0] * cdiv(shape[1], op.stride[0]) * cdiv(shape[2], op.stride[1])
    return cdiv(pixels, tile.rows)


def scratch_floats(shape: Shape, op: Conv2d, tile: MmaTile, db: bool) -> tuple[int, int]:
    """float32 of workspace for dx of this shape: (the padded gradient, the shares of db)."""
    if is_folded(op):
        return fold_floats(shape, op, db)
    tiles = op.stride[0] * op.stride[1] * _phase_tiles(shape, op, tile)
    return 0, tiles * shape[3] if db else 0


def dgrad(
    dy: Any, w: Any, out: Any, mask: Any, db: Any, op: Conv2d, tile: MmaTile, workspace: Any
) -> None:
    """dx, its mask and db; `workspace` is float32 of `scratch_floats`."""
    whole, shares = scratch_floats(out.shape, op, tile, db is not None)
    sums = workspace[whole : whole + shares] if shares else None
    if not whole:
        _dgrad(dy, w, out, mask, sums, op, (op.padding[0], op.padding[2]), tile)
    else:
        padded = workspace[:whole].reshape(op.padded_shape(out.shape))
        _dgrad(dy, w, padded, None, None, op, (0, 0), tile)
        fold(padded, out, mask, sums, op)
    if sums is not None:
        add_in_order(sums, db, shares // out.shape[3])
    elif db is not None:
        add_in_order(None, db, 0)  # no pixels


def _dgrad(
    dy: Any, w: Any, out: Any, mask: Any, sums: Any,
    op: Conv2d, corner: tuple[int, int], tile: MmaTile,
) -> None:  # fmt: skip
    """Launch `conv2d_dgrad_mma_kernel`: a block for each group, phase and tile of dx."""
    (n, h, v, _), (k, r, s, c) = out.shape, w.shape
    filters, row_tiles = k // op.groups, _phase_tiles(out.shape, op, tile)
    grids = (grid(dy), _grid(mask), grid(out))
    loads = _aligned(dy, w, rows=(filters, grids[0].pitch, c))
    stores = _aligned(dy, out, mask, rows=(c, grids[1].pitch, grids[2].pitch))
    arguments = (type_name(dy), type_name(out), tile.name, str(_parts(op, dy)), _flag(loads))
    common = gcd(op.stride[0], op.dilation[0]), gcd(op.stride[1], op.dilation[1])
    launch(
        Kernel("conv_mma_dgrad.cu", f"conv2d_dgrad_mma_kernel<{', '.join(arguments)}>"),
        op.groups * op.stride[0] * op.stride[1] * row_tiles * cdiv(c, tile.columns),
        tile.threads,
        *(dy, w, out, mask, sums, n, h, v, dy.shape[1], dy.shape[2], c, filters, r, s),
        *(*op.stride, *op.dilation),
        *(op.stride[0] // common[0], op.stride[1] // common[1]),
        *(op.dilation[0] // common[0], op.dilation[1] // common[1], *corner),
        *(*grids[0], *grids[1], *grids[2], op.groups, row_tiles, int(stores), tile.group),
        shared_bytes=tile.shared_bytes(dy.dtype.itemsize),
    )


def wgrad(x: Any, dy: Any, out: Any, op: Conv2d, tile: MmaTile, parts: int, memory: Any) -> None:
    """dw from `parts` splits; `memory` is float32 [parts * dw's size], or unused for one split."""
    (n, p, q, _), (k, r, s, c) = dy.shape, out.shape
    pixels, filters, itemsize = positions(dy), k // op.groups, x.dtype.itemsize
    if pixels == 0:
        add_in_order(None, out, 0)
        return
    grids = (grid(x), grid(dy))
    loads = _aligned(x, dy, rows=(c, filters, grids[0].pitch, grids[1].pitch))
    flags = map(_flag, (op.padding_mode == "edge", loads))
    arguments = (type_name(x), tile.name, str(_parts(op, x)), *flags)
    columns = r * s * padded(c, itemsize)
    target = out if parts == 1 else memory[: parts * out.size]
    launch(
        Kernel("conv_mma_wgrad.cu", f"conv2d_wgrad_mma_kernel<{', '.join(arguments)}>"),
        op.groups * parts * cdiv(filters, tile.rows) * cdiv(columns, tile.columns),
        tile.threads,
        *(x, dy, target, n, x.shape[1], x.shape[2], p, q, c, filters, r, s),
        *(*op.stride, *op.dilation, op.padding[0], op.padding[2]),
        *(*grids[0], *grids[1], op.groups, pixels, parts),
        *(cdiv(cdiv(pixels, tile.depth), parts), int(_aligned(target, rows=(c,))), tile.group),
        shared_bytes=tile.shared_bytes(itemsize),
    )
    if parts > 1:
        add_in_order(target, out, parts)
