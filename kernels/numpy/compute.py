"""What the CPU kernels share: the type they compute in, chunks of work, sums, and selection.

float16 and bfloat16 arrays are widened chunk by chunk, computed in float32 and rounded once when
they are stored. Floating-point exceptions (inf - inf, an overflow to inf) follow IEEE 754 without
Python warnings, as on every other backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

from ..spec.contract import accumulator
from .threads import parallel

CHUNK = 1 << 16  # elements of one operand in a chunk: a handful of float32 operands fill half an L2


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


def rows_per_chunk(row: int, elements: int = CHUNK) -> int:
    """How many rows of `row` elements make a chunk of about `elements`; at least one."""
    return max(1, elements // max(1, row))


def select(values: np.ndarray, kept: np.ndarray, out: np.ndarray) -> None:
    """out = values where `kept` (bool), else 0; out may be values.

    Works on the bits: inf * 0 is NaN, but any bits * 0 are zero. Ten times faster than np.where,
    whose branches no one can predict.
    """
    bits = np.dtype(f"u{values.dtype.itemsize}")
    np.multiply(values.view(bits), kept, out=out.view(bits))


def column_sums(rows: np.ndarray) -> np.ndarray:
    """Sums over the first axis of contiguous [M, C], in a fixed order.

    Short rows are added up as long ones, several side by side: NumPy's loops run along rows.
    """
    m, c = rows.shape
    side = max(1, min(1024 // max(c, 1), m // 8))
    whole = m - m % side
    sums = np.add.reduce(rows[:whole].reshape(whole // side, side * c), axis=0)
    total = np.add.reduce(sums.reshape(side, c), axis=0)
    if whole < m:
        total += np.add.reduce(rows[whole:], axis=0)
    return total
