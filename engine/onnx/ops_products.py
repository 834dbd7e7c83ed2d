"""Gemm and MatMul: dense layers where one factor is a weight, plain products where none is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..ir import Value
from .importer import Importer, broadcast_shape, translates
from .ops_layers import bias_behind, vector
from .reader import Op
from .tensor import Tensor, arrange, laid, plain, regrouped, reshaped, transposed

MOST_PRODUCTS = 64  # of a MatMul of stacks, each of which becomes a call


def weight_columns(x: Tensor, rows: int) -> tuple[int, ...] | None:
    """The factors of all but the first `rows` axes as they lie in memory behind the first ones.

    None where the first ones do not come first, in their order.
    """
    first = sum(x.groups[:rows])
    if x.order[:first] != tuple(range(first)):
        return None
    return x.order[first:]


def product(i: Importer, op: Op, x: Tensor, w: np.ndarray, bias: np.ndarray | None) -> Tensor:
    """x [M,C] times w [K,C], a layer with weights, plus bias [K].

    Where the memory of x has its features in another order (an image that was flattened), the
    columns of w are put into that order instead.
    """
    if x.shape[1] != w.shape[1]:
        raise InputError(f"{list(x.shape)} cannot be multiplied by weights {list(w.shape[::-1])}")
    columns = weight_columns(x, 1)
    value = plain(i.b, x) if columns is None else reshaped(i.b, x.value, x.shape)
    layer = i.layer(op)
    result = i.b.dense(value, w.shape[0], bias=bias is not None, name=layer)

    def turned(w: np.ndarray) -> np.ndarray:
        if columns is None:
            return w
        first = len(x.order) - len(columns)
        cut = w.reshape(w.shape[0], *x.factors[first:])
        return cut.transpose(0, *(c - first + 1 for c in columns)).reshape(w.shape)

    i.weights(f"{layer}/w", w, f"weight of {op.name!r}", turned)
    if bias is not None:
        i.weights(f"{layer}/b", vector(bias, w.shape[0]), f"bias of {op.name!r}")
    return laid(result)


@translates("Gemm")
def _gemm(i: Importer, op: Op) -> Sequence[Tensor]:
    x, w = i.tensor(op), i.operand(op, 1)
    alpha, beta = op.get("alpha", 1.0), op.get("beta", 1.0)
    if op.get("transA", 0):
        x = _turned(x)
    if len(x.shape) != 2 or len(w.shape) != 2:
        raise InputError(f"both factors must have 2 axes, not {list(x.shape)}, {list(w.shape)}")
    c = i.operand(op, 2) if i.given(op, 2) else None
    units = w.shape[0 if op.get("transB", 0) else 1]
    if not isinstance(w, np.ndarray):
        second = i.tensor(op, 1)
        result = _multiplied(i, x, second if op.get("transB", 0) else _turned(second))
        if alpha != 1:
            result = scaled(i, result, alpha)
    else:
        turned = w if op.get("transB", 0) else w.T
        turned = turned * w.dtype.type(alpha) if alpha != 1 else turned
        bias = None
        if (
            isinstance(c, np.ndarray)
            and c.ndim <= 2
            and c.size in (1, units)
            and (c.ndim < 2 or c.shape[0] == 1)
        ):
            bias, c = c * c.dtype.type(beta), None
        elif c is None:
            bias = bias_behind(i, op, units, (1, units))
        result = product(i, op, x, turned, bias)
    if c is None or beta == 0:
        return [result]
    shift = i.tensor(op, 2)
    if broadcast_shape(shift.shape, result.shape) != result.shape:
        raise InputError(f"C {list(shift.shape)} does not fit {list(result.shape)}")
    shift = spread(i, shift, result.shape)
    if beta != 1:
        shift = scaled(i, shift, beta)
    return [laid(i.b.add(plain(i.b, result), plain(i.b, shift)))]


def _turned(x: Tensor) -> Tensor:
    if len(x.shape) != 2:
        raise InputError(f"both factors must have 2 axes, not {list(x.shape)}")
    return transposed(x, (1, 0))


def _multiplied(i: Importer, x: Tensor, w: Tensor) -> Tensor:
    """x [M,C] times wᵀ of w [K,C], both made while running."""
    if x.shape[1] != w.shape[1]:
        raise InputError(f"{list(x.shape)} cannot be multiplied by {list(w.shape[::-1])}")
    return laid(i.b.matmul(plain(i.b, x), plain(i.b, w)))


def spread(i: Importer, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x repeated to `shape` by NumPy's rule, in ONNX's order."""
    if x.shape == shape:
        return x
    value = plain(i.b, x)
    value = reshaped(i.b, value, (1,) * (len(shape) - len(value.shape)) + value.shape)
    return laid(i.b.broadcast(value, shape))


