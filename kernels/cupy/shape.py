"""Transpose, pad, broadcast and ordered sums of arrays of up to six axes (shape.cu).

Sums: each block adds one split of the terms of a few outputs; the sums of splits go through the
workspace and are added in order. Splits follow from shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy

from .. import spec
from ..spec import Config, Pad
from ..spec.contract import Array, Out, accumulator, dtype_name
from ..spec.shape import joined, merged
from .group import THREADS, group, launch_on_elements
from .launch import Kernel, cdiv, launch, scratch, type_name, usable
from .reduce import BLOCKS, add_in_order

FILE = "shape.cu"
SIDE = 32  # of a tile that is transposed, as in shape.cu
LEAST_WALK = 8  # terms that a thread sums before another split is worth it
Axes = list[tuple[int, ...]]  # of each axis (extent, step in x, …)


def _steps(extents: Any) -> list[int]:
    """Elements from one index to the next, for each axis of a contiguous array."""
    return [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]


def _filled(axes: Axes, count: int, empty: tuple[int, ...], wide: tuple[int, ...]) -> list[Any]:
    """The numbers of `count` axes in one row, `empty` where there are none; int64 at `wide`."""
    filled = [*axes, *[empty] * (count - len(axes))]
    return [numpy.int64(n) if i in wide else n for axis in filled for i, n in enumerate(axis)]


def _copy(x: Array, out: Array, axes: Axes, value: float) -> None:
    """out = x along `axes`: (extent of out, step in x, index of out where x begins, its size)."""
    if out.size == 0:
        return
    columns, *last = axes[-1]
    rows = out.size // columns
    launch(
        Kernel(FILE, f"copy_kernel<{type_name(x)}, {type_name(out)}>"),
        cdiv(rows * cdiv(columns, group(x, out)), THREADS),
        *(THREADS, x, out, numpy.int64(rows), columns, value, *last),
        *_filled(axes[-2::-1], 5, (1, 0, 0, 1), wide=(1,)),
    )


@spec.implements(spec.transpose)
def transpose(x: Array, out: Out, *, axes: tuple[int, ...]) -> None:
    """Tiles of the last axis of x and the last of out; rows where that is the same one."""
    usable("transpose", x=x, out=out)
    extents, order = joined(x.shape, axes)
    steps = _steps(extents)
    if order[-1] == len(extents) - 1:
        _copy(x, out, [(extents[axis], steps[axis], 0, extents[axis]) for axis in order], 0.0)
        return
    of_out = _steps([extents[axis] for axis in order])
    out_steps = {axis: of_out[place] for place, axis in enumerate(order)}
    first, last = order[-1], len(extents) - 1
    others = [(extents[a], steps[a], out_steps[a]) for a in order if a not in (first, last)]
    p, q = extents[first], extents[last]
    launch(
        Kernel(FILE, f"transpose_kernel<{type_name(x)}>"),
        cdiv(p, SIDE) * cdiv(q, SIDE) * math.prod(extent for extent, *_ in others),
        *(THREADS, x, out, p, q, numpy.int64(steps[first]), numpy.int64(out_steps[last])),
        *_filled(others[::-1], 4, (1, 0, 0), wide=(1, 2)),
    )


@spec.implements(spec.pad)
def pad(x: Array, out: Out, *, op: Pad) -> None:
    """Each element of out asks whether x has it."""
    usable("pad", x=x, out=out)
    axes: Axes = []
    for n, m, step, before in zip(x.shape, out.shape, _steps(x.shape), op.before, strict=True):
        if axes and before == 0 and n == m:  # as the rows of the axis in front of it
            extent, _, begin, size = axes[-1]
            axes[-1] = extent * n, step, begin * n, size * n
        else:
            axes.append((m, step, before, n))
    with numpy.errstate(over="ignore"):
        value = float(x.dtype.type(op.value))
    _copy(x, out, axes, value)


@spec.implements(spec.broadcast)
def broadcast(x: Array, out: Out) -> None:
    """Axes that x repeats have step 0 in x."""
    usable("broadcast", x=x, out=out)
    kinds, _ = merged(x.shape, out.shape)
    kinds = kinds or [(1, True)]
    steps = _steps([n if kept else 1 for n, kept in kinds])
    axes: Axes = [
        (n, step if kept else 0, 0, n) for (n, kept), step in zip(kinds, steps, strict=True)
    ]
    _copy(x, out, axes, 0.0)


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """For reduce_sum the splits of its terms and the workspace of their sums."""
    if function != "reduce_sum":
        return Config("cuda", reason="one kernel")
    out = arguments["out"]
    small = tuple(out.shape)
    kinds, _ = merged(small, tuple(arguments["x"].shape))
    outputs = math.prod(small)
    terms = math.prod(n for n, kept in kinds if not kept)
    neighbours = not kinds or kinds[-1][1]  # in x, of different sums
    of_block = 32 if neighbours else 8
    lanes = THREADS // of_block
    most = max(BLOCKS // max(cdiv(outputs, of_block), 1), 1)
    splits = max(min(most, cdiv(terms, LEAST_WALK * lanes)), 1)
    of_split = max(cdiv(cdiv(terms, splits), lanes), 1) * lanes
    splits = max(cdiv(terms, of_split), 1)
    tile = ("splits", splits), ("of_split", of_split), ("outputs", of_block)
    is_wide = dtype_name(out) == accumulator(dtype_name(out))
    rows = splits if is_wide else splits + 1  # the sums before they are rounded
    need = 4 * rows * outputs if splits > 1 else 0
    return Config("splits", tile, need, f"{splits} splits of {of_split} terms")


@spec.implements(spec.reduce_sum)
def reduce_sum(
    x: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """Sums of splits of the terms, added in order and rounded once."""
    usable("reduce_sum", x=x, out=out, workspace=workspace)
    if out.size == 0:
        return
    config = config or choose("reduce_sum", {"x": x, "out": out})
    kinds, _ = merged(out.shape, x.shape)
    steps = _steps([n for n, _ in kinds])
    both = list(zip(kinds, steps, strict=True))[::-1]
    kept = [(n, step) for (n, is_kept), step in both if is_kept]
    summed = [(n, step) for (n, is_kept), step in both if not is_kept]
    splits, of_block, count = config["splits"], config["outputs"], out.size
    memory = scratch(workspace, config.workspace_bytes // 4) if splits > 1 else None
    sums = out if memory is None else memory[: splits * count]
    side = "true" if of_block == 32 else "false"
    terms = math.prod(n for n, _ in summed)
    launch(
        Kernel(FILE, f"reduce_sum_kernel<{type_name(x)}, {type_name(sums)}, {of_block}, {side}>"),
        splits * cdiv(count, of_block),
        *(THREADS, x, sums, numpy.int64(count), numpy.int64(terms)),
        numpy.int64(config["of_split"]),
        *_filled(kept, 3, (1, 0), wide=(1,)),
        *_filled(summed, 3, (1, 0), wide=(1,)),
    )
    if memory is None:
        return
    if type_name(out) == "float":
        add_in_order(sums, out, splits)
    else:
        total = memory[splits * count : (splits + 1) * count]
        add_in_order(sums, total, splits)
        launch_on_elements("elementwise.cu", "cast_kernel", total, out, types=(total, out))
