"""Calls of convolution: forward, both gradients, and the fused forms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from calls import Call

from cnnengine.kernels.spec import Conv2d, MaxPool2d, accumulator

from .draw import ALL, Draw, fuzzer, rms, sum_floor

POOL = MaxPool2d(kernel=(2, 2), stride=(2, 2))
Shape = tuple[int, ...]

# x (N, H, W, C), w (K, R, S, C / groups), parameters
LISTED: dict[str, tuple[Shape, Shape, Conv2d]] = {
    "primes": ((2, 13, 11, 7), (5, 3, 3, 7), Conv2d()),
    "same_3x3": ((2, 8, 8, 8), (16, 3, 3, 8), Conv2d(padding=(1, 1, 1, 1))),
    "pointwise": ((3, 7, 5, 19), (23, 1, 1, 19), Conv2d()),
    "pointwise_stride_2": ((2, 7, 7, 5), (9, 1, 1, 5), Conv2d(stride=(2, 2))),
    "one_pixel": ((1, 1, 1, 1), (1, 1, 1, 1), Conv2d()),
    "one_pixel_padded": ((2, 1, 1, 3), (4, 3, 3, 3), Conv2d(padding=(1, 1, 1, 1))),
    "one_row": ((2, 1, 17, 3), (5, 1, 4, 3), Conv2d(padding=(0, 0, 2, 1))),
    "one_column": ((2, 17, 1, 3), (5, 4, 1, 3), Conv2d(padding=(2, 1, 0, 0))),
    "whole_image_filter": ((2, 9, 10, 3), (4, 9, 10, 3), Conv2d()),
    "filter_11_stride_4": ((1, 23, 23, 3), (6, 11, 11, 3), Conv2d((4, 4), (2, 2, 2, 2))),
    "filter_7_stride_2": ((2, 14, 15, 3), (8, 7, 7, 3), Conv2d((2, 2), (3, 3, 3, 3))),
    "filter_1x7": ((1, 9, 9, 4), (4, 1, 7, 4), Conv2d(padding=(0, 0, 3, 3))),
    "many_filters": ((1, 5, 5, 3), (131, 3, 3, 3), Conv2d()),
    "many_channels": ((1, 4, 4, 261), (3, 3, 3, 261), Conv2d()),
    "one_channel_each": ((3, 6, 7, 1), (1, 3, 2, 1), Conv2d()),
    "stride_3": ((2, 10, 11, 4), (6, 3, 3, 4), Conv2d((3, 3))),
    "stride_past_filter": ((1, 13, 9, 4), (4, 2, 1, 4), Conv2d((4, 3))),
    "uneven_stride": ((1, 12, 10, 4), (4, 3, 3, 4), Conv2d((1, 3), (1, 1, 1, 1))),
    "dilated": ((2, 11, 12, 3), (5, 3, 3, 3), Conv2d((1, 1), (2, 2, 2, 2), dilation=(2, 2))),
    "dilated_stride_2": ((1, 12, 15, 3), (5, 2, 3, 3), Conv2d((2, 2), dilation=(3, 2))),
    "groups": ((2, 6, 7, 12), (9, 3, 3, 4), Conv2d(padding=(1, 1, 1, 1), groups=3)),
    "depthwise": ((2, 9, 8, 11), (11, 3, 3, 1), Conv2d(padding=(1, 1, 1, 1), groups=11)),
    "depthwise_twice": ((1, 7, 7, 5), (10, 3, 3, 1), Conv2d((2, 2), (0, 1, 0, 1), groups=5)),
    "padding_0123": ((2, 6, 5, 3), (4, 3, 3, 3), Conv2d(padding=(0, 1, 2, 3))),
    "padding_past_filter": ((1, 4, 3, 2), (3, 2, 2, 2), Conv2d(padding=(3, 2, 4, 5))),
    "edge": ((2, 6, 5, 3), (4, 3, 3, 3), Conv2d((1, 1), (1, 1, 1, 1), "edge")),
    "edge_uneven": ((1, 5, 6, 3), (4, 4, 2, 3), Conv2d((2, 1), (3, 0, 1, 2), "edge", (1, 2))),
    "edge_deep": ((1, 2, 1, 3), (4, 3, 3, 3), Conv2d((1, 2), (4, 5, 3, 4), "edge")),
    "edge_groups": ((2, 5, 5, 6), (4, 3, 3, 3), Conv2d((2, 2), (1, 2, 2, 1), "edge", groups=2)),
    "empty_batch": ((0, 6, 6, 3), (4, 3, 3, 3), Conv2d(padding=(1, 1, 1, 1))),
    "empty_batch_edge": (
        (0, 3, 3, 4),
        (4, 3, 3, 2),
        Conv2d((1, 1), (1, 1, 1, 1), "edge", groups=2),
    ),
    "odd_pool": ((2, 9, 7, 5), (6, 3, 3, 5), Conv2d(padding=(1, 1, 1, 1))),
    "only_padding_sampled": ((2, 1, 1, 3), (4, 1, 1, 3), Conv2d((4, 4), (1, 0, 0, 0))),
    "batch_37": ((37, 4, 4, 3), (4, 3, 3, 3), Conv2d(padding=(1, 1, 1, 1))),
}


def calls(draw: Draw, x_shape: Shape, w_shape: Shape, op: Conv2d, dtype: str) -> Iterator[Call]:
    """Every conv function on one geometry, with random options, layouts and data."""
    y_shape = op.output_shape(x_shape, w_shape)
    sums = accumulator(dtype)
    label, normal = draw.label, draw.normal
    x, w = normal(x_shape, dtype), normal(w_shape, dtype)
    dy = normal(y_shape, dtype)
    b = normal((w_shape[0],), sums) if draw.chance(0.7) else None
    residual = normal(y_shape, dtype) if draw.chance(0.3) else None
    taps = w_shape[1] * w_shape[2] * w_shape[3]
    forward = {"x": x, "w": w, "b": b, "op": op}
    if residual is not None:
        forward["residual"] = residual
    if relu := draw.chance(0.5):
        forward["relu"] = relu
    yield Call(
        label,
        "conv2d",
        forward,
        ("out",),
        dtype,
        reduction=taps,
        floor={"out": sum_floor(taps, x, w, plus=(b, residual))},
        pitch=draw.pitches("x", "residual", "out"),
    )
    back = {"dy": dy, "w": w, "op": op}
    if draw.chance(0.5):
        back["mask"] = normal(x_shape, dtype) * draw.whole(x_shape, dtype)  # a third are zeros
    terms = w_shape[0] // op.groups * w_shape[1] * w_shape[2]
    floor = sum_floor(terms, dy, w)
    yield Call(
        label,
        "conv2d_dgrad",
        back,
        ("out", "db") if draw.chance(0.5) else ("out",),
        dtype,
        out_shape=x_shape,
        reduction=terms,
        floor={"out": floor, "db": floor * np.sqrt(x[..., 0].size)},
        kinds={"db": dtype},  # it may sum dx before or after it is rounded
        pitch=draw.pitches("dy", "mask", "out"),
    )
    pixels = dy[..., 0].size
    yield Call(
        label,
        "conv2d_wgrad",
        {"x": x, "dy": dy, "op": op},
        ("out",),
        dtype,
        out_shape=w_shape,
        reduction=pixels,
        floor={"out": sum_floor(pixels, x, dy)},
        pitch=draw.pitches("x", "dy"),
    )
    if min(y_shape[1:3]) >= 2:
        yield from fused(draw, x_shape, w_shape, op, dtype)


def fused(draw: Draw, x_shape: Shape, w_shape: Shape, op: Conv2d, dtype: str) -> Iterator[Call]:
    """The fused pool, once on integers (exact sums, many ties: codes count), once without codes."""
    y_shape = op.output_shape(x_shape, w_shape)
    taps = w_shape[1] * w_shape[2] * w_shape[3]
    for exact in (True, False):
        values = draw.whole if exact else draw.normal
        x, w = values(x_shape, dtype), values(w_shape, dtype)
        b = values((w_shape[0],), accumulator(dtype)) if draw.chance(0.7) else None
        yield Call(
            draw.label,
            "conv2d_relu_pool",
            {"x": x, "w": w, "b": b, "op": op, "pool": POOL},
            ("out", "code") if exact else ("out",),
            dtype,
            reduction=taps,
            floor={"out": sum_floor(taps, x, w, plus=(b,))},
            pitch=draw.pitches("x", "out"),
        )
    pooled = POOL.output_shape(y_shape)
    dy, code = draw.normal(pooled, dtype), draw.rng.integers(0, 5, pooled).astype(np.int8)
    yield Call(
        draw.label,
        "conv2d_relu_pool_backward",
        {"dy": dy, "code": code, "pool": POOL},
        ("out", "db") if draw.chance(0.5) else ("out",),
        dtype,
        out_shape=y_shape,
        reduction=dy[..., 0].size,
        floor={"db": rms(dy) * np.sqrt(dy[..., 0].size)},
        pitch=draw.pitches("dy", "out"),
    )


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls of one listed geometry in one type."""
    yield from calls(Draw(f"conv:{name}"), *LISTED[name], dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random geometry, small enough for loops and with every parameter in play."""
    r, s = draw.pick(1, 1, 2, 3, 3, 4, 5, 7), draw.pick(1, 1, 2, 3, 3, 4, 5, 7)
    dilation = (draw.pick(1, 1, 1, 2, 3), draw.pick(1, 1, 1, 2, 3))
    most = 0 if draw.chance(0.25) else 3
    padding = tuple(draw.integer(0, most) for _ in range(4))
    least = [
        max(1, d * (t - 1) + 1 - before - after)
        for d, t, before, after in zip(dilation, (r, s), padding[::2], padding[1::2], strict=True)
    ]
    h, w = draw.integer(least[0], max(least[0], 10)), draw.integer(least[1], max(least[1], 10))
    groups = draw.pick(1, 1, 1, 2, 3, 7)
    cg, kg = draw.pick(1, 1, 2, 3, 5, 8, 17), draw.pick(1, 1, 2, 3, 5, 8, 17)
    op = Conv2d(
        stride=(draw.pick(1, 1, 2, 3, 4), draw.pick(1, 1, 2, 3, 4)),
        padding=padding,
        padding_mode=draw.pick("zeros", "edge"),
        dilation=dilation,
        groups=groups,
    )
    n = 0 if draw.chance(0.03) else draw.integer(1, 4)
    yield from calls(draw, (n, h, w, groups * cg), (groups * kg, r, s, cg), op, draw.dtype(dtypes))


fuzz = fuzzer("conv", case)
