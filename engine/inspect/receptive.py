"""Receptive fields: which pixels of the image a value of a layer can depend on, exactly.

Going forward, the rows that position p of a window's output sees are those of the first to the
last of its taps that lie in the image:

    first[p] = min first_in[t],  last[p] = max last_in[t],  t = p * stride + r * dilation - padding

and columns alike. Branches that meet see the hull of both; a dense layer sees what all its inputs
see. With dilation the field is the hull of its pixels (Araujo et al. 2019, "Computing receptive
fields of convolutional neural networks", have the same as formulas).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..ir import Graph, Node, Value

WINDOWS = ("conv2d", "max_pool2d", "avg_pool2d", "pad")
POINTWISE = (  # in rows and columns; over channels they may reach
    "relu", "clip", "leaky_relu", "prelu", "softmax", "batch_norm_inference", "lrn", "dropout",
    "add", "mul", "concat", "channel_slice", "broadcast",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Field:
    """What each position of a value sees: `rows` int64[P,2] and `columns` int64[Q,2].

    Each pair is the first and the last pixel; a position that sees only padding has last < first.
    A value without positions (dense layers) has one.
    """

    rows: np.ndarray
    columns: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the largest field."""
        tall, wide = ((pairs[:, 1] - pairs[:, 0]).max() + 1 for pairs in (self.rows, self.columns))
        return int(tall), int(wide)

    def box(self, p: int, q: int) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) of position (p, q), bottom and right not included."""
        (top, last), (left, end) = self.rows[p].tolist(), self.columns[q].tolist()
        return top, max(top, last + 1), left, max(left, end + 1)


def fields(graph: Graph) -> dict[Value, Field]:
    """The field of every activation of a forward graph as built; the image is its first input.

    Raises: InputError for an op that moves pixels in a way that is not known here.
    """
    image = graph.inputs[0]
    own = (np.repeat(np.arange(size)[:, None], 2, axis=1) for size in image.shape[1:3])
    known = {image: Field(*own)}
    for node in graph.nodes:
        seen = [known[value] for value in node.reads if value in known]
        for value in node.writes if seen else ():
            known[value] = _field(node, value, seen)
    return known


def _field(node: Node, out: Value, seen: list[Field]) -> Field:
    if node.op in WINDOWS:
        rows, columns = (_windows(node, seen[0], out, axis) for axis in (0, 1))
        return Field(rows, columns)
    places = out.shape[1:3] if len(out.shape) >= 4 else (1, 1)
    if len(out.shape) == 2 or (node.op == "reduce_sum" and len(out.shape) == 4):
        seen = [Field(*map(_summed, (f.rows, f.columns), places)) for f in seen]
    elif not _stays(node) and any(len(f.rows) * len(f.columns) > 1 for f in seen):
        raise InputError(
            f"layer {node.name}: it is not known which pixels {node.op} takes, so the layers "
            "behind it cannot be shown"
        )
    zeros = [np.zeros((size, 2), np.int64) for size in places]
    return _hull([Field(f.rows + zeros[0], f.columns + zeros[1]) for f in seen])


def _stays(node: Node) -> bool:
    """Whether every value keeps its place."""
    if node.op == "transpose":
        return node["axes"][:3] == (0, 1, 2)
    if node.op == "reshape":
        return len(node.out.shape) >= 4 and node.out.shape[:3] == node["x"].shape[:3]
    return node.op in POINTWISE


def _windows(node: Node, field: Field, out: Value, axis: int) -> np.ndarray:
    """Fields int64[P,2] of the rows (axis 0) or columns (axis 1) of a window's output."""
    op, pairs = node["op"], (field.rows, field.columns)[axis]
    if node.op == "pad":
        taps, stride, dilation, padding = 1, 1, 1, op.before[1 + axis]
    else:
        taps = node["w"].shape[1 + axis] if node.op == "conv2d" else op.kernel[axis]
        stride, padding = op.stride[axis], op.padding[2 * axis]
        dilation = getattr(op, "dilation", (1, 1))[axis]
    count = out.shape[1 + axis]
    steps = np.arange(count)[:, None] * stride + np.arange(taps) * dilation - padding  # [P,R]
    inside = (steps >= 0) & (steps < len(pairs))
    if getattr(op, "padding_mode", "zeros") == "edge":
        inside[:] = True
    steps = steps.clip(0, len(pairs) - 1)
    first = np.where(inside, pairs[steps, 0], pairs[:, 1].max() + 1).min(axis=1)
    last = np.where(inside, pairs[steps, 1], -1).max(axis=1)
    return np.stack([first, last], axis=1)


def _summed(pairs: np.ndarray, count: int) -> np.ndarray:
    """The fields of `count` places of a sum over all, if it is one, or over none."""
    return np.array([[pairs[:, 0].min(), pairs[:, 1].max()]]) if count == 1 else pairs


def _hull(seen: list[Field]) -> Field:
    rows, columns = (
        np.stack([
            np.min([pairs[:, 0] for pairs in group], axis=0),
            np.max([pairs[:, 1] for pairs in group], axis=0),
        ], axis=1)
        for group in ([f.rows for f in seen], [f.columns for f in seen])
    )  # fmt: skip
    return Field(rows, columns)
