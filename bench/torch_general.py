"""Twins of activations and of what moves, repeats or sums elements, for `torch_twin.py`.

A value of four axes lies as NCHW in torch, others as they are with us. `ORDER` names our axis at
each of torch's, `PLACE` torch's axis of each of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from ..engine.ir import Node
from ..kernels.errors import UnsupportedError

Shape = tuple[int, ...]
Read = Callable[[str], Any]  # an argument's name → the tensor


def _order(shape: Shape) -> Shape:
    return (0, 3, 1, 2) if len(shape) == 4 else tuple(range(len(shape)))


def _place(shape: Shape) -> Shape:
    return (0, 2, 3, 1) if len(shape) == 4 else tuple(range(len(shape)))


def _transpose(node: Node, read: Read) -> Any:
    axes, place = node["axes"], _place(node["x"].shape)
    return torch.permute(read("x"), tuple(place[axes[axis]] for axis in _order(node.out.shape)))


def _pad(node: Node, read: Read) -> Any:
    op = node["op"]
    counts = [(op.before[axis], op.after[axis]) for axis in _order(node.out.shape)]
    flat = [count for pair in counts[::-1] for count in pair]  # the last axis first
    return F.pad(read("x"), flat, value=op.value)


def _broadcast(node: Node, read: Read) -> Any:
    shape = node.out.shape
    return read("x").expand(tuple(shape[axis] for axis in _order(shape)))


def _reduce_sum(node: Node, read: Read) -> Any:
    x, out = node["x"].shape, node.out.shape
    summed = [t for t, axis in enumerate(_order(x)) if out[axis] != x[axis]]
    return torch.sum(read("x"), summed, keepdim=True) if summed else read("x")


def _clip(node: Node, read: Read) -> Any:
    op = node["op"]
    if op.low > op.high:
        return torch.clamp(read("x"), op.low, op.high)
    return F.hardtanh(read("x"), op.low, op.high)


def _prelu(node: Node, read: Read) -> Any:
    if len(node["x"].shape) not in (2, 4) and node["slope"].shape != (1,):
        raise UnsupportedError(f"torch twin: {node.name}: torch's prelu takes channels second")
    return F.prelu(read("x"), read("slope"))


def _softmax(node: Node, read: Read) -> Any:
    axis = _place(node["x"].shape)[-1]
    return (F.log_softmax if node["log"] else F.softmax)(read("x"), axis)


def reshape(node: Node, x: Any) -> Any:
    """Any reshape, in our order of the elements."""
    if len(node["x"].shape) == 4:
        x = torch.permute(x, (0, 2, 3, 1))
    x = torch.reshape(x, node.out.shape)
    return torch.permute(x, (0, 3, 1, 2)) if len(node.out.shape) == 4 else x


TWINS: dict[str, Callable[[Node, Read], Any]] = {
    "transpose": _transpose,
    "pad": _pad,
    "broadcast": _broadcast,
    "reduce_sum": _reduce_sum,
    "mul": lambda node, read: torch.mul(read("a"), read("b")),
    "clip": _clip,
    "leaky_relu": lambda node, read: F.leaky_relu(read("x"), node["op"].slope),
    "prelu": _prelu,
    "softmax": _softmax,
}
