"""How a convolution is cut into blocks on the CPU, and the scratch memory that takes.

A plan follows from shapes and parameters (the number of threads sizes scratch only): the same call
is always cut in the same way, so its bits do not depend on the threads.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..spec import Config, Conv2d, accumulator, dtype_name
from .im2col import Blocks, cut
from .product import SMALL
from .threads import get_threads
from .windows import Pair, Phase, Window, forward, transposed
from .winograd import scratch_elements

Shape = tuple[int, ...]

COLUMN_BYTES = 1 << 20  # patches of a block: half of a 2 MB L2 cache
LEAST_PIXELS = 256  # of a block, so that the matrix product is not all overhead
LEAST_BLOCKS = 8  # where the work allows, so that threads finish together
CHUNKS = 16  # of wgrad, each with a partial sum of its own,
PARTIAL_BYTES = 1 << 25  # which take at most so much together
LEAST_SUMS = 1024  # of a tile of wgrad's matrix products, which limits the pixels they sum over
TILES_BYTES = 3 << 20  # transformed tiles of a block: its many steps want long runs
PRODUCTS = 80  # multiply-adds a nanosecond in a matrix product,
GATHERED = 4  # numbers a nanosecond gathered into patches, and
TRANSFORMS = 2.2  # nanoseconds a pixel and channel in Winograd's transforms (one core each)
ALIGN = 64  # bytes of a cache line


@dataclass(frozen=True)
class Plan:
    """The phases of a convolution, its work in chunks, and the scratch that it takes."""

    phases: tuple[Phase, ...]
    groups: int
    chunks: tuple[Blocks, ...]  # each for one thread, in order
    edge: bool  # pixels outside the source are the nearest inside, not zero
    folded: bool  # the output is formed with its padding, which is added to the border pixels
    elements: tuple[int, ...]  # of the shared array and of a worker's four: see `scratch`
    dtype: str
    config: Config

    def scratch(self, workspace: Any | None) -> Scratch:
        """The plan's arrays in the caller's workspace; None: allocated for this one call."""
        return Scratch(self, workspace)


class Scratch:
    """Flat arrays of the accumulator's type: one shared, four of each worker."""

    def __init__(self, plan: Plan, workspace: Any | None) -> None:
        """Cut up `workspace` (uint8, of the plan's `config.workspace_bytes`)."""
        if workspace is None:
            workspace = np.empty(plan.config.workspace_bytes, np.uint8)
        shared, *self._sizes = plan.elements
        self._dtype, self._workers = plan.dtype, plan.config["workers"]
        self.shared, *self._parts = _carve(
            workspace, [shared, *self._sizes * self._workers], plan.dtype
        )

    def of(self, worker: int) -> list[Any]:
        """Image, column, product and extra; allocated if there are more threads than planned."""
        if worker >= self._workers:
            memory = np.empty(_carved_bytes(self._sizes, self._dtype), np.uint8)
            return _carve(memory, self._sizes, self._dtype)
        return self._parts[4 * worker : 4 * worker + 4]


