"""Backward of the fused convolution, ReLU and 2x2 max pool (conv_unpool.cu), in one pass."""

from __future__ import annotations

from typing import Any

import numpy

from ..spec.contract import ITEMSIZE, dtype_name
from ..spec.grid import grid
from .group import BYTES, THREADS
from .launch import Kernel, launch, type_name
from .reduce import add_in_order, splits_of_pixels, strips


def _windows(out: Any) -> int:
    """Windows of out [N,P,Q,K], those counted that an odd last row or column begins."""
    n, p, q, _ = out.shape
    return n * -(-p // 2) * -(-q // 2)


def _splits(out: Any) -> tuple[int, int]:
    """(splits, windows of a split) for out [N,P,Q,K], from its shape and type alone."""
    return splits_of_pixels(_windows(out), out.shape[3], BYTES // ITEMSIZE[dtype_name(out)])


def scratch_floats(out: Any) -> int:
    """How many float32 of workspace the bias gradient takes, for out [N,P,Q,K]."""
    return _splits(out)[0] * out.shape[3]


def unpool(dy: Any, code: Any, out: Any, db: Any, sums: Any) -> None:
    """out [N,P,Q,K] and db [K], or None; `sums` is float32 [scratch_floats(out)] where there is db.

    dy [N,P//2,Q//2,K] and code, int8 like dy, as in `spec.conv2d_relu_pool_backward`.
    """
    if out.size == 0 and db is None:
        return
    _, p, q, k = out.shape
    splits, of_split = _splits(out)
    shares = None if db is None else sums[: splits * k]
    launch(
        Kernel("conv_unpool.cu", f"unpool_kernel<{type_name(out)}>"),
        *(strips(out, splits), THREADS, dy, code, out, shares),
        *(numpy.int64(_windows(out)), k, p, q, *grid(dy), *grid(out), numpy.int64(of_split)),
    )
    if db is not None:
        add_in_order(shares, db, splits)
