"""Tiles: a pure function from the problem to the blocks that one program works on.

A product of a [rows, depth] and a [depth, columns] matrix is cut into BLOCK_ROWS x BLOCK_COLUMNS
tiles, one program each, summed in steps of BLOCK_DEPTH. The rules, for sm_80 to sm_100:

- 128 x 128 is the largest tile whose float32 sums stay in registers with 8 warps on every one of
  them; 64 wide tiles need 4 warps. A tile is no larger than the problem (rounded up to a power of
  two, at least 16: the least that a tensor core takes).
- A depth of 64 two-byte elements, 32 four-byte ones, is one 128-byte line of each row; a shallow
  problem takes what it has. IEEE products of float32 come from plain cores: 16.
- "tf32x3" holds the upper and lower parts of both operands: 128 x 128 would spill on sm_80, so its
  tiles are 64 wide, with 8 warps.
- Fewer tiles than multiprocessors leave some of them idle: then tiles are halved, down to 32.
- Programs that run side by side take GROUP_ROWS tiles of rows before the next column, so that
  they read the same columns from the L2 cache.

Nothing is measured here and nothing is tuned while a network runs.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 16  # rows, columns and depth of a tensor core's product


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
) -> Tile:
    """The tile of `batch` products of [rows, depth] and [depth, columns] of one element type.

    `processors` is the number of multiprocessors that share the tiles.
    """
    high = power_of_two(rows, LEAST, 128)
    split = dtype == "float32" and precision == "tf32x3"
    wide = power_of_two(columns, LEAST, 64 if split else 128)
    while batch * -(-rows // high) * -(-columns // wide) < processors and max(high, wide) > 32:
        if high >= wide:
            high //= 2
        else:
            wide //= 2
    plain = dtype == "float32" and precision == "ieee"
    deep = 16 if plain else (32 if dtype == "float32" else 64)
    deep = power_of_two(depth, LEAST, deep)
    warps = 8 if high * wide > (4096 if split else 8192) else 4
    return Tile(high, wide, deep, group=8, warps=warps, stages=3)


def row_tile(columns: int, most: int = 4096) -> tuple[int, int]:
    """(rows, columns) of a block of about `most` elements, as wide as `columns` if they fit."""
    wide = power_of_two(columns, 1, most)
    return max(1, most // wide), wide
