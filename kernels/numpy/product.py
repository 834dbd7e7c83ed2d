"""Matrix products in tiles that OpenBLAS multiplies where they lie.

OpenBLAS copies both factors into an order of its own first ("packing"), unless a product is small.
A convolution's factors are long and narrow, so that the copy costs as much as a quarter of the
multiplication: tiles below that size reach 165 GFLOP/s where the whole reaches 110 to 135 (one
core of a Xeon of the Sapphire Rapids generation, OpenBLAS 0.3.31, float32). One call of
`np.matmul` runs over all tiles, without copies: tiles are views with one more axis.
"""

from __future__ import annotations

import functools

import numpy as np

from ..spec.contract import Array

SMALL = 10**6  # multiply-adds up to which OpenBLAS does not pack
COLUMNS = (64, 32)  # widths of a tile, best first
LEAST = 768  # elements of a tile of out; with fewer, packing is faster


def multiply(a: Array, b: Array, out: Array) -> None:
    """out [batch, M, N] = a [batch, M, L] @ b [batch, L, N]; each may be any strided view."""
    (batch, m, length), n = a.shape, b.shape[2]
    rows, columns = _tile(m, length, n)
    if rows >= m and columns == n:
        np.matmul(a, b, out=out)
        return
    b = b.reshape(batch, 1, length, n // columns, columns).transpose(0, 1, 3, 2, 4)
    whole = m // rows * rows
    for part, count in ((slice(whole), rows), (slice(whole, None), m - whole)):
        if count:
            top = a[:, part].reshape(batch, -1, 1, count, length)
            to = out[:, part].reshape(batch, -1, count, n // columns, columns)
            np.matmul(top, b, out=to.transpose(0, 1, 3, 2, 4))


@functools.cache
def _tile(m: int, length: int, n: int) -> tuple[int, int]:
    """Rows and columns of a tile of out: all of both where tiles would be too small."""
    for columns in (n, *COLUMNS):
        if columns <= max(COLUMNS) and n % columns == 0:
            most = SMALL // (length * columns)
            if most >= m or most * columns >= LEAST:
                step = 16 if most >= 16 else min(4, most)  # OpenBLAS' own blocks divide these
                even = -(-m // -(-m // most))
                return min(-(-even // step) * step, most // step * step, m), columns
    return m, n
