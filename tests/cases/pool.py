"""Calls of pooling: max with codes, average, global average, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from calls import Call

from cnnengine.kernels.errors import ShapeError
from cnnengine.kernels.spec import AvgPool2d, MaxPool2d

from .draw import ALL, Draw, fuzzer, rms

Shape = tuple[int, ...]
Op = MaxPool2d | AvgPool2d

LISTED: dict[str, tuple[Shape, Op]] = {
    "max_2x2": ((2, 8, 6, 5), MaxPool2d((2, 2), (2, 2))),
    "max_2x2_odd": ((2, 7, 9, 3), MaxPool2d((2, 2), (2, 2))),
    "max_2x2_ceil": ((2, 7, 9, 3), MaxPool2d((2, 2), (2, 2), ceil_mode=True)),
    "max_3x3_stride_2": ((2, 13, 11, 7), MaxPool2d((3, 3), (2, 2))),
    "max_3x3_padded": ((1, 9, 9, 4), MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1))),
    "max_overlapping": ((2, 6, 7, 3), MaxPool2d((3, 3), (1, 1), (1, 1, 1, 1))),
    "max_uneven": ((1, 7, 8, 3), MaxPool2d((3, 2), (2, 3), (2, 0, 1, 0))),
    "max_dilated": ((1, 9, 11, 3), MaxPool2d((2, 3), (2, 1), dilation=(3, 2))),
    "max_dilated_tiles": ((2, 6, 4, 3), MaxPool2d((2, 1), (2, 1), dilation=(2, 1), ceil_mode=True)),
    "max_padded_tiles": ((2, 6, 4, 3), MaxPool2d((2, 2), (2, 2), (1, 0, 0, 1))),
    "max_stride_past_window": ((1, 11, 9, 3), MaxPool2d((2, 1), (4, 3))),
    "max_stride_past_ceil": ((1, 11, 10, 3), MaxPool2d((2, 2), (5, 4), ceil_mode=True)),
    "max_ceil_starts_in_padding": (
        (1, 4, 4, 2),
        MaxPool2d((3, 3), (3, 3), (2, 2, 2, 2), (1, 1), True),
    ),
    "max_whole_image": ((3, 5, 4, 3), MaxPool2d((5, 4), (1, 1))),
    "max_127_taps": ((1, 1, 130, 3), MaxPool2d((1, 127), (1, 1))),
    "max_one_pixel": ((1, 1, 1, 1), MaxPool2d((1, 1), (1, 1))),
    "max_one_pixel_padded": ((2, 1, 1, 3), MaxPool2d((3, 3), (1, 1), (1, 1, 1, 1))),
    "max_one_row": ((2, 1, 13, 3), MaxPool2d((1, 3), (1, 2))),
    "max_channels_67": ((1, 6, 6, 67), MaxPool2d((2, 2), (2, 2))),
    "max_empty_batch": ((0, 6, 6, 3), MaxPool2d((2, 2), (2, 2))),
    "avg_2x2": ((2, 8, 6, 5), AvgPool2d((2, 2), (2, 2))),
    "avg_3x3_padded": ((2, 7, 9, 3), AvgPool2d((3, 3), (1, 1), (1, 1, 1, 1))),
    "avg_without_pad": ((2, 7, 9, 3), AvgPool2d((3, 3), (1, 1), (1, 1, 1, 1), False, False)),
    "avg_ceil": ((2, 8, 10, 3), AvgPool2d((3, 3), (2, 2), ceil_mode=True)),
    "avg_ceil_padded": ((1, 6, 8, 3), AvgPool2d((3, 3), (2, 2), (1, 1, 1, 1), ceil_mode=True)),
    "avg_ceil_without_pad": ((1, 6, 8, 3), AvgPool2d((3, 3), (2, 2), (1, 0, 2, 1), True, False)),
    "avg_uneven": ((1, 9, 8, 3), AvgPool2d((4, 3), (3, 2), (0, 3, 2, 1))),
    "avg_whole_image": ((2, 8, 8, 11), AvgPool2d((8, 8), (8, 8))),
    "avg_one_pixel_padded": ((2, 1, 1, 3), AvgPool2d((3, 3), (1, 1), (1, 1, 1, 1))),
    "avg_one_column": ((2, 13, 1, 3), AvgPool2d((3, 1), (2, 1))),
    "avg_empty_batch": ((0, 6, 6, 3), AvgPool2d((2, 2), (2, 2))),
}


def calls(draw: Draw, x_shape: Shape, op: Op, dtype: str) -> Iterator[Call]:
    """Forward and backward of one pool; half of the max pools see integers, so that maxima tie."""
    y_shape = op.output_shape(x_shape)
    label = draw.label
    dy = draw.normal(y_shape, dtype)
    taps = op.kernel[0] * op.kernel[1]
    if isinstance(op, MaxPool2d):
        x = draw.whole(x_shape, dtype) if draw.chance(0.5) else draw.normal(x_shape, dtype)
        if draw.chance(0.2):
            x[draw.rng.random(x_shape) < 0.15] = np.nan
        call = Call(
            label,
            "max_pool2d",
            {"x": x, "op": op},
            ("out", "code") if draw.chance(0.8) else ("out",),
            dtype,
            pitch=draw.pitches("x", "out"),
        )
        yield call
        code = call.oracle()["code"].astype(np.int8)
        inputs = {"dy": dy, "code": code, "op": op}
    else:
        x = draw.normal(x_shape, dtype)
        yield Call(
            label,
            "avg_pool2d",
            {"x": x, "op": op},
            ("out",),
            dtype,
            reduction=taps,
            floor={"out": rms(x) / np.sqrt(taps)},
            pitch=draw.pitches("x", "out"),
        )
        inputs = {"dy": dy, "op": op}
    yield Call(
        label,
        "max_pool2d_backward" if isinstance(op, MaxPool2d) else "avg_pool2d_backward",
        inputs,
        ("out",),
        dtype,
        out_shape=x_shape,
        reduction=taps,
        floor={"out": rms(dy) / (1 if isinstance(op, MaxPool2d) else taps)},
        pitch=draw.pitches("dy", "out"),
    )


def global_calls(draw: Draw, x_shape: Shape, dtype: str) -> Iterator[Call]:
    """Global average pooling of one shape, forward and backward."""
    pixels = x_shape[1] * x_shape[2]
    x, dy = draw.normal(x_shape, dtype), draw.normal((x_shape[0], x_shape[3]), dtype)
    yield Call(
        draw.label,
        "global_avg_pool2d",
        {"x": x},
        ("out",),
        dtype,
        reduction=pixels,
        floor={"out": rms(x) / np.sqrt(pixels)},
        pitch=draw.pitches("x"),
    )
    yield Call(
        draw.label,
        "global_avg_pool2d_backward",
        {"dy": dy},
        ("out",),
        dtype,
        out_shape=x_shape,
        pitch=draw.pitches("out"),
    )


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls of one listed geometry in one type."""
    draw = Draw(f"pool:{name}")
    yield from calls(draw, *LISTED[name], dtype)
    yield from global_calls(draw, LISTED[name][0], dtype)


