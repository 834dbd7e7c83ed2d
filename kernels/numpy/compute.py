"""What the CPU kernels share: the type they compute in, chunks of work, sums, and selection.

float16 and bfloat16 arrays are widened chunk by chunk, computed in float32 and rounded once when
they are stored. Floating-point exceptions (inf - inf, an overflow to inf) follow IEEE 754 without
Python warnings, as on every other backend.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import ml_dtypes
import numpy as np

from ..spec.contract import accumulator
from .threads import parallel

# Elements of one operand in a chunk. Threads queue for the interpreter lock between two NumPy
# loops, so a loop should last some 30 us or more; smaller chunks run slower on two threads than on
# one. Three float32 operands of this size still fit into a 2 MiB L2 cache.
CHUNK = 1 << 17


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}


_scratch = _Scratch()


def wide_type(dtype: np.dtype) -> np.dtype:
    """The type that arrays of `dtype` are computed in: float64 for float64, else float32."""
    return np.dtype(accumulator(str(dtype)))


def widen(array: np.ndarray) -> np.ndarray:
    """`array` in the type it is computed in; itself if it already has that type."""
    return array.astype(wide_type(array.dtype), copy=False)


def store(values: np.ndarray, out: np.ndarray) -> None:
    """out = values, rounded to nearest even once, whatever the two float types are."""
    if values.dtype == np.float64 and out.dtype == ml_dtypes.bfloat16:
        values = _round_to_odd(values)
    np.copyto(out, values, casting="unsafe")


def _round_to_odd(values: np.ndarray) -> np.ndarray:
    """float64 to float32 such that rounding once more, to bfloat16, equals rounding once.

    Boldo & Melquiond 2008: cut off toward zero and set the last bit where anything was cut off.
    """
    narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    inexact = narrow != values
    bits -= np.abs(narrow) > np.abs(values)
    bits |= inexact
    return narrow


def pixels(array: np.ndarray) -> np.ndarray:
    """The view [pixels, C] of [..., C]; the contract's pitched arrays need no copy for it."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def for_chunks(total: int, size: int, task: Callable[[int, int], None]) -> None:
    """Run `task(start, stop)` over `range(total)` in chunks of `size` items, on all threads."""

    def run(chunk: int, worker: int) -> None:
        with np.errstate(all="ignore"):
            task(chunk * size, min(chunk * size + size, total))

    parallel(-(-total // size), run)


LONG = 1024  # elements: NumPy starts an inner loop for every row, so short rows are joined


def rows_per_chunk(row: int, elements: int = CHUNK) -> int:
    """How many rows of `row` elements make a chunk of about `elements`; whole `repeated` rows."""
    rows, side = max(1, elements // max(1, row)), max(1, LONG // max(1, row))
    return rows - rows % side if rows > side else rows


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that this thread keeps under `name` and hands out again.

    Fresh memory would cost page faults in every chunk, as much time as the arithmetic in it.
    """
    size = math.prod(shape) * dtype.itemsize
    buffer = _scratch.buffers.get(name)
    if buffer is None or buffer.size < size:
        buffer = _scratch.buffers[name] = np.empty(size, np.uint8)
    return buffer[:size].view(dtype).reshape(shape)


def select(values: np.ndarray, kept: np.ndarray, out: np.ndarray) -> None:
    """out = values where `kept` (bool), else 0; out may be values.

    Works on the bits: inf * 0 is NaN, but any bits * 0 are zero. Ten times faster than np.where,
    whose branches no one can predict.
    """
    bits = np.dtype(f"u{values.dtype.itemsize}")
    np.multiply(values.view(bits), kept, out=out.view(bits))


def repeated(vector: np.ndarray) -> np.ndarray:
    """[C] one after the other, as often as fits a long row; for `by_channel`."""
    return np.tile(vector, max(1, LONG // max(1, len(vector))))


def by_channel(
    combine: np.ufunc, rows: np.ndarray, vectors: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """out = combine(rows, vector) for rows [M, C]; `vectors` is `repeated(vector)`."""
    m, c = rows.shape
    side = max(1, len(vectors) // max(1, c))
    if m % side == 0 and rows.flags.c_contiguous and out.flags.c_contiguous:
        long = m // side, side * c
        combine(rows.reshape(long), vectors, out=out.reshape(long))
    else:
        combine(rows, vectors[:c], out=out)
    return out


def column_sums(rows: np.ndarray) -> np.ndarray:
    """Sums over the first axis of contiguous [M, C], in a fixed order, joined rows first."""
    m, c = rows.shape
    side = max(1, min(LONG // max(c, 1), m // 8))
    whole = m - m % side
    sums = np.add.reduce(rows[:whole].reshape(whole // side, side * c), axis=0)
    total = np.add.reduce(sums.reshape(side, c), axis=0)
    if whole < m:
        total += np.add.reduce(rows[whole:], axis=0)
    return total