def _carve(memory: Any, elements: list[int], dtype: str) -> list[Any]:
    offset = -memory.ctypes.data % ALIGN
    parts = []
    for count in elements:
        size = count * np.dtype(dtype).itemsize
        parts.append(memory[offset : offset + size].view(dtype))
        offset += -(-size // ALIGN) * ALIGN
    return parts


def _carved_bytes(elements: list[int], dtype: str) -> int:
    size = np.dtype(dtype).itemsize
    return ALIGN + sum(-(-count * size // ALIGN) * ALIGN for count in elements)


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The algorithm, block and workspace for one call of a contract function of convolution.

    `arguments` are those of the contract function; only shapes, types and parameters are read.
    """
    if function == "conv2d_relu_pool_backward":
        return Config("masks", reason="each pixel of a window compares its number with the code")
    return plan(function, arguments).config


def plan(function: str, arguments: Mapping[str, Any]) -> Plan:
    """The plan of one call; `arguments["config"]`, where there is one, sets the block's size."""
    x = arguments["out" if function == "conv2d_dgrad" else "x"]
    w = arguments["out" if function == "conv2d_wgrad" else "w"]
    config = arguments.get("config")
    tile = None
    if config is not None:
        tile = config.algorithm, config["images"], config["rows"]
    dtype = accumulator(dtype_name(x))
    threads = get_threads() if config is None else config["workers"]
    return _plan(function, arguments["op"], tuple(x.shape), tuple(w.shape), dtype, tile, threads)


def _padded_shape(op: Conv2d, x: Shape) -> Shape:
    top, bottom, left, right = op.padding
    return x[0], x[1] + top + bottom, x[2] + left + right, x[3]


def _folds(function: str, op: Conv2d) -> bool:
    return function == "conv2d_dgrad" and op.padding_mode == "edge" and any(op.padding)


def _phases(function: str, op: Conv2d, x: Shape, w: Shape) -> list[Phase]:
    _, p, q, _ = op.output_shape(x, w)
    taps = (w[1], w[2])
    if _folds(function, op):
        return transposed(op, taps, _padded_shape(op, x)[1:3], (0, 0))  # type: ignore[arg-type]
    if function == "conv2d_dgrad":
        return transposed(op, taps, (x[1], x[2]), (op.padding[0], op.padding[2]))
    if function == "conv2d_relu_pool":
        return [forward(op, taps, (p // 2 * 2, q // 2 * 2))]
    return [forward(op, taps, (p, q))]


@functools.lru_cache(maxsize=1024)
def _plan(
    function: str,
    op: Conv2d,
    x: Shape,
    w: Shape,
    dtype: str,
    tile: tuple[str, int, int] | None,
    threads: int,
) -> Plan:
    n, c, k, size = x[0], x[3], w[0], np.dtype(dtype).itemsize
    source, target = (k, c) if function == "conv2d_dgrad" else (c, k)  # channels
    phases = _phases(function, op, x, w)
    windows = [phase.window for phase in phases]
    extent = max(v.extent[0] for v in windows), max(v.extent[1] for v in windows)
    length = max(math.prod(window.taps) for window in windows) * source
    folded = _folds(function, op)
    if tile is None:
        algorithm = _algorithm(function, op, windows[0], source, target)
        pixels = COLUMN_BYTES // max(length * size, 1)
        if algorithm == "winograd":
            pixels = TILES_BYTES // (4 * (source + target) * size)
        elif function == "conv2d_wgrad":
            pixels = min(pixels, SMALL // min(math.prod(w), LEAST_SUMS))
        images, rows = _tile(n, extent, max(pixels, LEAST_PIXELS))
    else:
        algorithm, images, rows = tile
    even = 2 if function == "conv2d_relu_pool" or algorithm == "winograd" else 1
    images, rows = 1 if folded else images, -(-rows // even) * even
    items = [
        (i, block)
        for i, window in enumerate(windows)
        for block in cut(n, window.extent[0], images, rows)
    ]
    shared, extra = math.prod(w), 0
    transformed = 16 * source * target if algorithm == "winograd" else 0
    if function == "conv2d_wgrad":  # a chunk is a partial sum
        shared = transformed or shared
        count = min(len(items), CHUNKS, max(2, PARTIAL_BYTES // (shared * size)))
        edges = [len(items) * i // count for i in range(count + 1)] if count else []
        chunks = [items[a:b] for a, b in itertools.pairwise(edges)]
        shared, extra = shared * count, shared
    elif folded:  # a chunk is an image, with all its phases
        chunks = [[(i, block) for i, block in items if block.n0 == image] for image in range(n)]
        extra = math.prod(_padded_shape(op, x)[1:])
    else:
        chunks = [[item] for item in items]
        shared += transformed
    pixels = images * rows * extent[1]
    reach = max(math.prod(v.reach(rows)) if all(v.taps) else 0 for v in windows)
    elements = [shared, images * reach * source, pixels * length, pixels * target, extra]
    if algorithm == "winograd":
        tiles = rows // 2, -(-extent[1] // 2)
        elements[1:3] = scratch_elements(tiles, images, source, target)
    workers = max(1, min(threads, len(chunks)))
    config = Config(
        algorithm,
        (("images", images), ("rows", rows), ("workers", workers)),
        _carved_bytes([shared, *elements[1:] * workers], dtype),
        f"{algorithm}: blocks of {pixels} pixels, {sum(elements[1:]) * size >> 10} KB a thread",
    )
    edge = op.padding_mode == "edge" and function != "conv2d_dgrad"
    return Plan(
        tuple(phases),
        op.groups,
        tuple(map(tuple, chunks)),
        edge,
        folded,
        tuple(elements),
        dtype,
        config,
    )


def _algorithm(function: str, op: Conv2d, window: Window, source: int, target: int) -> str:
    """Winograd's where it applies and should be faster: nanoseconds a pixel on one core."""
    plain = window.taps == (3, 3) and op.stride == op.dilation == (1, 1) and op.groups == 1
    zeros = op.padding_mode == "zeros" or not any(op.padding)
    if not (plain and zeros):
        return "im2col"
    products, channels = source * target / PRODUCTS, source + target
    p, q = window.extent
    wasted = (p + p % 2) * (q + q % 2) / (p * q)
    by_tiles = wasted * (4 * products + TRANSFORMS * channels)
    return "winograd" if by_tiles < 9 * products + 9 * source / GATHERED else "im2col"


def _tile(n: int, extent: Pair, pixels: int) -> Pair:
    """Images and rows of a block: whole images if several fit, else even parts of one."""
    p, q = extent
    if p * q <= pixels and n >= LEAST_BLOCKS:
        return min(pixels // (p * q), -(-n // LEAST_BLOCKS)), p
    parts = max(-(-p * q // pixels), min(-(-LEAST_BLOCKS // max(n, 1)), p * q // LEAST_PIXELS))
    return 1, -(-p // max(parts, 1))
