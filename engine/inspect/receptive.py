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

WINDOWS = ("conv2d", "max_pool2d", "avg_pool2d")


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
        size = node["w"].shape[1:3] if node.op == "conv2d" else node["op"].kernel
        rows, columns = (
            _slide(pairs, out.shape[1 + i], size[i], node["op"], i)
            for i, pairs in enumerate((seen[0].rows, seen[0].columns))
        )
        return Field(rows, columns)
    if len(out.shape) != 4:
        return _hull([Field(_whole(f.rows), _whole(f.columns)) for f in seen])
    for field in seen:
        if any(len(pairs) not in (1, size) for pairs, size in
               zip((field.rows, field.columns), out.shape[1:3], strict=True)):  # fmt: skip
            raise InputError(
                f"layer {node.name}: it is not known which pixels {node.op} takes, so the layers "
                "behind it cannot be shown"
            )
    shape = [np.zeros((size, 2), np.int64) for size in out.shape[1:3]]
    return _hull([Field(f.rows + shape[0], f.columns + shape[1]) for f in seen])


def _slide(pairs: np.ndarray, count: int, taps: int, op: object, axis: int) -> np.ndarray:
    """Fields int64[count,2] of windows over positions with the fields `pairs`."""
    stride, padding = op.stride[axis], op.padding[2 * axis]  # type: ignore[attr-defined]
    dilation = getattr(op, "dilation", (1, 1))[axis]
    steps = np.arange(count)[:, None] * stride + np.arange(taps) * dilation - padding  # [count,R]
    inside = (steps >= 0) & (steps < len(pairs))
    if getattr(op, "padding_mode", "") == "edge":
        inside[:] = True
    steps = steps.clip(0, len(pairs) - 1)
    first = np.where(inside, pairs[steps, 0], pairs[:, 1].max() + 1).min(axis=1)
    last = np.where(inside, pairs[steps, 1], -1).max(axis=1)
    return np.stack([first, last], axis=1)


def _whole(pairs: np.ndarray) -> np.ndarray:
    return np.array([[pairs[:, 0].min(), pairs[:, 1].max()]])


def _hull(seen: list[Field]) -> Field:
    rows, columns = (
        np.stack([
            np.min([pairs[:, 0] for pairs in group], axis=0),
            np.max([pairs[:, 1] for pairs in group], axis=0),
        ], axis=1)
        for group in ([f.rows for f in seen], [f.columns for f in seen])
    )  # fmt: skip
    return Field(rows, columns)
