"""Element-wise functions on the CPU: flat chunks that stay in cache, one NumPy loop after another.

A maximum, a sum and a selection are right in any float type; only dropout's quotient is computed
in float32 (float64 for float64) and rounded. Gradients select on the bits (`compute.select`), so
that an inf or NaN passes where it should and vanishes where it should.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import spec
from ..philox import random_bits
from ..spec import Dropout
from ..spec.contract import Array, Out
from .compute import CHUNK, for_chunks, pixels, rows_per_chunk, select, store, widen


@spec.implements(spec.relu)
def relu(x: Array, out: Out) -> None:
    """out = max(0, x); NumPy's maximum keeps NaN."""
    x, out = x.reshape(-1), out.reshape(-1)
    zero = out.dtype.type(0)
    for_chunks(x.size, CHUNK, lambda i, j: np.maximum(x[i:j], zero, out=out[i:j]))


@spec.implements(spec.relu_backward)
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """out = 0 where y <= 0, else dy; a NaN in y is not <= 0, so dy passes."""
    dy, y, out = dy.reshape(-1), y.reshape(-1), out.reshape(-1)
    zero = y.dtype.type(0)
    for_chunks(dy.size, CHUNK, lambda i, j: select(dy[i:j], ~(y[i:j] <= zero), out[i:j]))


@spec.implements(spec.add)
def add(a: Array, b: Array, out: Out, *, relu: bool = False) -> None:
    """out = a + b, then max(0, ·) if `relu`, while the chunk is in cache."""
    a, b, out = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    zero = out.dtype.type(0)

    def run(i: int, j: int) -> None:
        np.add(a[i:j], b[i:j], out=out[i:j])
        if relu:
            np.maximum(out[i:j], zero, out=out[i:j])

    for_chunks(a.size, CHUNK, run)


@spec.implements(spec.mul)
def mul(a: Array, b: Array, out: Out) -> None:
    """out = a * b."""
    a, b, out = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    for_chunks(a.size, CHUNK, lambda i, j: np.multiply(a[i:j], b[i:j], out=out[i:j]))


@spec.implements(spec.concat)
def concat(xs: Sequence[Array], out: Out) -> None:
    """Copy every array to its channels of out, except one that already lies there."""
    rows = pixels(out)
    offset = 0
    for x in xs:
        source, target = pixels(x), rows[:, offset : offset + x.shape[-1]]
        offset += x.shape[-1]
        if not _same_memory(source, target):
            _copy_rows(source, target)


@spec.implements(spec.channel_slice)
def channel_slice(x: Array, out: Out, *, offset: int) -> None:
    """Copy the channels from `offset` on, unless out is that slice of x already."""
    source, target = pixels(x)[:, offset : offset + out.shape[-1]], pixels(out)
    if not _same_memory(source, target):
        _copy_rows(source, target)


def _same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides


def _copy_rows(source: np.ndarray, target: np.ndarray) -> None:
    size = rows_per_chunk(source.shape[1])
    for_chunks(source.shape[0], size, lambda i, j: np.copyto(target[i:j], source[i:j]))


@spec.implements(spec.dropout)
def dropout(x: Array, out: Out, *, op: Dropout, key: Array) -> None:
    """Element i is kept, and divided by 1 - p, where number i of the stream is >= threshold."""
    x, out = x.reshape(-1), out.reshape(-1)
    kept_share = 1.0 - op.p

    def run(i: int, j: int) -> None:
        kept = random_bits(key, j - i, start=i) >= np.uint32(op.threshold)
        store(widen(x[i:j]) / kept_share, out[i:j])
        select(out[i:j], kept, out[i:j])

    for_chunks(x.size, CHUNK // 4, run)  # Philox widens every number to several 64-bit words


@spec.implements(spec.cast)
def cast(x: Array, out: Out) -> None:
    """out = x in out's type, rounded to nearest even once."""
    x, out = x.reshape(-1), out.reshape(-1)
    for_chunks(x.size, CHUNK, lambda i, j: store(x[i:j], out[i:j]))
