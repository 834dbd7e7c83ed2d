"""Patches of an image as the rows of a matrix ("im2col"), gathered in blocks that stay in cache.

A convolution, and the gradient of one, asks of every output pixel (p, q) the source pixels

    row p * step + r * dilation + start,  columns likewise,  for every tap (r, s)

which a `Window` states. `gather` lays those R*S*C numbers side by side, one matrix row per output
pixel, so that a single matrix product with the weights forms all sums of a block at once.
Rows and columns outside the source are zero, or, with `edge`, the nearest inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .windows import Window

Array = Any

PLANES = 4  # up to this many channels, runs along Q are longer than runs along S and C


@dataclass(frozen=True)
class Block:
    """Images n0 to n1 and output rows p0 to p1 (both excluded at the end)."""

    n0: int
    n1: int
    p0: int
    p1: int

    def of(self, array: Array) -> Array:
        """The block's part of an array [N, P, Q, channels]."""
        return array[self.n0 : self.n1, self.p0 : self.p1]


Blocks = Sequence[tuple[int, Block]]  # (index of a phase, block of its output)


def cut(n: int, p: int, images: int, rows: int) -> list[Block]:
    """All of N images of P rows, cut into blocks of `images` by `rows`, in order."""
    return [
        Block(i, min(i + images, n), j, min(j + rows, p))
        for i in range(0, n, images)
        for j in range(0, p, rows)
    ]


def gather(
    source: Array,
    window: Window,
    block: Block,
    groups: int,
    edge: bool,
    image: Array,
    column: Array,
) -> Array:
    """The patches of a block: a matrix [groups, pixels of the block, R*S*C/groups].

    source [N,H,W,C]; image and column are flat scratch of the accumulator's type. The result lies
    in `column`, or is a view of the source where its pixels are the rows already (1x1, step 1).
    """
    n, rows = block.n1 - block.n0, block.p1 - block.p0
    (h, w), (r, s), q = window.reach(rows), window.taps, window.extent[1]
    (sh, sw), (dh, dw) = window.step, window.dilation
    c, cg = source.shape[3], source.shape[3] // groups
    part = _pixels(source, window, block, (h, w), edge, image)
    if r == s == 1 and window.step == (1, 1) and _mergeable(part):
        return part.reshape(-1, groups, cg).transpose(1, 0, 2)
    bn, bh, bw, bc = part.strides
    sizes = {"g": groups, "n": n, "p": rows, "q": q, "r": r, "s": s, "c": cg}
    strides = {"g": bc * cg, "n": bn, "p": bh * sh, "q": bw * sw, "r": bh * dh, "s": bw * dw}
    strides["c"] = bc
    order = "grscnpq" if c <= PLANES else "gnpqrsc"
    shape = [sizes[axis] for axis in order]
    patches = column[: math.prod(shape)].reshape(shape)
    np.copyto(patches, as_strided(part, shape, [strides[axis] for axis in order]))
    if order == "grscnpq":
        return patches.reshape(groups, r * s * cg, n * rows * q).transpose(0, 2, 1)
    return patches.reshape(groups, n * rows * q, r * s * cg)


def _pixels(
    source: Array, window: Window, block: Block, size: tuple[int, int], edge: bool, image: Array
) -> Array:
    """The source pixels [n, h, w, C] that a block reads: a view, or a copy with its padding."""
    n, (h, w), c = block.n1 - block.n0, size, source.shape[3]
    top, left = window.start[0] + block.p0 * window.step[0], window.start[1]
    inside = 0 <= top <= source.shape[1] - h and 0 <= left <= source.shape[2] - w
    if inside and source.dtype == image.dtype:
        return source[block.n0 : block.n1, top : top + h, left : left + w]
    flat = image[: n * h * w * c]
    if c <= PLANES:  # [C, N, H, W] in memory: rows of one channel are contiguous
        part = flat.reshape(c, n, h, w).transpose(1, 2, 3, 0)
    else:
        part = flat.reshape(n, h, w, c)
    fill(part, source[block.n0 : block.n1], (top, left), edge)
    return part


def _mergeable(part: Array) -> bool:
    """Whether pixels [n, h, w, C] are evenly spaced, so that they are a matrix without copying."""
    (n, h, w, _), (bn, bh, bw, bc) = part.shape, part.strides
    return bc == part.itemsize and (h == 1 or bh == w * bw) and (n == 1 or bn == h * w * bw)


def fill(part: Array, source: Array, start: tuple[int, int], edge: bool) -> None:
    """Copy source pixels from row and column `start` on into part [N, h, w, C].

    Outside the source [N, H, W, C] they are zero or, with `edge`, the nearest inside.
    """
    h0, h1, a0, a1 = _overlap(start[0], part.shape[1], source.shape[1], edge)
    w0, w1, b0, b1 = _overlap(start[1], part.shape[2], source.shape[2], edge)
    rows = part[:, a0:a1]
    rows[:, :, b0:b1] = source[:, h0:h1, w0:w1]
    if b0 > 0:
        rows[:, :, :b0] = rows[:, :, b0 : b0 + 1] if edge else 0
    if b1 < part.shape[2]:
        rows[:, :, b1:] = rows[:, :, b1 - 1 : b1] if edge else 0
    if a0 > 0:
        part[:, :a0] = part[:, a0 : a0 + 1] if edge else 0
    if a1 < part.shape[1]:
        part[:, a1:] = part[:, a1 - 1 : a1] if edge else 0


def _overlap(start: int, size: int, extent: int, edge: bool) -> tuple[int, int, int, int]:
    """Source indices from, to, that `start` to `start + size` covers, and where they land in it.

    With `edge` there is always one: the nearest, where the range lies outside altogether.
    """
    least = 1 if edge else 0
    low = min(max(start, 0), extent - least)
    high = max(min(start + size, extent), low + least)
    at = min(max(low - start, 0), size - least)
    return low, high, at, at + high - low
