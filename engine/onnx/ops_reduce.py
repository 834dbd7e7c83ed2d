"""ReduceMean, ReduceSum and ReduceMax: over rows and columns they are global pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import InputError
from .importer import Importer, translates
from .ops_elementwise import normal
from .ops_products import scaled
from .reader import Op
from .tensor import NHWC, Tensor, arrange, images, laid, plain, regrouped

PIXELS = {2, 3}


@translates("ReduceMean", "ReduceSum", "ReduceMax")
def _reduce(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.tensor(op)
    axes = _axes(i, op, len(x.shape))
    shape = [1 if a in axes else n for a, n in enumerate(x.shape)]
    if not op.get("keepdims", 1):
        shape = [n for a, n in enumerate(x.shape) if a not in axes]
    if not axes:
        return [x]
    if 0 in axes and not i.exact:
        raise InputError("over axis 0 it would mix the images of a batch")
    if axes == PIXELS and len(x.shape) == 4 and op.kind != "ReduceSum":
        pool = i.b.global_avg_pool2d if op.kind == "ReduceMean" else i.b.global_max_pool2d
        n, c = x.shape[:2]
        made = laid(i.b.reshape(pool(images(i.b, x)), (n, 1, 1, c)), NHWC)
    elif op.kind == "ReduceMax":
        made = _largest(i, x, axes)
    else:
        made = _summed(i, x, axes)
        if op.kind == "ReduceMean":
            made = scaled(i, made, 1 / math.prod(x.shape[a] for a in axes))
    return [regrouped(i.b, made, tuple(shape))]


def _largest(i: Importer, x: Tensor, axes: set[int]) -> Tensor:
    """The maxima over `axes`, which are gone: what is left are images, what is searched rows."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    rows = math.prod(x.shape[axis] for axis in axes)
    left = [x.shape[axis] for axis in kept]
    if not rows or not math.prod(left):
        raise InputError(f"{list(x.shape)} has no numbers to search")
    value = arrange(i.b, x, (*kept, *sorted(axes)))
    made = i.b.global_max_pool2d(i.b.reshape(value, (math.prod(left), rows, 1, 1)))
    return laid(i.b.reshape(made, tuple(left)))


def _summed(i: Importer, x: Tensor, axes: set[int]) -> Tensor:
    """The sums over `axes`, which stay as axes of one element."""
    order = x.axes()
    if order is None:
        x, order = laid(plain(i.b, x)), tuple(range(len(x.shape)))
    places = [place for place, axis in enumerate(order) if axis in axes]
    return laid(i.b.reduce_sum(arrange(i.b, x, order), places, keepdims=True), order)


def _axes(i: Importer, op: Op, rank: int) -> set[int]:
    """The axes that an attribute or input 1 names; all where none is named."""
    told = i.constant(op, 1).reshape(-1) if i.given(op, 1) else op.get("axes", ())
    axes = {normal(int(axis), rank) for axis in told}
    return axes if axes or op.get("noop_with_empty_axes", 0) else set(range(rank))
