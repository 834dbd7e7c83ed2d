"""Tiles of the tensor-core convolution: what a block works on, as a function of the product."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import Config
from .launch import cdiv, multiprocessors

CHUNK_BYTES = 16  # of a copy
DEPTH_BYTES = 64  # of a step of the depth
STAGES = 4
LEAST_STEPS = 8  # of a split of wgrad: fewer would be all prologue
MOST_SPLITS = 64

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

    @staticmethod
    def of(config: Config) -> MmaTile:
        """The tile that `choose` has put into a config."""
        return MmaTile(**{name: value for name, value in config.tile if name != "splits"})

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
