"""Which pixels a convolution and its gradient read: the index algebra, free of arrays.

Both are correlations: output pixel (p, q) reads, for every tap (r, s), the source pixel at row
p * step + r * dilation + start (columns likewise). Forward, the source is x and one such walk
fills the output. For dgrad the source is dy, and the output falls into stride_h * stride_w phases:
pixel h of x was read by output p through tap r where h + top = p * stride + r * dilation, so only
taps with (h + top - r * dilation) divisible by the stride matter, and they are the same for
h + stride, h + 2 * stride, ... Along such a phase p grows by one a pixel: a correlation of step 1.
Tap indices fall while p grows, so the taps are taken in reverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..spec import Conv2d

Pair = tuple[int, int]
WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class Window:
    """Which source pixels belong to an output pixel; every pair is (rows, columns)."""

    extent: Pair  # P, Q
    taps: Pair  # R, S
    start: Pair  # source pixel of output (0, 0) and tap (0, 0); negative: in the padding
    step: Pair = (1, 1)
    dilation: Pair = (1, 1)

    def reach(self, rows: int) -> Pair:
        """Height and width, in source pixels, of what `rows` rows of output read."""
        (r, s), (sh, sw), (dh, dw) = self.taps, self.step, self.dilation
        return (rows - 1) * sh + (r - 1) * dh + 1, (self.extent[1] - 1) * sw + (s - 1) * dw + 1


@dataclass(frozen=True)
class Phase:
    """A correlation, the weights' taps that it uses, and the output pixels that it fills."""

    window: Window
    taps: tuple[list[int], list[int]]  # indices into R and S, in the window's order
    pixels: tuple[slice, slice]  # of the output's rows and columns

    def of(self, array: Any) -> Any:
        """The phase's part of an array [N, rows, columns, channels] like the output."""
        return array[:, self.pixels[0], self.pixels[1]]


def forward(op: Conv2d, taps: Pair, extent: Pair) -> Phase:
    """The walk over x that fills an output of `extent` (P, Q) with R x S `taps`."""
    top, _, left, _ = op.padding
    window = Window(extent, taps, (-top, -left), op.stride, op.dilation)
    return Phase(window, (list(range(taps[0])), list(range(taps[1]))), WHOLE)


def transposed(op: Conv2d, taps: Pair, extent: Pair, origin: Pair) -> list[Phase]:
    """The walks over dy that fill dx of `extent` (H, W), whose pixel (0, 0) is `origin` padded.

    A phase without taps, where the stride passes over pixels, fills its own with zeros.
    """
    along = [_phases(extent[i], taps[i], op.stride[i], op.dilation[i], origin[i]) for i in range(2)]
    return [
        Phase(
            Window((h[0], w[0]), (len(h[1]), len(w[1])), (h[2], w[2]), (1, 1), (h[3], w[3])),
            (h[1], w[1]),
            (h[4], w[4]),
        )
        for h in along[0]
        for w in along[1]
    ]


def _phases(extent: int, taps: int, stride: int, dilation: int, origin: int):
    """For each phase of one axis: pixels, taps reversed, start in dy, dilation in dy, and slice."""
    result = []
    for first in range(min(stride, extent)):
        used = [r for r in range(taps) if (first + origin - r * dilation) % stride == 0][::-1]
        start = (first + origin - used[0] * dilation) // stride if used else 0
        pixels = slice(first, extent, stride)
        spread = dilation // math.gcd(stride, dilation)
        result.append((len(range(extent)[pixels]), used, start, spread, pixels))
    return result
