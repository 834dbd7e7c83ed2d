"""Tiles: a pure function from the problem to the blocks that one program works on.

`pick` asks the tables of `kernels/tiling.py` and, where they have nothing, follows the rule.

A product of a [rows, depth] and a [depth, columns] matrix is cut into BLOCK_ROWS x BLOCK_COLUMNS
tiles, one program each, summed in steps of BLOCK_DEPTH. The rule, for sm_80 to sm_100:

- 128 x 128 is the largest tile whose float32 sums stay in registers with 8 warps on every one of
  them; 64 wide tiles need 4 warps. A tile is no larger than the problem (rounded up to a power of
  two, at least 16: the least that a tensor core takes).
- A depth of 64 two-byte elements, 32 four-byte ones, is one 128-byte line of each row; a shallow
  problem takes what it has. IEEE products of float32 come from plain cores: 16.
- "tf32x3" holds the upper and lower parts of both operands: 128 x 128 would spill on sm_80, so its
  tiles are 64 wide, with 8 warps.
- Fewer tiles than multiprocessors leave some of them idle: then tiles are halved, down to 32.
- From sm_90 on tensor cores are asked by four warps at once, for 64 rows: there 64 is the least.
- Programs that run side by side take GROUP_ROWS tiles of rows before the next column, so that
  they read the same columns from the L2 cache.

Nothing is measured here and nothing is tuned while a network runs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton

from .. import tiling
from ..tiling import Machine, Problem
from .gpu import architecture, device_name
from .launch import cdiv

LEAST = 16  # rows, columns and depth of a tensor core's product
GROUP_ROWS = 64  # of a product that four warps form together, from sm_90 on
KIB = 1024
SHARED = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB a program
SUMS = 128  # float32 of a tile that one thread can hold in registers
SPACE = (  # rows, columns, depth of two-byte elements, warps, stages
    (128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (256, 128, 64, 8, 4),
    (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 3), (128, 128, 64, 4, 4),
    (128, 128, 128, 8, 2), (256, 64, 64, 8, 3), (64, 256, 64, 4, 4), (128, 64, 64, 4, 4),
    (64, 128, 64, 4, 4), (64, 64, 64, 4, 5), (128, 32, 64, 4, 4), (64, 32, 64, 4, 5),
    (32, 64, 64, 4, 5), (32, 32, 64, 2, 5),
)  # fmt: skip
GROUPS = (8, 1)  # rows of tiles side by side: many, or one after the other
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Tile:
    """The blocks of one matrix product, in elements, and the resources of one program."""

    rows: int
    columns: int
    depth: int
    group: int
    warps: int
    stages: int

    def items(self) -> tuple[tuple[str, int], ...]:
        """The tile as the entries of a `Config`."""
        return tuple(vars(self).items())


def power_of_two(count: int, least: int, most: int) -> int:
    """The least power of two that is >= count, kept within least and most."""
    return min(max(1 << (max(count, 1) - 1).bit_length(), least), most)


def product_tile(
    rows: int,
    columns: int,
    depth: int,
    dtype: str,
    precision: str = "ieee",
    batch: int = 1,
    processors: int = 1,
    architecture: int = 0,
) -> Tile:
    """The tile of `batch` products of [rows, depth] and [depth, columns] of one element type.

    `processors` is the number of multiprocessors that share the tiles, `architecture` 90 for
    sm_90; 0: unknown.
    """
    plain = dtype == "float32" and precision == "ieee"
    split = dtype == "float32" and precision == "tf32x3"
    low, least = (LEAST, 32) if plain or architecture < 90 else (GROUP_ROWS, GROUP_ROWS)
    high = power_of_two(rows, low, 128)
    wide = power_of_two(columns, LEAST, 64 if split else 128)
    while batch * cdiv(rows, high) * cdiv(columns, wide) < processors:
        if high > least and (high >= wide or wide <= 32):
            high //= 2
        elif wide > 32:
            wide //= 2
        else:
            break
    deep = 16 if plain else (32 if dtype == "float32" else 64)
    deep = power_of_two(depth, LEAST, deep)
    warps = 8 if high * wide > (4096 if split else 8192) else 4
    return Tile(high, wide, deep, group=8, warps=warps, stages=3)


def shared_bytes(tile: Tile, dtype: str) -> int:
    """What the blocks of both operands take, in all stages."""
    return tile.stages * (tile.rows + tile.columns) * tile.depth * ITEMSIZE[dtype]


@functools.cache
def most_shared(architecture: int) -> int:
    """Bytes of shared memory that one program can have."""
    return KIB * SHARED[max((a for a in SHARED if a <= architecture), default=min(SHARED))]


def impossible(architecture: int, tile: Mapping[str, Any], dtype: str) -> str | None:
    """Why no program of that architecture can work on this tile; None if one can."""
    names = set(Tile.__dataclass_fields__)
    if not isinstance(tile, Mapping) or set(tile) != names:
        return f"a tile has {', '.join(Tile.__dataclass_fields__)}"
    if dtype not in ITEMSIZE:
        return f"the kernels do not compute in {dtype}"
    if any(type(value) is not int or value < 1 for value in tile.values()):
        return "all must be whole numbers from 1"
    made = Tile(**tile)
    for name in ("rows", "columns", "depth", "warps"):
        value, least = tile[name], 1 if name == "warps" else LEAST
        if value & (value - 1) or value < least:
            return f"{name} must be a power of two from {least}"
    if made.warps > 16 or made.stages > 8 or made.group > 64:
        return "more than 16 warps, 8 stages or 64 rows of tiles in a group"
    if made.rows * made.columns > SUMS * 32 * made.warps:
        return f"{made.warps} warps hold no {made.rows} x {made.columns} sums in registers"
    if shared_bytes(made, dtype) > (most := most_shared(architecture)):
        return f"it takes {shared_bytes(made, dtype)} bytes of shared memory, more than {most}"
    return None


@functools.cache
def _impossible_on(architecture: int) -> tiling.Impossible:
    """`impossible` for one architecture: one object each time, under which tables are kept."""
    return functools.partial(impossible, architecture)


def candidates(asked: tiling.Asked, architecture: int) -> list[Tile]:
    """The tiles worth measuring for a problem: the rule's first, then those of `SPACE` that fit."""
    problem, (rows, columns, _) = asked.problem, asked.products
    plain = problem.dtype == "float32" and (problem.op is None or problem.op.precision == "ieee")
    low = LEAST if plain or architecture < 90 else GROUP_ROWS
    limits = power_of_two(rows, low, 256), power_of_two(columns, LEAST, 256)
    shallow = {"float32": 4 if plain else 2}.get(problem.dtype, 1)
    found = [Tile(**asked.rule)]
    for high, wide, deep, warps, stages in SPACE:
        for group in GROUPS:
            tile = Tile(high, wide, max(deep // shallow, LEAST), group, warps, stages)
            fits = low <= high <= limits[0] and wide <= limits[1]
            if fits and impossible(architecture, vars(tile), problem.dtype) is None:
                found.append(tile)
    return list(dict.fromkeys(found))


def machine() -> Machine:
    """The GPU that the next launch goes to, and Triton's version."""
    return Machine(architecture(), device_name(), f"triton {_version()}")


@functools.cache
def _version() -> str:
    return ".".join(triton.__version__.split(".")[:2])


def pick(
    problem: Problem, products: tuple[int, int, int], processors: int, rule: Tile
) -> tuple[Tile, str]:
    """The tile of a problem and where it comes from; `rule` is the tile without a table.

    `products` are (rows, columns, batch) of the matrix products, as in `product_tile`.
    """
    if (tried := tiling.ask(problem, products, vars(rule))) is not None:
        return Tile(**tried), "tile: tried"
    on = machine()
    if not on.architecture:
        return rule, "tile: rule"
    told = f"sm_{on.architecture}"
    for found in tiling.find(problem, on, _impossible_on(on.architecture)):
        tile, like = Tile(**found.entry.tile), ""
        if found.near:
            if _programs(tile, products) < min(processors, _programs(rule, products)):
                continue  # it would leave processors idle that the rule keeps busy
            like = f", of the near {'x'.join(map(str, found.entry.problem.x))}"
        return tile, f"tile: {found.table} {told}, {found.entry.told()}{like}"
    return rule, f"tile: rule, not in the table of {told}"


def dense_problem(function: str, rows: int, columns: int, depth: int, dtype: str) -> Problem:
    """The problem of a dense function whose product has these sizes."""
    x, w = {
        "dense": ((rows, depth), (columns, depth)),
        "dense_dgrad": ((rows, columns), (depth, columns)),
        "dense_wgrad": ((depth, columns), (rows, columns)),
    }[function]
    return Problem("triton", function, "tiled", dtype, x, w)


def _programs(tile: Tile, products: tuple[int, int, int]) -> int:
    rows, columns, batch = products
    return batch * cdiv(rows, tile.rows) * cdiv(columns, tile.columns)


def row_tile(columns: int, most: int = 4096) -> tuple[int, int]:
    """(rows, columns) of a block of about `most` elements, as wide as `columns` if they fit."""
    wide = power_of_two(columns, 1, most)
    return max(1, most // wide), wide