def fits(op: Op, x_shape: Shape) -> bool:
    """Whether the contract takes the image: a dilated window must not lie in padding alone."""
    try:
        op.output_shape(x_shape)
    except ShapeError:
        return False
    return True


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random pool, max or average, with every parameter in play."""
    kernel = draw.integer(1, 4), draw.integer(1, 4)
    stride = draw.integer(1, 4), draw.integer(1, 4)
    ceil_mode, is_max = draw.chance(0.4), draw.chance(0.6)
    dilation = (draw.pick(1, 1, 2, 3), draw.pick(1, 1, 2, 3)) if is_max else (1, 1)
    reach = [d * (t - 1) + 1 for d, t in zip(dilation, kernel, strict=True)]
    padding = tuple(draw.integer(0, reach[i // 2] - 1) for i in range(4))
    if draw.chance(0.4):
        padding = (0, 0, 0, 0)
    if is_max:
        op: Op = MaxPool2d(kernel, stride, padding, dilation, ceil_mode)
    else:
        op = AvgPool2d(kernel, stride, padding, ceil_mode, draw.chance(0.5))
    n = 0 if draw.chance(0.03) else draw.integer(1, 4)
    low = [max(1, reach[i] - padding[2 * i] - padding[2 * i + 1]) for i in (0, 1)]
    c, dtype = draw.pick(1, 2, 3, 8, 17), draw.dtype(dtypes)
    while True:
        x_shape = (n, draw.integer(low[0], low[0] + 9), draw.integer(low[1], low[1] + 9), c)
        if fits(op, x_shape):
            break
        low = [size + 1 for size in low]
    yield from calls(draw, x_shape, op, dtype)
    yield from global_calls(draw, x_shape, dtype)


fuzz = fuzzer("pool", case)
