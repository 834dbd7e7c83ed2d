"""Pictures on the CPU: one after the other, widened while they are in cache."""

from __future__ import annotations

import numpy as np

from .. import spec
from ..spec.contract import Array, Out
from .compute import CHUNK, for_chunks, rows_per_chunk, store


@spec.implements(spec.normalise)
def normalise(images: Array, moves: Array | None, mean: Array, scale: Array, out: Out) -> None:
    """Move each picture as uint8, then widen, subtract and multiply it."""

    def run(i: int, j: int) -> None:
        for n in range(i, j):
            picture = images[n] if moves is None else _moved(images[n], *moves[n].tolist())
            wide = np.subtract(picture, mean, dtype=mean.dtype)
            wide *= scale
            store(wide, out[n])

    for_chunks(images.shape[0], rows_per_chunk(images[:1].size, CHUNK), run)


def _moved(picture: np.ndarray, down: int, right: int, mirror: int) -> np.ndarray:
    """`picture` [H,W,C] shifted, black coming in, and then mirrored if `mirror` is not 0."""
    H, W, _ = picture.shape
    if down or right:
        shifted = np.zeros_like(picture)
        to_rows, from_rows = _overlap(H, down)
        to_columns, from_columns = _overlap(W, right)
        shifted[to_rows, to_columns] = picture[from_rows, from_columns]
        picture = shifted
    return picture[:, ::-1] if mirror else picture


def _overlap(extent: int, shift: int) -> tuple[slice, slice]:
    """Where a line of `extent` pixels goes when it is shifted, and where that comes from."""
    shift = max(-extent, min(shift, extent))
    return slice(max(shift, 0), extent + min(shift, 0)), slice(
        max(-shift, 0), extent - max(shift, 0)
    )
