"""Relu and its kin, Clip, Softmax, Add, Sum and Mul."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError
from ..ir import Value
from .importer import Importer, Operand, broadcast_shape, translates
from .ops_products import spread
from .reader import Op
from .tensor import Tensor, arrange, laid, plain, reshaped


@translates("Relu")
def _relu(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.tensor(op)
    return [x.with_value(i.b.relu(x.value))]


@translates("LeakyRelu")
def _leaky_relu(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.tensor(op)
    return [x.with_value(i.b.leaky_relu(x.value, op.get("alpha", 0.01)))]


@translates("Clip")
def _clip(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.tensor(op)
    low, high = op.get("min", -math.inf), op.get("max", math.inf)
    if i.given(op, 1):
        low = i.constant(op, 1).item()
    if i.given(op, 2):
        high = i.constant(op, 2).item()
    return [x.with_value(i.b.clip(x.value, float(low), float(high)))]


@translates("PRelu")
def _prelu(i: Importer, op: Op) -> Sequence[Tensor]:
    x, slope = i.tensor(op), i.constant(op, 1)
    rank = len(x.shape)
    shape = (1,) * (rank - slope.ndim) + slope.shape
    if broadcast_shape(shape, x.shape) != x.shape:
        raise InputError(f"slope {list(slope.shape)} does not fit {list(x.shape)}")
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    if len(wide) > 1:
        return [_prelu_of_each(i, op, x, slope.reshape(shape))]
    axis = wide[0] if wide else min(1, rank - 1)
    order = (*(a for a in range(rank) if a != axis), axis)
    layer = i.layer(op)
    slopes = i.b.parameter(f"{layer}/slope", (slope.size,), "zeros")
    value = i.b.prelu(arrange(i.b, x, order), slopes, name=layer)
    i.weights(f"{layer}/slope", slope.reshape(-1), f"slope {op.inputs[1]!r}")
    return [laid(value, order)]


def _prelu_of_each(i: Importer, op: Op, x: Tensor, slope: np.ndarray) -> Tensor:
    """max(x, 0) + slope * min(x, 0), for slopes that differ along several axes."""
    value = plain(i.b, x)
    slopes = spread(i, laid(i.frozen(slope, f"{op.name}.slope")), x.shape)
    below = i.b.mul(i.b.clip(value, -math.inf, 0.0), plain(i.b, slopes))
    return laid(i.b.add(i.b.relu(value), below))


@translates("Softmax", "LogSoftmax")
def _softmax(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.tensor(op)
    rank = len(x.shape)
    log = op.kind == "LogSoftmax"
    fixed, final = i.batch, op in i.final
    if (fixed or final) and rank > 1 and normal(op.get("axis", -1), rank) == 0:
        told = f"; the file has {fixed[0]} of them" if fixed else ""
        raise InputError(f"over axis 0 it would mix the images of a batch{told}")
    if i.model.opset < 13:  # over all axes from `axis` on
        axis = normal(op.get("axis", 1), rank)
        shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        if final and axis and shape[0] == x.shape[0]:
            return [x]
        value = i.b.softmax(reshaped(i.b, plain(i.b, x), shape), log=log)
        return [laid(reshaped(i.b, value, x.shape))]
    axis = normal(op.get("axis", -1), rank)
    if final and axis and x.shape[axis] == math.prod(x.shape[1:]):
        return [x]
    order = (*(a for a in range(rank) if a != axis), axis)
    return [laid(i.b.softmax(arrange(i.b, x, order), log=log), order)]


def normal(axis: int, rank: int) -> int:
    """An axis counted from the front. Raises: InputError."""
    if not -rank <= axis < rank:
        raise InputError(f"axis {axis} does not exist: there are {rank}")
    return axis % rank


@translates("Add", "Sum", "Mul")
def _add(i: Importer, op: Op) -> Sequence[Operand]:
    total: Operand | None = None
    for index in range(len(op.inputs)):
        found = i.operand(op, index)
        found = found if isinstance(found, np.ndarray) else i.tensor(op, index)
        total = found if total is None else _combine(i, op, total, found)
    if total is None:
        raise InputError("it has no inputs")
    return [total]


def _combine(i: Importer, op: Op, a: Operand, c: Operand) -> Operand:
    function = np.multiply if op.kind == "Mul" else np.add
    if isinstance(a, np.ndarray) and isinstance(c, np.ndarray):
        i.compute(math.prod(broadcast_shape(a.shape, c.shape)))
        return function(a, c)
    apply = i.b.mul if op.kind == "Mul" else i.b.add
    if isinstance(a, np.ndarray):
        a, c = c, a
    assert isinstance(a, Tensor)
    return (
        _with_constant(i, op, a, c, apply) if isinstance(c, np.ndarray) else _pair(i, a, c, apply)
    )


Apply = Callable[[Value, Value], Value]


def _pair(i: Importer, a: Tensor, c: Tensor, apply: Apply) -> Tensor:
    """Two tensors, in the order in which the larger one lies."""
    if (a.factors, a.groups, a.order) == (c.factors, c.groups, c.order):
        return a.with_value(apply(a.value, reshaped(i.b, c.value, a.value.shape)))
    shape = broadcast_shape(a.shape, c.shape)
    if a.shape != shape and c.shape == shape:
        a, c = c, a
    if a.shape != shape:
        a = spread(i, a, shape)
    axes = a.axes()
    if axes is None:
        a, axes = laid(plain(i.b, a)), tuple(range(len(shape)))
    first = arrange(i.b, a, axes)
    second = _behind(i, c, shape, axes)
    return laid(
        apply(first, i.b.broadcast(second, first.shape) if second.shape != first.shape else second),
        axes,
    )


def _behind(i: Importer, c: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Value:
    """c with axes of size 1 in front, as many as `shape` has more, its memory in order `axes`."""
    missing = len(shape) - len(c.groups)
    widened = Tensor(c.value, c.factors, (0,) * missing + c.groups, c.order)
    return arrange(i.b, widened, axes)


def _with_constant(i: Importer, op: Op, a: Tensor, c: np.ndarray, apply: Apply) -> Tensor:
    """A tensor and a constant, which is put into the tensor's order beforehand."""
    shape = broadcast_shape(a.shape, c.shape)
    if c.dtype.kind != "f" and c.dtype.name != "bfloat16":
        raise InputError(f"only float numbers can be computed with, not {c.dtype}")
    if a.shape != shape:
        a = spread(i, a, shape)
    axes = a.axes()
    if axes is None:
        a, axes = laid(plain(i.b, a)), tuple(range(len(shape)))
    first = arrange(i.b, a, axes)
    c = c.reshape((1,) * (len(shape) - c.ndim) + c.shape).transpose(axes)
    second = i.frozen(c, f"{op.name}.constant")
    if second.shape != first.shape:
        second = i.b.broadcast(second, first.shape)
    return laid(apply(first, second), axes)
