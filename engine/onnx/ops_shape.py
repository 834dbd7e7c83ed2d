"""Operations that move, cut or rename: Reshape, Transpose, Concat, Pad and their kin.

Those by which files compute shapes (Shape, Gather, Slice, Cast, ConstantOfShape) are for constants
only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .importer import Importer, Operand, translates
from .initializers import require
from .ops_elementwise import normal
from .ops_layers import Padded
from .reader import Op
from .tensor import Tensor, arrange, laid, plain, regrouped, reshaped, transposed


@translates("Identity")
def _identity(i: Importer, op: Op) -> Sequence[object]:
    return [i.operand(op, 0)]


@translates("Constant")
def _constant(i: Importer, op: Op) -> Sequence[np.ndarray]:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
             "value_ints": np.int64}  # fmt: skip
    for name, value in op.attributes.items():
        if name == "value" and isinstance(value, np.ndarray):
            return [value]
        if name in kinds:
            return [np.asarray(value, kinds[name])]
    raise InputError(f"only numbers are known, not {', '.join(op.attributes) or 'nothing'}")


def _shape_of(found: Operand) -> tuple[int, ...]:
    return tuple(found.shape)


def _renamed(i: Importer, op: Op, shape: Sequence[int]) -> Sequence[Operand]:
    """Input 0 under another shape of as many elements."""
    found = i.operand(op, 0)
    if isinstance(found, np.ndarray):
        made = found.reshape(tuple(shape))
        if not np.may_share_memory(made, found):
            i.compute(made.size)
        return [made]
    x = i.tensor(op)
    if math.prod(shape) != math.prod(x.shape):
        raise InputError(f"{list(x.shape)} cannot be seen as {list(shape)}")
    return [regrouped(i.b, x, tuple(shape))]


@translates("Reshape")
def _reshape(i: Importer, op: Op) -> Sequence[Operand]:
    found = _settled(i, op)
    old = _shape_of(found)
    wanted = [int(size) for size in i.constant(op, 1).reshape(-1)]
    if not op.get("allowzero", 0):
        if any(size == 0 and axis >= len(old) for axis, size in enumerate(wanted)):
            raise InputError(f"{list(old)} has no axis to copy for each 0 in {wanted}")
        wanted = [
            size or old[axis] if axis < len(old) else size for axis, size in enumerate(wanted)
        ]
    if min(wanted, default=0) < -1 or wanted.count(-1) > 1:
        raise InputError(f"the shape {wanted} must have sizes of at least 0, and at most one -1")
    images = isinstance(found, Tensor) and bool(old)
    if images and i.batch and i.batch[0] != i.batch[1] and wanted[:1] == [i.batch[0]]:
        wanted[0] = old[0] if old[0] == i.batch[1] else wanted[0]  # the file's own batch size
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        if rest == 0 or math.prod(old) % rest:
            raise InputError(f"{list(old)} cannot be seen as {wanted}")
        wanted[wanted.index(-1)] = math.prod(old) // rest
    return _renamed(i, op, wanted)


@translates("Flatten")
def _flatten(i: Importer, op: Op) -> Sequence[Operand]:
    shape = i.tensor(op).shape
    axis = op.get("axis", 1)
    axis = axis if axis == len(shape) else normal(axis, len(shape))
    return _renamed(i, op, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _axes(i: Importer, op: Op, rank: int) -> list[int] | None:
    """The axes that an attribute (until opset 12) or input 1 names, counted from the front."""
    found = op.get("axes")
    if i.given(op, 1):
        found = i.constant(op, 1).reshape(-1)
    if found is None:
        return None
    axes = [normal(int(axis), rank) for axis in found]
    if len(set(axes)) != len(axes):
        raise InputError(f"axes {axes} name one twice")
    return axes


@translates("Squeeze")
def _squeeze(i: Importer, op: Op) -> Sequence[Operand]:
    shape = _shape_of(_settled(i, op))
    axes = _axes(i, op, len(shape))
    gone = [a for a, size in enumerate(shape) if size == 1] if axes is None else axes
    if any(shape[axis] != 1 for axis in gone):
        raise InputError(f"axes {gone} of {list(shape)} are not all of size 1")
    return _renamed(i, op, [size for axis, size in enumerate(shape) if axis not in gone])


@translates("Unsqueeze")
def _unsqueeze(i: Importer, op: Op) -> Sequence[Operand]:
    shape = list(_shape_of(_settled(i, op)))
    count = len(op.get("axes", ())) if not i.given(op, 1) else i.constant(op, 1).size
    for axis in sorted(_axes(i, op, len(shape) + count) or ()):
        shape.insert(axis, 1)
    return _renamed(i, op, shape)


def _settled(i: Importer, op: Op) -> Operand:
    found = i.operand(op, 0)
    return found if isinstance(found, np.ndarray) else i.tensor(op)


@translates("Transpose")
def _transpose(i: Importer, op: Op) -> Sequence[Operand]:
    x = _settled(i, op)
    rank = len(x.shape)
    axes = tuple(op.get("perm", range(rank)[::-1]))
    if sorted(axes) != list(range(rank)):
        raise InputError(f"perm {list(axes)} must name each of {rank} axes once")
    return [x.transpose(axes) if isinstance(x, np.ndarray) else transposed(x, axes)]


@translates("Concat")
def _concat(i: Importer, op: Op) -> Sequence[Operand]:
    found = i.constants(op)
    if found is not None:
        i.compute(sum(array.size for array in found))
        return [np.concatenate(found, axis=op.get("axis", 0))]
    xs = [i.tensor(op, index) for index in range(len(op.inputs))]
    rank = len(xs[0].shape)
    axis = normal(op.get("axis", 0), rank)
    rest = [(*x.shape[:axis], *x.shape[axis + 1 :]) for x in xs]
    if any(other != rest[0] for other in rest):
        told = ", ".join(str(list(x.shape)) for x in xs)
        raise InputError(f"{told} differ in more than axis {axis}")
    if len(xs) == 1:
        return [xs[0]]
    axes = xs[0].axes() or tuple(range(rank))
    values = [arrange(i.b, x, axes) for x in xs]
    place = axes.index(axis)
    shape = list(values[0].shape)
    shape[place] = sum(x.shape[axis] for x in xs)
    if rank == 4 and place == 3:
        return [laid(i.b.concat(values), axes)]
    outer = math.prod(shape[:place])
    parts = [reshaped(i.b, v, (outer, 1, 1, math.prod(v.shape[place:]))) for v in values]
    return [laid(reshaped(i.b, i.b.concat(parts), tuple(shape)), axes)]


@translates("Pad")
def _pad(i: Importer, op: Op) -> Sequence[Tensor | Padded]:
    x = i.tensor(op)
    rank = len(x.shape)
    mode = op.get("mode", "constant")
    if i.model.opset < 11:
        counts, value = list(op.get("pads", ())), float(op.get("value", 0.0))
    else:
        counts = [int(n) for n in i.constant(op, 1).reshape(-1)]
        given = i.optional(op, 2)
        value = 0.0 if given is None else float(given.reshape(-1)[0])
    axes = list(range(rank))
    if i.given(op, 3):
        axes = [normal(int(axis), rank) for axis in i.constant(op, 3).reshape(-1)]
    if len(counts) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise InputError(f"{len(counts)} pads for {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = counts[place], counts[place + len(axes)]
    return [_padded(i, op, x, before, after, mode, value)]


def _padded(
    i: Importer, op: Op, x: Tensor, before: list[int], after: list[int], mode: str, value: float
) -> Tensor | Padded:
    if mode not in ("constant", "edge"):
        raise InputError(f"mode must be constant or edge, not {mode!r}")
    only_pixels = len(before) == 4 and not any((*before[:2], *after[:2]))
    wider = min((*before, *after), default=0) >= 0
    users = i.model.users.get(op.outputs[0], ())
    convs = bool(users) and all(u.kind == "Conv" for u in users)
    convs = convs and op.outputs[0] not in i.model.outputs
    if only_pixels and wider and convs and (mode == "edge" or value == 0):
        pads = before[2], after[2], before[3], after[3]
        return Padded(x, pads, "edge" if mode == "edge" else "zeros")
    if mode == "edge":
        raise InputError("mode edge is known only for rows and columns right in front of a Conv")
    axes = x.axes()
    if axes is None:
        x, axes = laid(plain(i.b, x)), tuple(range(len(before)))
    made = i.b.pad(
        arrange(i.b, x, axes), tuple(before[a] for a in axes), tuple(after[a] for a in axes),
        value=value,
    )  # fmt: skip
    return laid(made, axes)


@translates("Shape")
def _shape(i: Importer, op: Op) -> Sequence[np.ndarray]:
    shape = _shape_of(_settled(i, op))
    return [np.asarray(shape[op.get("start", 0) : op.get("end", len(shape))], np.int64)]


@translates("ConstantOfShape")
def _constant_of_shape(i: Importer, op: Op) -> Sequence[np.ndarray]:
    shape = tuple(int(size) for size in i.constant(op, 0).reshape(-1))
    value = op.get("value", np.zeros(1, np.float32))
    if min(shape, default=0) < 0 or value.size != 1:
        raise InputError(f"{list(shape)} of {list(value.shape)} is no shape of one number")
    i.compute(math.prod(shape))
    return [np.broadcast_to(value.reshape(()), shape)]


@translates("Gather")
def _gather(i: Importer, op: Op) -> Sequence[np.ndarray]:
    found, indices, axis = i.constant(op, 0), i.constant(op, 1), op.get("axis", 0)
    i.compute(indices.size * found.size // max(1, found.shape[axis]))
    return [np.take(found, indices, axis=axis)]


@translates("Slice")
def _slice(i: Importer, op: Op) -> Sequence[np.ndarray]:
    found = i.constant(op, 0)
    if i.model.opset < 10:
        starts, ends, axes, steps = op.get("starts"), op.get("ends"), op.get("axes"), None
    else:
        starts, ends = i.constant(op, 1), i.constant(op, 2)
        axes, steps = i.optional(op, 3), i.optional(op, 4)
    axes = range(len(starts)) if axes is None else [normal(int(a), found.ndim) for a in axes]
    steps = [1] * len(starts) if steps is None else steps
    cuts = [slice(None)] * found.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        behind = step < 0 and end < -found.shape[axis]  # up to the first element, that one too
        cuts[axis] = slice(int(start), None if behind else int(end), int(step))
    return [found[tuple(cuts)]]


@translates("Cast")
def _cast(i: Importer, op: Op) -> Sequence[np.ndarray]:
    kind = require().helper.tensor_dtype_to_np_dtype(op.get("to", 0))
    found = i.constant(op, 0)
    i.compute(found.size)
    return [found.astype(kind)]
