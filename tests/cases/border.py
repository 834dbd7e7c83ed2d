"""Calls of convolution on arrays with a border of zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from calls import Call

from cnnengine.kernels.spec import Conv2d

from . import conv
from .draw import Draw

IMAGES = ("x", "dy", "residual", "mask", "out")  # arguments that may have a border
Border = tuple[int, int]


def same(r: int, s: int, precision: str = "ieee") -> Conv2d:
    """The convolution of r x s taps whose output is as large as its input."""
    top, left = (r - 1) // 2, (s - 1) // 2
    return Conv2d(padding=(top, r - 1 - top, left, s - 1 - left), precision=precision)  # type: ignore[arg-type]


# x (N, H, W, C), w (K, R, S, C / groups), parameters, border
LISTED: dict[str, tuple[conv.Shape, conv.Shape, Conv2d, Border]] = {
    "same_3x3": ((2, 7, 9, 16), (32, 3, 3, 16), same(3, 3, "tf32x3"), (1, 1)),
    "wide_border": ((2, 5, 6, 16), (16, 3, 3, 16), same(3, 3, "tf32x3"), (2, 3)),
    "one_image": ((1, 6, 7, 32), (16, 3, 3, 32), same(3, 3, "tf32"), (1, 1)),
    "row_1x7": ((2, 5, 9, 16), (16, 1, 7, 16), same(1, 7, "tf32x3"), (0, 3)),
    "column_7x1": ((3, 7, 4, 16), (16, 7, 1, 16), same(7, 1, "tf32x3"), (3, 0)),
    "same_5x5": ((1, 5, 5, 16), (48, 5, 5, 16), same(5, 5, "tf32x3"), (2, 2)),
    "even_4x2": ((2, 6, 5, 16), (16, 4, 2, 16), same(4, 2, "tf32x3"), (2, 1)),
    "pointwise": ((2, 5, 7, 48), (24, 1, 1, 48), same(1, 1, "tf32"), (0, 0)),
    "many_positions": ((2, 9, 7, 16), (16, 3, 3, 16), same(3, 3, "tf32x3"), (1, 1)),
    "empty_batch": ((0, 6, 7, 16), (16, 3, 3, 16), same(3, 3, "tf32x3"), (1, 1)),
    "too_narrow": ((2, 6, 7, 16), (16, 3, 3, 16), same(3, 3, "tf32x3"), (1, 0)),
    "few_channels": ((2, 6, 7, 3), (16, 3, 3, 3), same(3, 3), (1, 1)),
    "strided": ((2, 9, 9, 16), (16, 3, 3, 16), Conv2d((2, 2), (1, 1, 1, 1)), (1, 2)),
    "edge": ((2, 4, 5, 5), (6, 3, 3, 5), Conv2d((1, 1), (1, 1, 1, 1), "edge"), (1, 1)),
}
BLOCKS = tuple(LISTED)[:10]  # where a GPU with a copy engine gathers nothing


def with_borders(call: Call, borders: Mapping[str, Border]) -> Call:
    """The call with these borders on those of its arrays that it has; all channels of a buffer."""
    has = {*call.inputs, *call.want} - ({"out"} if call.function == "conv2d_wgrad" else set())
    told = {name: border for name, border in borders.items() if name in has}
    return replace(call, border=told, pitch={})


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls of one listed geometry in one type, every image with the border."""
    x, w, op, border = LISTED[name]
    for call in conv.calls(Draw(f"border:{name}"), x, w, op, dtype):
        yield with_borders(call, dict.fromkeys(IMAGES, border))
