"""The walk that the forward pass and dgrad share: patches @ weights, block by block.

Weights are handed in as one matrix [groups, taps * channels / groups, filters / groups] a phase.
What follows the product (bias, ReLU, a mask, pooling) is a `Finish`: a function that works in
place on the block's values while they are in cache.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..spec.contract import Array
from . import winograd
from .conv_plan import Plan
from .im2col import Block, gather
from .product import multiply
from .scratch import Scratch
from .threads import parallel
from .windows import WHOLE, Phase, Window

# (chunk, phase, block, its values [images, rows, columns, channels] in the accumulator's type)
Finish = Callable[[int, Phase, Block, Array], None]


def forward_weights(w: Array, groups: int, memory: Array) -> list[Array]:
    """The weights [K,R,S,C/groups] as [groups, R*S*C/groups, K/groups], written to `memory`."""
    k, length = w.shape[0], w[0].size
    weights = memory[: w.size].reshape(groups, length, k // groups)
    np.copyto(weights, w.reshape(groups, k // groups, length).transpose(0, 2, 1))
    return [weights]


def transposed_weights(
    w: Array, phases: tuple[Phase, ...], groups: int, memory: Array
) -> list[Array]:
    """For each phase its taps of w as [groups, taps*K/groups, C/groups], written to `memory`."""
    k, c = w.shape[0] // groups, w.shape[3]
    by_tap = w.reshape(groups, k, *w.shape[1:]).transpose(0, 2, 3, 1, 4)  # [groups, R, S, K, C]
    matrices, offset = [], 0
    for phase in phases:
        rows, columns = phase.taps
        size = groups * len(rows) * len(columns) * k * c
        part = memory[offset : offset + size].reshape(groups, len(rows), len(columns), k, c)
        for i, r in enumerate(rows):
            for j, s in enumerate(columns):
                part[:, i, j] = by_tap[:, r, s]
        matrices.append(part.reshape(groups, -1, c))
        offset += size
    return matrices


def run(todo: Plan, task: Callable[[int, int], None]) -> None:
    """Run `task(chunk, worker)` for every chunk; overflow and NaN are values, not warnings."""

    def quiet(chunk: int, worker: int) -> None:
        with np.errstate(all="ignore"):
            task(chunk, worker)

    parallel(len(todo.chunks), quiet)


def correlate(
    todo: Plan,
    scratch: Scratch,
    source: Array,
    weights: list[Array],
    finish: Finish,
    out: Array | None,
) -> None:
    """For every block: the product, `finish`, and the way into out (None: finish stores it)."""
    if todo.config.algorithm == "winograd":
        (w,) = weights
        memory = scratch.shared[w.size :]
        weights = [winograd.transform_weights(w.reshape(3, 3, -1, w.shape[2]), memory)]

    def task(chunk: int, worker: int) -> None:
        for index, block in todo.chunks[chunk]:
            phase = todo.phases[index]
            target = None if out is None else block.of(phase.of(out))
            y = _block(todo, index, block, source, weights, scratch.of(worker), target)
            finish(chunk, phase, block, y)
            if target is not None and y is not target:
                np.copyto(target, y, casting="unsafe")

    run(todo, task)


def correlate_folded(
    todo: Plan,
    scratch: Scratch,
    source: Array,
    weights: list[Array],
    finish: Finish,
    out: Array,
    padding: tuple[int, int, int, int],
) -> None:
    """The same for an image with its padding, which is then added to the pixels it repeats.

    A chunk is one image: all phases and blocks of it.
    """
    _, height, width, c = out.shape
    top, bottom, left, right = padding
    whole = Phase(Window((height, width), (1, 1), (0, 0)), ([0], [0]), WHOLE)

    def task(chunk: int, worker: int) -> None:
        *arrays, extra = scratch.of(worker)
        padded = extra.reshape(1, top + height + bottom, left + width + right, c)
        for index, block in todo.chunks[chunk]:
            here = Block(0, 1, block.p0, block.p1)
            target = here.of(todo.phases[index].of(padded))
            y = _block(todo, index, block, source, weights, [*arrays, extra], target)
            if y is not target:
                np.copyto(target, y)
        dx = _fold(padded, height, width, top, left)
        image = Block(chunk, chunk + 1, 0, height)
        finish(chunk, whole, image, dx)
        np.copyto(image.of(out), dx, casting="unsafe")

    run(todo, task)


def _fold(padded: Array, height: int, width: int, top: int, left: int) -> Array:
    """Add rows and columns outside to the nearest inside; the inside [1, H, W, C], a view."""
    rows = padded[:, top : top + height]
    rows[:, 0] += padded[:, :top].sum(axis=1)
    rows[:, -1] += padded[:, top + height :].sum(axis=1)
    inside = rows[:, :, left : left + width]
    inside[:, :, 0] += rows[:, :, :left].sum(axis=2)
    inside[:, :, -1] += rows[:, :, left + width :].sum(axis=2)
    return inside


def _block(
    todo: Plan,
    index: int,
    block: Block,
    source: Array,
    weights: list[Array],
    arrays: list[Array],
    target: Array | None,
) -> Array:
    """One block's values: in `target` itself where it takes a matrix product, else in scratch."""
    image, column, product, _ = arrays
    window = todo.phases[index].window
    groups, (_, length, channels) = todo.groups, weights[index].shape
    shape = (block.n1 - block.n0, block.p1 - block.p0, window.extent[1], groups * channels)
    if target is not None and target.dtype == product.dtype and target.flags.c_contiguous:
        y = target
    else:
        y = product[: shape[0] * shape[1] * shape[2] * shape[3]].reshape(shape)
    if length == 0:  # the stride passes over these pixels
        y[...] = 0
        return y
    if todo.config.algorithm == "winograd":
        winograd.correlate(source, window, block, weights[index], y, image, column)
        return y
    patches = gather(source, window, block, groups, todo.edge, image, column)
    by_group = y.reshape(-1, groups, channels).transpose(1, 0, 2)
    multiply(patches, weights[index], by_group)
    return y
