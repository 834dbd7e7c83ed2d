"""Conv, BatchNormalization, LRN and Dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .importer import Importer, translates
from .reader import Op
from .tensor import NHWC, Tensor, arrange, images, laid, reshaped

Pads = tuple[int, int, int, int]


@dataclass(frozen=True)
class Padded:
    """Images [N,C,H,W] that a Pad has just widened; a convolution takes that into its own padding.

    pads: top, bottom, left, right; mode: zeros or edge.
    """

    tensor: Tensor
    pads: Pads
    mode: str

    def settled(self, i: Importer) -> Tensor:
        """The widened images themselves."""
        if self.mode == "edge":
            raise InputError("Pad with mode edge is known only right in front of a Conv")
        top, bottom, left, right = self.pads
        x = images(i.b, self.tensor)
        return laid(i.b.pad(x, (0, top, left, 0), (0, bottom, right, 0)), NHWC)


def pairs(op: Op, name: str, default: int = 1) -> tuple[int, int]:
    """An attribute of two numbers, for rows and columns. Raises: InputError."""
    found = op.get(name, (default, default))
    if len(found) != 2:
        raise InputError(f"{name} must be 2 numbers, for rows and columns, not {list(found)}")
    return found[0], found[1]


def padding(op: Op, size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> Pads:
    """(top, bottom, left, right) by pads or auto_pad, for an image of `size` rows and columns.

    SAME: as much as makes ceil(size / stride) windows; UPPER puts an odd pixel behind.
    """
    mode, stride = op.get("auto_pad", "NOTSET"), pairs(op, "strides")
    if mode == "NOTSET":
        pads = op.get("pads", (0, 0, 0, 0))
        if len(pads) != 4 or min(pads) < 0:
            raise InputError(f"pads must be 4 numbers of at least 0, not {list(pads)}")
        return pads[0], pads[2], pads[1], pads[3]
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise InputError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, not {mode!r}")
    found: list[int] = []
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        windows = -(-size[axis] // max(1, stride[axis]))
        total = max(0, (windows - 1) * stride[axis] + reach - size[axis])
        less, more = total // 2, total - total // 2
        found += (less, more) if mode == "SAME_UPPER" else (more, less)
    return found[0], found[1], found[2], found[3]


@translates("Conv")
def _conv(i: Importer, op: Op) -> Sequence[Tensor]:
    found = i.operand(op, 0)
    before = found if isinstance(found, Padded) else None
    x = before.tensor if before else i.image(op)
    w, bias = i.constant(op, 1), i.optional(op, 2)
    if w.ndim != 4:
        raise InputError(f"its weights must be [K,C,R,S], not {list(w.shape)}")
    filters, kernel = w.shape[0], (w.shape[2], w.shape[3])
    if tuple(op.get("kernel_shape", kernel)) != kernel:
        raise InputError(f"kernel_shape is {op.get('kernel_shape')}, its weights are {w.shape}")
    dilation, groups = pairs(op, "dilations"), op.get("group", 1)
    if groups < 1 or x.shape[1] != groups * w.shape[1]:
        raise InputError(
            f"{groups} groups of {w.shape[1]} channels do not make the {x.shape[1]} of its input"
        )
    mode, own = "zeros", padding(op, x.shape[2:], kernel, dilation)
    if before:
        if op.get("auto_pad", "NOTSET").startswith("SAME") or (before.mode == "edge" and any(own)):
            x = before.settled(i)
            own = padding(op, x.shape[2:], kernel, dilation)
        else:
            mode = before.mode
            top, bottom, left, right = map(sum, zip(own, before.pads, strict=True))
            own = top, bottom, left, right
    if bias is None:
        bias = bias_behind(i, op, filters, (1, filters, 1, 1))
    layer = i.layer(op)
    value = i.b.conv2d(
        images(i.b, x), filters, kernel, stride=pairs(op, "strides"), padding=own,
        padding_mode=mode, dilation=dilation, groups=groups, bias=bias is not None, name=layer,
    )  # fmt: skip
    i.weights(f"{layer}/w", w, f"weight {op.inputs[1]!r}", lambda w: w.transpose(0, 2, 3, 1))
    if bias is not None:
        i.weights(f"{layer}/b", vector(bias, filters), f"bias of {op.name!r}")
    return [laid(value, NHWC)]


@translates("ConvTranspose")
def _conv_transpose(i: Importer, op: Op) -> Sequence[Tensor]:
    raise InputError(
        "transposed convolutions are not supported: there is no kernel that runs them forward"
    )


def vector(array: np.ndarray, length: int) -> np.ndarray:
    """[length] from anything that broadcasts to it. Raises: InputError."""
    if array.size not in (1, length):
        raise InputError(f"{list(array.shape)} must be [{length}]")
    return np.broadcast_to(array.reshape(-1), (length,))


def bias_behind(i: Importer, op: Op, length: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """The constant of an Add that is all that reads the result, taken into this layer as its bias.

    `shape` is the one that it must broadcast to without repeating anything but a single number.
    """
    found = _behind(i, "Add", op, length, shape)
    if found is None:
        return None
    i.absorb(found[0], op.outputs[0])
    return found[1]


def _behind(
    i: Importer, kind: str, op: Op, length: int, shape: tuple[int, ...]
) -> tuple[Op, np.ndarray] | None:
    """(the Add or Mul that is all that reads the result of `op`, its constant), if there is one."""
    user = i.only_user(op)
    if user is None or user.kind != kind or len(user.inputs) != 2:
        return None
    found = i.constant_called(user.inputs[1 - user.inputs.index(op.outputs[0])])
    if found is None or found.size not in (1, length) or found.dtype.kind != "f":
        return None
    widened = (1,) * (len(shape) - found.ndim) + found.shape
    if len(widened) != len(shape) or (found.size == length and widened != shape):
        return None
    return user, found


@translates("BatchNormalization")
def _batch_norm(i: Importer, op: Op) -> Sequence[Tensor]:
    if sum(map(bool, op.outputs)) > 1 or op.get("training_mode", 0):
        raise InputError("the statistics of a batch as outputs (training_mode) are not supported")
    x = i.tensor(op)
    if len(x.shape) < 2:
        raise InputError(f"it needs channels [N,C,…], not {list(x.shape)}")
    last = (0, *range(2, len(x.shape)), 1)
    value = arrange(i.b, x, last)
    n, *pixels, c = value.shape
    layer = i.layer(op)
    image = value if len(pixels) == 2 else i.b.reshape(value, (n, 1, math.prod(pixels), c))
    eps, momentum = op.get("epsilon", 1e-5), op.get("momentum", 0.9)
    made = i.b.batch_norm(image, eps=eps, momentum=1 - momentum, name=layer)
    gamma, beta, mean, var = (vector(i.constant(op, index), c) for index in range(1, 5))
    if (var + eps <= 0).any():
        raise InputError(
            f"its variances and epsilon {eps} make {(var + eps).min():.6g}, not above 0"
        )
    shape = (1, c, *(1 for _ in pixels))
    if (scale := _behind(i, "Mul", op, c, shape)) is not None:  # a scale layer, as Caffe has it
        i.absorb(scale[0], op.outputs[0])
        gamma, beta = (array * vector(scale[1], c) for array in (gamma, beta))
    shift = _behind(i, "Add", scale[0] if scale else op, c, shape)
    if shift is not None:
        i.absorb(shift[0], op.outputs[0])
        beta = beta + vector(shift[1], c)
    for name, array in (
        ("gamma", gamma), ("beta", beta), ("running_mean", mean), ("running_var", var)
    ):  # fmt: skip
        i.weights(f"{layer}/{name}", array, f"{name} of {op.name!r}")
    return [laid(reshaped(i.b, made, value.shape), last)]


@translates("LRN")
def _lrn(i: Importer, op: Op) -> Sequence[Tensor]:
    size = op.get("size", 0)
    if size % 2 == 0:
        raise InputError(f"size must be odd, not {size}: ONNX leans the other way than we do")
    value = i.b.lrn(
        images(i.b, i.image(op)), size=size, alpha=op.get("alpha", 1e-4),
        beta=op.get("beta", 0.75), k=op.get("bias", 1.0),
    )  # fmt: skip
    return [laid(value, NHWC)]


@translates("Dropout")
def _dropout(i: Importer, op: Op) -> Sequence[Tensor | np.ndarray]:
    x = i.tensor(op)
    ratio = op.get("ratio", 0.5)
    if i.given(op, 1):
        ratio = i.constant(op, 1).item()
    if i.exact and ratio > 0 and i.given(op, 2) and i.constant(op, 2).item():
        raise InputError("training_mode: another program's random numbers cannot be told")
    kept = x.with_value(i.b.dropout(x.value, ratio))
    if len(op.outputs) < 2:
        return [kept]
    if i.b.training and i.model.users.get(op.outputs[1]):
        raise InputError("the mask of a dropout as an output is not supported in training")
    return [kept, np.ones(x.shape, bool)]
