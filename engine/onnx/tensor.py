"""An ONNX tensor in the graph: a value in memory, and where each of the tensor's axes lies in it.

ONNX's images are [N,C,H,W], ours [N,H,W,C]. So that nothing is moved without need, a `Tensor` says
which order its memory has; Transpose, Reshape and Flatten only change what it says, and an op that
wants another order asks for it by `arrange`, which moves the memory if it must.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..build import GraphBuilder
from ..ir import Value

Shape = tuple[int, ...]
NHWC = (0, 2, 3, 1)  # the axes of an ONNX image in our order


@dataclass(frozen=True)
class Tensor:
    """A tensor that lies in `value`.

    Its axes are cut into factors, none of size 1, listed in ONNX's order: axis i is made of
    `groups[i]` of them (none where its size is 1). In memory the factors stand in another order:
    `order[j]` is the factor that stands j-th.
    """

    value: Value
    factors: Shape
    groups: Shape
    order: Shape

    @property
    def shape(self) -> Shape:
        """The shape that ONNX sees."""
        return tuple(math.prod(self.factors[f] for f in part) for part in self.parts)

    @property
    def parts(self) -> tuple[range, ...]:
        """The factors of each axis."""
        ends = [0]
        for count in self.groups:
            ends.append(ends[-1] + count)
        return tuple(range(a, z) for a, z in itertools.pairwise(ends))

    def axes(self) -> Shape | None:
        """The axes in the order in which they lie in memory, or None where their factors mix.

        An axis of size 1 lies anywhere; images are then taken for NHWC.
        """
        rank = len(self.groups)
        for guess in (NHWC if rank == 4 else (), tuple(range(rank))):
            if guess and self.order == self.factors_of(guess):
                return guess
        places = {f: place for place, f in enumerate(self.order)}
        after, first = -1.0, []
        for part in self.parts:
            after = places[part[0]] if part else after + 1e-3
            first.append(after)
        axes = tuple(sorted(range(rank), key=lambda axis: first[axis]))
        return axes if self.order == self.factors_of(axes) else None

    def factors_of(self, axes: Sequence[int]) -> Shape:
        """The factors of these axes, one axis after the other."""
        parts = self.parts
        return tuple(f for axis in axes for f in parts[axis])

    def with_value(self, value: Value) -> Tensor:
        """The tensor of the same shape and order that lies in another value."""
        return replace(self, value=value)


def laid(value: Value, axes: Sequence[int] | None = None) -> Tensor:
    """The tensor whose axes lie in `value` in the order `axes` (None: ONNX's own)."""
    axes = tuple(range(len(value.shape))) if axes is None else tuple(axes)
    sizes = [value.shape[axes.index(axis)] for axis in range(len(axes))]
    groups = tuple(int(size != 1) for size in sizes)
    tensor = Tensor(value, tuple(s for s in sizes if s != 1), groups, ())
    return replace(tensor, order=tensor.factors_of(axes))


def arrange(b: GraphBuilder, tensor: Tensor, axes: Sequence[int]) -> Value:
    """The memory with the axes in the order `axes`: moved where it must be, else only renamed."""
    wanted = tensor.factors_of(axes)
    shape = tuple(tensor.shape[axis] for axis in axes)
    value = tensor.value
    if wanted != tensor.order:
        places = [tensor.order.index(f) for f in wanted]
        starts = [p for i, p in enumerate(places) if i == 0 or places[i - 1] != p - 1]
        bounds = [*sorted(starts), len(places)]
        sizes = [tensor.factors[f] for f in tensor.order]
        runs = [math.prod(sizes[a:z]) for a, z in itertools.pairwise(bounds)]
        ranks = {start: i for i, start in enumerate(sorted(starts))}
        value = b.transpose(reshaped(b, value, tuple(runs)), [ranks[start] for start in starts])
    return reshaped(b, value, shape)


def plain(b: GraphBuilder, tensor: Tensor) -> Value:
    """The memory in ONNX's own order and shape."""
    return arrange(b, tensor, range(len(tensor.groups)))


def images(b: GraphBuilder, tensor: Tensor) -> Value:
    """The memory of images [N,C,H,W] as [N,H,W,C]."""
    return arrange(b, tensor, NHWC)


def reshaped(b: GraphBuilder, value: Value, shape: Shape) -> Value:
    """The same memory under another shape."""
    return value if value.shape == shape else b.reshape(value, shape)


def regrouped(b: GraphBuilder, tensor: Tensor, shape: Shape) -> Tensor:
    """ONNX's Reshape: moves memory only where the new axes cut across the old ones."""
    if 0 in shape:
        return laid(reshaped(b, tensor.value, shape))
    old, new = tensor.factors, [size for size in shape if size != 1]
    cuts = sorted({*_ends(old), *_ends(new)})
    steps = list(itertools.pairwise([1, *cuts]))
    if any(end % start for start, end in steps):
        return laid(reshaped(b, plain(b, tensor), shape))
    pieces = [end // start for start, end in steps]
    split = _count(old, pieces)  # how many of the finer factors each old one falls into
    first = [sum(split[:f]) for f in range(len(split))]
    order = tuple(first[f] + i for f in tensor.order for i in range(split[f]))
    counts = iter(_count(new, pieces))
    groups = tuple(0 if size == 1 else next(counts) for size in shape)
    return Tensor(tensor.value, tuple(pieces), groups, order)


def _ends(sizes: Sequence[int]) -> list[int]:
    return [math.prod(sizes[: i + 1]) for i in range(len(sizes))]


def _count(sizes: Sequence[int], pieces: Sequence[int]) -> list[int]:
    """How many of `pieces`, in order, make up each of `sizes`."""
    counts, i = [], 0
    for size in sizes:
        start, made = i, 1
        while made < size:
            made *= pieces[i]
            i += 1
        counts.append(i - start)
    return counts


def transposed(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """ONNX's Transpose: axis i of the result is axis `axes[i]` of `tensor`; nothing moves."""
    order = tensor.factors_of(axes)
    renamed = {f: i for i, f in enumerate(order)}
    return Tensor(
        tensor.value,
        tuple(tensor.factors[f] for f in order),
        tuple(tensor.groups[axis] for axis in axes),
        tuple(renamed[f] for f in tensor.order),
    )