def scaled(i: Importer, x: Tensor, factor: float) -> Tensor:
    """x times a number."""
    rank = len(x.value.shape)
    number = i.frozen(np.full((1,) * rank, factor, np.float32), "factor")
    return x.with_value(i.b.mul(x.value, i.b.broadcast(number, x.value.shape)))


@translates("MatMul")
def _matmul(i: Importer, op: Op) -> Sequence[Tensor]:
    a, w = i.tensor(op), i.operand(op, 1)
    if not a.shape or not w.shape:
        raise InputError("a single number cannot be multiplied so")
    if isinstance(w, np.ndarray) and w.ndim == 2 and len(a.shape) >= 2:
        *rows, c = a.shape
        flat = regrouped(i.b, a, (math.prod(rows), c))
        bias = bias_behind(i, op, w.shape[1], (1,) * len(rows) + (w.shape[1],))
        made = product(i, op, flat, w.T, bias)
        return [regrouped(i.b, made, (*rows, w.shape[1]))]
    return [_stacked(i, a, i.tensor(op, 1))]


def _stacked(i: Importer, a: Tensor, w: Tensor) -> Tensor:
    """Any two tensors by NumPy's rule of matmul: a call for each matrix of the stack."""
    b = i.b
    lone = len(a.shape) == 1, len(w.shape) == 1
    a = regrouped(b, a, (1, *a.shape)) if lone[0] else a
    w = regrouped(b, w, (*w.shape, 1)) if lone[1] else w
    stack = broadcast_shape(a.shape[:-2], w.shape[:-2])
    if math.prod(stack) > MOST_PRODUCTS:
        raise InputError(
            f"a stack of {math.prod(stack)} products of activations; the most is {MOST_PRODUCTS}"
        )
    (m, c), (other, k) = a.shape[-2:], w.shape[-2:]
    if c != other:
        raise InputError(f"{list(a.shape)} cannot be multiplied by {list(w.shape)}")
    turned = (*range(len(w.shape) - 2), len(w.shape) - 1, len(w.shape) - 2)
    left, right = plain(b, a), arrange(b, w, turned)
    parts = [
        b.matmul(_matrix(i, left, at, stack), _matrix(i, right, at, stack))
        for at in itertools.product(*map(range, stack))
    ]
    value = parts[0]
    if len(parts) > 1:
        value = b.concat([b.reshape(part, (1, 1, 1, m * k)) for part in parts])
    shape = (*stack, *(() if lone[0] else (m,)), *(() if lone[1] else (k,)))
    return laid(reshaped(b, value, shape))


def _matrix(i: Importer, x: Value, at: Sequence[int], stack: Sequence[int]) -> Value:
    """The matrix of x that stands at place `at` of the stack."""
    *own, rows, columns = x.shape
    place = 0
    for size, index in zip(own, at[len(stack) - len(own) :], strict=True):
        place = place * size + (index if size > 1 else 0)
    count = math.prod(own)
    if count == 1:
        return reshaped(i.b, x, (rows, columns))
    x = reshaped(i.b, x, (count, rows, columns))
    cut = i.b.pad(x, (-place, 0, 0), (place + 1 - count, 0, 0))
    return i.b.reshape(cut, (rows, columns))
