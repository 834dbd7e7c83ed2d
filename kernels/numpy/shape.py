"""Transpose, pad, broadcast and ordered sums on the CPU, in pieces that stay in cache.

NumPy copies along the last axis of the target. Where that walks down a column of the source, pieces
of ROWS rows keep one cache line of each row until its other elements have been read, too.
"""

from __future__ import annotations

import math

import numpy as np

from .. import spec
from ..spec import Config, Pad
from ..spec.contract import Array, Out
from ..spec.shape import joined, merged
from .compute import (
    CHUNK,
    column_sums,
    for_chunks,
    rows_per_chunk,
    store,
    wide_type,
    widen,
)

ROWS = 256  # lines of 64 bytes: 16 KiB of a first-level cache


@spec.implements(spec.transpose)
def transpose(x: Array, out: Out, *, axes: tuple[int, ...]) -> None:
    """Copy the view with permuted axes, in pieces of its last axis."""
    if out.size == 0:
        return
    shape, order = joined(x.shape, axes)
    source = x.reshape(shape).transpose(order)
    target = out.reshape(source.shape)
    if len(shape) == 1 or order[-1] == len(shape) - 1:  # rows move as they are
        rows = rows_per_chunk(out.size // len(target))
        for_chunks(len(target), rows, lambda i, j: np.copyto(target[i:j], source[i:j]))
        return
    if len(shape) == 2:
        source, target = source[None], target[None]
    inner = math.prod(target.shape[1:-1])  # columns of a piece
    length = max(ROWS, CHUNK // 8 // inner)
    pieces = -(-target.shape[-1] // length)

    def run(first: int, last: int) -> None:
        for piece in range(first, last):
            image, start = piece // pieces, piece % pieces * length
            cut = (image, ..., slice(start, start + length))
            np.copyto(target[cut], source[cut])

    for_chunks(len(target) * pieces, max(1, CHUNK // (inner * length)), run)


@spec.implements(spec.pad)
def pad(x: Array, out: Out, *, op: Pad) -> None:
    """Copy what is there, and fill the slabs around it, axis by axis."""
    if out.size == 0:
        return
    inside: list[slice] = []
    source: list[slice] = []
    with np.errstate(all="ignore"):  # a value past the largest number is infinite
        value = np.asarray(op.value).astype(out.dtype)
    for before, m, n in zip(op.before, out.shape, x.shape, strict=True):
        start = min(max(before, 0), m)
        end = max(min(before + n, m), start)
        out[(*inside, slice(0, start))] = value
        out[(*inside, slice(end, m))] = value
        inside.append(slice(start, end))
        source.append(slice(start - before, end - before))
    x, out = x[tuple(source)], out[tuple(inside)]
    if out.size:
        rows = rows_per_chunk(out.size // len(out))
        for_chunks(len(out), rows, lambda i, j: np.copyto(out[i:j], x[i:j]))


@spec.implements(spec.broadcast)
def broadcast(x: Array, out: Out) -> None:
    """Copy a view of x whose repeated axes have stride 0."""
    if out.size == 0:
        return
    axes, _ = merged(x.shape, out.shape)
    extents = [n for n, _ in axes] or [1]
    target = out.reshape(extents)
    source = np.broadcast_to(x.reshape([n if kept else 1 for n, kept in axes] or [1]), extents)
    rows = rows_per_chunk(out.size // extents[0])
    for_chunks(extents[0], rows, lambda i, j: store(source[i:j], target[i:j]))


@spec.implements(spec.reduce_sum)
def reduce_sum(
    x: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """Sum one group of neighbouring axes after the other, the last one first."""
    if out.size == 0:
        return
    if x.size == 0:
        out.fill(0)
        return
    axes, _ = merged(out.shape, x.shape)
    while any(not kept for _, kept in axes):
        last = max(i for i, (_, kept) in enumerate(axes) if not kept)
        before, behind = (math.prod(n for n, _ in part) for part in (axes[:last], axes[last + 1 :]))
        x = _sums(x.reshape(before, axes[last][0], behind))
        del axes[last]
    store(x.reshape(out.shape), out)


def _sums(x: np.ndarray) -> np.ndarray:
    """[A, M, B] → [A, B], summed in the type of sums: chunks of M, then the chunks in order."""
    a, m, b = x.shape
    rows = rows_per_chunk(b)
    if m <= rows:
        sums = np.empty((a, b), wide_type(x.dtype))

        def run(i: int, j: int) -> None:
            for n in range(i, j) if m * b > CHUNK // 64 and b > 1 else ():
                sums[n] = column_sums(np.ascontiguousarray(widen(x[n])))
            if b == 1 or m * b <= CHUNK // 64:
                np.add.reduce(widen(x[i:j]), axis=1, out=sums[i:j])

        for_chunks(a, max(1, CHUNK // (m * b)), run)
        return sums
    pieces = -(-m // rows)
    parts = np.empty((a, pieces, b), wide_type(x.dtype))

    def piece(first: int, _: int) -> None:
        n, start = first // pieces, first % pieces * rows
        cut = widen(x[n, start : start + rows])
        if b == 1:
            parts[n, first % pieces] = np.add.reduce(cut[:, 0])  # adds pairs, then pairs of pairs
        else:
            parts[n, first % pieces] = column_sums(cut)

    for_chunks(a * pieces, 1, piece)
    return np.add.reduce(parts, axis=1)
