"""Dense layers and the bias gradient on the CPU: one matrix product a chunk, on all threads.

Inside a session BLAS has one thread a call, so the work is split here, along the weights: for
small batches they are the traffic, and every chunk reads or writes its own. Bias, ReLU and mask
are applied while the chunk is in cache. The forward pass splits over images where there are more
of them than outputs.
"""

from __future__ import annotations

import math

import numpy as np

from .. import spec
from ..spec import Config
from ..spec.contract import Array, Out
from .compute import (
    column_sums,
    for_chunks,
    pixels,
    rows_per_chunk,
    select,
    store,
    wide_type,
    widen,
)

PRODUCTS = 1 << 22  # multiply-adds a chunk: about 0.1 ms of one core
NARROW = 64  # rows of a matrix product that keep a core busy
LINE = 256  # and columns: shorter pieces of long rows waste cache lines and address translations


def _split(count: int, least: int, products: int) -> int:
    """How many of `count` outputs make a chunk: `least` or more, `products` multiply-adds each."""
    size = max(least, PRODUCTS // max(1, products))
    chunks = 1 << int(math.log2(max(1, count / size)))  # even shares for 2, 4, … cores
    return max(1, -(-count // chunks))


@spec.implements(spec.dense)
def dense(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = x wᵀ + b, then max(0, ·) if `relu`."""
    x = widen(x)
    (n, k), c, whole = out.shape, x.shape[1], slice(None)

    def run(images: slice, outputs: slice) -> None:
        y = _product(x[images], widen(w[outputs]).T, out[images, outputs])
        if b is not None:
            y += b[outputs]
        if relu:
            np.maximum(y, 0, out=y)
        if y.dtype != out.dtype:
            store(y, out[images, outputs])

    if k >= n:
        for_chunks(k, _split(k, NARROW, n * c), lambda i, j: run(whole, slice(i, j)))
    else:
        for_chunks(n, _split(n, NARROW, k * c), lambda i, j: run(slice(i, j), whole))


def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The product a b, in `out` itself if that has its type."""
    return np.matmul(a, b, out=out if out.dtype == a.dtype else None)


@spec.implements(spec.dense_dgrad)
def dense_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = dy w, 0 where mask <= 0; db = its sum over the images, before rounding."""
    dy = widen(dy)
    n, c = out.shape

    def run(features: slice) -> None:
        dx = _product(dy, widen(w[:, features]), out[:, features])
        if mask is not None:
            select(dx, ~(mask[:, features] <= mask.dtype.type(0)), dx)
        if db is not None:
            np.add.reduce(dx, axis=0, out=db[features])
        if dx.dtype != out.dtype:
            store(dx, out[:, features])

    for_chunks(c, _split(c, LINE, n * len(w)), lambda i, j: run(slice(i, j)))


@spec.implements(spec.dense_wgrad)
def dense_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = dyᵀ x, the images in order inside one matrix product."""
    x, dy = widen(x), widen(dy)

    def run(i: int, j: int) -> None:
        if len(x) == 1:  # an outer product: BLAS would copy and pad both sides for one term
            np.multiply(dy[:, i:j].T, x, out=out[i:j])
        else:
            np.matmul(dy[:, i:j].T, x, out=out[i:j])

    for_chunks(len(out), _split(len(out), NARROW, x.size), run)


@spec.implements(spec.bias_grad)
@np.errstate(all="ignore")
def bias_grad(
    dy: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """out[k] = sum of dy over all other axes: sums of chunks, then the sum of those, in order."""
    rows = pixels(dy)
    size = rows_per_chunk(rows.shape[1])
    sums = np.zeros((-(-len(rows) // size), rows.shape[1]), wide_type(dy.dtype))

    def run(i: int, j: int) -> None:
        sums[i // size] = column_sums(widen(rows[i:j]))

    for_chunks(len(rows), size, run)
    np.add.reduce(sums, axis=0, out=out)
