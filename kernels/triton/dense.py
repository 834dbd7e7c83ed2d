"""Dense layers: one tiled matrix product for all three uses, and ordered sums of columns.

    dense        out[N, K] = x wᵀ     rows n, columns k, depth c
    dense_dgrad  out[N, C] = dy w     rows n, columns c, depth k
    dense_wgrad  out[K, C] = dyᵀ x    rows k, columns c, depth n

The operands are never transposed in memory: a program is told how far apart rows, columns and
depth lie. It keeps a BLOCK_ROWS x BLOCK_COLUMNS tile of float32 sums in registers and walks along
the depth in steps of BLOCK_DEPTH; programs that run together share columns (see `tiles.py`). Bias,
ReLU and mask are applied to the sums before they are rounded once.

A small batch has few tiles but a long depth: then the depth is split, every split writes its sums
to the workspace, and a second kernel adds them in order ("split-K") and finishes the tile. Products
of float32 are IEEE products. No atomics: same inputs, same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec import Config
from ..spec.contract import Array, Out, dtype_name
from .column_sums import column_sums
from .gpu import architecture
from .launch import cdiv, dot, large, launch, narrow, scratch, usable, wide
from .pixels import PROGRAMS, splits_of_pixels
from .tiles import dense_problem, pick, product_tile

LEAST_DEPTH = 256  # of a split
BLOCK = 1024  # elements that a program finishes
IEEE = tl.constexpr("ieee")


@triton.jit
def _product_kernel(
    a,  # [rows, depth], a_row elements from row to row, a_deep along the depth
    b,  # [depth, columns], b_deep along the depth, b_column from column to column
    bias,  # float32 [columns] or None
    mask,  # like out, or None: 0 where it is <= 0
    parts,  # float32 [splits, rows, columns] or None: written in place of out
    out,  # [rows, columns]
    rows, columns, depth, depth_of_split,
    a_row, a_deep, b_deep, b_column,
    RELU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr, GROUP_ROWS: tl.constexpr,
    EVEN: tl.constexpr,  # the depth ends with a whole step: no mask along it
    FULL_ROWS: tl.constexpr,  # no tile hangs over the last row: no mask along rows
    FULL_COLUMNS: tl.constexpr,
    LONG: tl.constexpr,
):  # fmt: skip
    high, broad = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(columns, BLOCK_COLUMNS)
    split, tile = tl.program_id(0) // (high * broad), tl.program_id(0) % (high * broad)
    first = tile // (GROUP_ROWS * broad) * GROUP_ROWS
    group, inner = tl.minimum(high - first, GROUP_ROWS), tile % (GROUP_ROWS * broad)
    i = ((first + inner % group) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    j = (inner // group * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]
    deep = tl.arange(0, BLOCK_DEPTH)
    if LONG:
        i, j, deep = i.to(tl.int64), j.to(tl.int64), deep.to(tl.int64)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    end = tl.minimum((split + 1) * depth_of_split, depth)
    for start in range(split * depth_of_split, end, BLOCK_DEPTH):
        k = start + deep
        a_here = i < rows if not FULL_ROWS else tl.full((BLOCK_ROWS, 1), True, tl.int1)
        b_here = j < columns if not FULL_COLUMNS else tl.full((1, BLOCK_COLUMNS), True, tl.int1)
        if not EVEN:
            a_here = a_here & (k < end)[None, :]
            b_here = b_here & (k < end)[:, None]
        a_tile = tl.load(a + i * a_row + k[None, :] * a_deep, mask=a_here, other=0.0)
        b_tile = tl.load(b + k[:, None] * b_deep + j * b_column, mask=b_here, other=0.0)
        total = dot(a_tile, b_tile, total, IEEE)
    inside = (i < rows) & (j < columns)
    at = i * columns + j
    if parts is not None:
        tl.store(parts + split.to(tl.int64) * rows * columns + at, total, mask=inside)
    else:
        if bias is not None:
            total += tl.load(bias + j, mask=j < columns, other=0.0)
        if RELU:
            total = tl.where(total <= 0, 0.0, total)
        if mask is not None:
            alive = wide(tl.load(mask + at, mask=inside, other=0.0))
            total = tl.where(alive <= 0, 0.0, total)
        tl.store(out + at, narrow(total, out.dtype.element_ty), mask=inside)


@triton.jit
def _finish_product_kernel(
    parts,  # float32 [splits, count]
    bias,  # float32 [columns] or None
    mask,  # like out, or None
    out,  # [count] = [rows, columns]
    count,
    columns,
    splits,
    RELU: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    LONG: tl.constexpr,
):
    """Add the splits in order, then bias, ReLU and mask as in `_product_kernel`."""
    i = tl.program_id(0) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    if LONG:
        i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    total = tl.zeros((BLOCK_ELEMENTS,), tl.float32)
    for split in range(splits):
        total += tl.load(parts + (i + split * count), mask=i < count, other=0.0)
    if bias is not None:
        total += tl.load(bias + i % columns, mask=i < count, other=0.0)
    if RELU:
        total = tl.where(total <= 0, 0.0, total)
    if mask is not None:
        alive = wide(tl.load(mask + i, mask=i < count, other=0.0))
        total = tl.where(alive <= 0, 0.0, total)
    tl.store(out + i, narrow(total, out.dtype.element_ty), mask=i < count)


def _sizes(function: str, arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """(rows, columns, depth) of the product."""
    if function == "dense":
        return (*arguments["x"].shape[:1], *arguments["w"].shape)
    if function == "dense_dgrad":
        (n, k), (_, c) = arguments["dy"].shape, arguments["w"].shape
        return n, c, k
    (n, c), (_, k) = arguments["x"].shape, arguments["dy"].shape
    return k, c, n


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The tile, the splits and the workspace of one call, from shapes and types alone."""
    if function == "bias_grad":
        *_, channels = arguments["dy"].shape
        splits, rows = splits_of_pixels(math.prod(arguments["dy"].shape[:-1]), channels)
        tile = ("splits", splits), ("rows", rows)
        return Config("split sums", tile, 4 * splits * channels, f"{splits} sums of {rows} pixels")
    rows, columns, depth = _sizes(function, arguments)
    dtype = dtype_name(arguments["w" if "w" in arguments else "x"])
    most = max(depth // LEAST_DEPTH, 1)
    limits = most, PROGRAMS // 2, architecture()
    tile = product_tile(rows, columns, depth, dtype, "ieee", *limits)
    problem = dense_problem(function, rows, columns, depth, dtype)
    tile, told = pick(problem, (rows, columns, most), PROGRAMS // 2, tile)
    tiles = cdiv(rows, tile.rows) * cdiv(columns, tile.columns)
    splits = max(min(most, PROGRAMS // 2 // max(tiles, 1)), 1)
    deep = max(cdiv(cdiv(depth, splits), tile.depth), 1) * tile.depth
    splits = max(cdiv(depth, deep), 1)
    sums = rows * columns * splits if splits > 1 else 0
    if function == "dense_dgrad" and arguments.get("db") is not None:
        sums += splits_of_pixels(rows, columns)[0] * columns
    reason = f"{splits} split(s) of the depth; {told}"
    entries = (*tile.items(), ("splits", splits), ("depth_of_split", deep))
    return Config("tiled", entries, 4 * sums, reason)


def _product(
    config: Config,
    sizes: tuple[int, int, int],
    a: tuple[Array, int, int],
    b: tuple[Array, int, int],
    out: Array,
    parts: Array | None,
    bias: Array | None = None,
    mask: Array | None = None,
    relu: bool = False,
) -> None:
    """Launch the product; a and b come with their two distances, rows before columns."""
    rows, columns, _ = sizes
    splits = config["splits"]
    programs = splits * cdiv(rows, config["rows"]) * cdiv(columns, config["columns"])
    distances = a[1], a[2], b[1], b[2]
    launch(
        _product_kernel,
        programs,
        *(a[0], b[0], bias, mask, parts, out, *sizes, config["depth_of_split"], *distances),
        warps=config["warps"],
        stages=config["stages"],
        RELU=relu,
        BLOCK_ROWS=config["rows"],
        BLOCK_COLUMNS=config["columns"],
        BLOCK_DEPTH=config["depth"],
        GROUP_ROWS=config["group"],
        EVEN=sizes[2] % config["depth"] == 0,
        FULL_ROWS=rows % config["rows"] == 0,
        FULL_COLUMNS=columns % config["columns"] == 0,
        LONG=large(a[0], b[0], out),
    )
    if parts is not None:
        launch(
            _finish_product_kernel,
            cdiv(out.size, BLOCK),
            *(parts, bias, mask, out, out.size, columns, splits),
            RELU=relu,
            BLOCK_ELEMENTS=BLOCK,
            LONG=large(parts),
        )


def _parts(config: Config, out: Array, memory: Array) -> Array | None:
    splits = config["splits"]
    return memory[: splits * out.size] if splits > 1 and out.size else None


@spec.implements(spec.dense)
def dense(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = x wᵀ + b, then max(0, ·) if `relu`, in the product's epilogue."""
    usable("dense", x=x, w=w, b=b, out=out, workspace=workspace)
    given = {"x": x, "w": w}
    config = config or choose("dense", given)
    n, k, c = _sizes("dense", given)
    parts = _parts(config, out, scratch(workspace, config.workspace_bytes // 4))
    _product(config, (n, k, c), (x, c, 1), (w, 1, c), out, parts, b, relu=relu)


@spec.implements(spec.dense_dgrad)
def dense_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = dy w, 0 where mask <= 0; db sums the columns of out as it is stored."""
    usable("dense_dgrad", dy=dy, w=w, out=out, mask=mask, db=db, workspace=workspace)
    given = {"dy": dy, "w": w, "db": db}
    config = config or choose("dense_dgrad", given)
    n, c, k = _sizes("dense_dgrad", given)
    memory = scratch(workspace, config.workspace_bytes // 4)
    parts = _parts(config, out, memory)
    _product(config, (n, c, k), (dy, k, 1), (w, c, 1), out, parts, mask=mask)
    if db is not None:
        splits, rows = splits_of_pixels(n, c)
        column_sums(out, db, splits, rows, memory[0 if parts is None else parts.size :])


@spec.implements(spec.dense_wgrad)
def dense_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = dyᵀ x: the images are the depth, in order."""
    usable("dense_wgrad", x=x, dy=dy, out=out, workspace=workspace)
    given = {"x": x, "dy": dy}
    config = config or choose("dense_wgrad", given)
    k, c, n = _sizes("dense_wgrad", given)
    parts = _parts(config, out, scratch(workspace, config.workspace_bytes // 4))
    _product(config, (k, c, n), (dy, 1, k), (x, c, 1), out, parts)


@spec.implements(spec.bias_grad)
def bias_grad(
    dy: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """out[k] = sum of dy over all other axes: sums of splits, added in order."""
    usable("bias_grad", dy=dy, out=out, workspace=workspace)
    config = config or choose("bias_grad", {"dy": dy})
    memory = scratch(workspace, config.workspace_bytes // 4)
    column_sums(dy, out, config["splits"], config["rows"], memory)
