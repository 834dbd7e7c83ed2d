"""Dense layers: one tiled matrix product for all three uses (dense.cu), and ordered column sums.

    dense        out[N, K] = x wᵀ     rows n, columns k, depth c
    dense_dgrad  out[N, C] = dy w     rows n, columns c, depth k
    dense_wgrad  out[K, C] = dyᵀ x    rows k, columns c, depth n

The operands are never transposed in memory: the kernel is told along which axis neighbours lie. A
small batch has few tiles but a long depth: then the depth is split, every split writes its sums to
the workspace, and a second kernel adds them in order and finishes the tile. Products are IEEE
products, sums are float32. No atomics: same inputs, same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .. import spec
from ..spec import Config
from ..spec.contract import ITEMSIZE, Array, Out, dtype_name
from .group import BYTES, THREADS
from .launch import Kernel, cdiv, launch, pixel_pitch, scratch, type_name, usable
from .reduce import add_in_order, splits_of_pixels, sum_pixels

BLOCKS = 264  # that a product is split into, at most: two for each multiprocessor of an H100
LEAST_DEPTH = 256  # of a split
STEP = 16  # of the depth, or half of it
RUN = 4  # neighbouring elements that a thread finishes


def _sizes(function: str, arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """(rows, columns, depth) of the product."""
    if function == "dense":
        return (*arguments["x"].shape[:1], *arguments["w"].shape)
    if function == "dense_dgrad":
        (n, k), (_, c) = arguments["dy"].shape, arguments["w"].shape
        return n, c, k
    (n, c), (_, k) = arguments["x"].shape, arguments["dy"].shape
    return k, c, n


def _row_splits(array: Any, rows: int, columns: int) -> tuple[int, int]:
    """(splits, rows of a split) of sums over the rows of an array like `array`."""
    return splits_of_pixels(rows, columns, BYTES // ITEMSIZE[dtype_name(array)])


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The tile, the splits and the workspace of one call, from shapes and types alone."""
    if function == "bias_grad":
        *pixels, channels = arguments["dy"].shape
        splits, rows = _row_splits(arguments["dy"], math.prod(pixels), channels)
        tile = ("splits", splits), ("rows", rows)
        return Config("split sums", tile, 4 * splits * channels, f"{splits} sums of {rows} pixels")
    rows, columns, depth = _sizes(function, arguments)
    most = max(depth // LEAST_DEPTH, 1)
    enough = cdiv(rows, 128) * cdiv(columns, 128) * most >= BLOCKS // 2
    tile = 128 if enough and min(rows, columns) > 64 else 64
    tiles = cdiv(rows, tile) * cdiv(columns, tile)
    splits = max(min(most, BLOCKS // max(tiles, 1)), 1)
    deep = max(cdiv(cdiv(depth, splits), STEP), 1) * STEP
    splits = max(cdiv(depth, deep), 1)
    sums = rows * columns * splits if splits > 1 else 0
    if function == "dense_dgrad" and arguments.get("db") is not None:
        sums += _row_splits(arguments["dy"], rows, columns)[0] * columns
    reason = f"{tile}x{tile} tiles, {splits} split(s) of the depth"
    entries = ("tile", tile), ("splits", splits), ("depth_of_split", deep)
    return Config("tiled", entries, 4 * sums, reason)


def _product(
    config: Config,
    sizes: tuple[int, int, int],
    a: tuple[Array, bool],
    b: tuple[Array, bool],
    out: Array,
    memory: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    relu: bool = False,
) -> Array:
    """out = the product of a and b; returns the float32 of `memory` that it has not used.

    a and b come with whether neighbours in memory are neighbours along the depth.
    """
    rows, columns, _ = sizes
    tile, splits = config["tile"], config["splits"]
    count = splits * out.size if splits > 1 else 0
    parts = memory[:count] if count else None
    types = type_name(a[0]), type_name(out), str(a[1]).lower(), str(b[1]).lower(), tile
    launch(
        Kernel("dense.cu", f"product_kernel<{', '.join(map(str, types))}>"),
        *(splits * cdiv(rows, tile) * cdiv(columns, tile), THREADS),
        *(a[0], b[0], bias, mask, parts, out, *sizes, config["depth_of_split"], int(relu)),
    )
    if parts is not None:
        launch(
            Kernel("dense.cu", f"finish_product_kernel<{type_name(out)}>"),
            *(cdiv(rows * cdiv(columns, RUN), THREADS), THREADS),
            *(parts, bias, mask, out, rows, columns, splits, int(relu)),
        )
    return memory[count:]


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
    memory = scratch(workspace, config.workspace_bytes // 4)
    sides = (x, True), (w, True)
    _product(config, _sizes("dense", given), *sides, out, memory, bias=b, relu=relu)


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
    memory = scratch(workspace, config.workspace_bytes // 4)
    sides = (dy, True), (w, False)
    memory = _product(config, _sizes("dense_dgrad", given), *sides, out, memory, mask=mask)
    if db is not None:
        _column_sums(out, db, *_row_splits(out, *out.shape), memory)


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
    memory = scratch(workspace, config.workspace_bytes // 4)
    _product(config, _sizes("dense_wgrad", given), (dy, False), (x, False), out, memory)


@spec.implements(spec.bias_grad)
def bias_grad(
    dy: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """out[k] = sum of dy over all other axes: sums of splits, added in order."""
    usable("bias_grad", dy=dy, out=out, workspace=workspace)
    config = config or choose("bias_grad", {"dy": dy})
    memory = scratch(workspace, config.workspace_bytes // 4)
    _column_sums(dy, out, config["splits"], config["rows"], memory)


def _column_sums(dy: Array, out: Array, splits: int, rows: int, memory: Array) -> None:
    """out [K] = sums of dy [..., K]; splits of `rows` pixels, their sums in `memory`."""
    channels = dy.shape[-1]
    sums = out if splits == 1 else memory[: splits * channels]
    pitch = pixel_pitch(dy) if dy.ndim == 4 else channels
    sum_pixels(dy, sums, splits, rows, pitch, 1.0)
    if splits > 1:
        add_in_order(sums, out, splits)
