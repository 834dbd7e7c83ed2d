"""MaxPool, AveragePool and their global forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..ir import Value
from .importer import Importer, translates
from .ops_layers import Pads, padding, pairs
from .reader import Op
from .tensor import NHWC, Tensor, images, laid


def _window(op: Op, x: Tensor) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], Pads]:
    """(kernel, stride, dilation, padding)."""
    kernel, stride, dilation = (
        pairs(op, "kernel_shape", 0),
        pairs(op, "strides"),
        pairs(op, "dilations"),
    )
    if min(*kernel, *stride, *dilation) < 1:
        raise InputError("kernel_shape, strides and dilations must be at least 1")
    return kernel, stride, dilation, padding(op, x.shape[2:], kernel, dilation)


@translates("MaxPool")
def _max_pool(i: Importer, op: Op) -> Sequence[Tensor]:
    if sum(map(bool, op.outputs)) > 1:
        raise InputError("the places of the maxima as a second output are not supported")
    x = i.image(op)
    kernel, stride, dilation, pads = _window(op, x)
    value = i.b.max_pool2d(
        images(i.b, x), kernel, stride, padding=pads, dilation=dilation,
        ceil_mode=bool(op.get("ceil_mode", 0)),
    )  # fmt: skip
    return [laid(value, NHWC)]


@translates("AveragePool")
def _average_pool(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.image(op)
    kernel, stride, dilation, pads = _window(op, x)
    ceil, counted = bool(op.get("ceil_mode", 0)), bool(op.get("count_include_pad", 0))
    fits = max(pads[:2]) < kernel[0] and max(pads[2:]) < kernel[1]
    if dilation == (1, 1) and fits:
        value = i.b.avg_pool2d(
            images(i.b, x), kernel, stride, padding=pads, ceil_mode=ceil, count_include_pad=counted
        )
        return [laid(value, NHWC)]
    return [laid(_weighted(i, op, images(i.b, x), ceil, counted), NHWC)]


def _weighted(i: Importer, op: Op, x: Value, ceil: bool, counted: bool) -> Value:
    """The windows' sums by a convolution of ones, channel by channel, over the pixels counted."""
    _, h, w, c = x.shape
    kernel, stride, dilation, pads = _window(op, laid(x, NHWC))
    counts, widened = [], list(pads)
    for axis, size in enumerate((h, w)):
        before, after = pads[2 * axis : 2 * axis + 2]
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        free = size + before + after - reach
        if free < 0:
            raise InputError(f"its window of {reach} pixels is larger than the padded image")
        windows = (-(-free // stride[axis]) if ceil else free // stride[axis]) + 1
        if (windows - 1) * stride[axis] >= size + before:
            windows -= 1  # it would start behind the image
        widened[2 * axis + 1] += max(
            0, (windows - 1) * stride[axis] + reach - size - before - after
        )
        i.compute(windows * kernel[axis])
        starts = np.arange(windows)[:, None] * stride[axis] - before
        taps = starts + np.arange(kernel[axis]) * dilation[axis]
        low, high = (-before, size + after) if counted else (0, size)
        counts.append(((taps >= low) & (taps < high)).sum(axis=1))
    i.compute(len(counts[0]) * len(counts[1]) + c * kernel[0] * kernel[1])
    layer = i.layer(op)
    with i.b.frozen():
        sums = i.b.conv2d(
            x, c, kernel, stride=stride, padding=(widened[0], widened[1], widened[2], widened[3]),
            dilation=dilation, groups=c, bias=False, name=layer,
        )  # fmt: skip
    i.weights(f"{layer}/w", np.ones((c, *kernel, 1), np.float32), "the window")
    share = 1 / np.maximum(1, np.outer(*counts)).astype(np.float32)
    rows, columns = min(share.shape[0], sums.shape[1]), min(share.shape[1], sums.shape[2])
    factor = i.frozen(share[None, :rows, :columns, None], f"{op.name}.share")
    return i.b.mul(sums, i.b.broadcast(factor, sums.shape))


@translates("GlobalAveragePool")
def _global_average_pool(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.image(op)
    value = i.b.global_avg_pool2d(images(i.b, x))
    return [laid(i.b.reshape(value, (x.shape[0], 1, 1, x.shape[1])), NHWC)]


@translates("GlobalMaxPool")
def _global_max_pool(i: Importer, op: Op) -> Sequence[Tensor]:
    x = i.image(op)
    value = i.b.global_max_pool2d(images(i.b, x))
    return [laid(i.b.reshape(value, (x.shape[0], 1, 1, x.shape[1])), NHWC)]
