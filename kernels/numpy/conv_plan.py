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
from typing import Any, NamedTuple

import numpy as np

from ..errors import UnsupportedError
from ..spec import Config, Conv2d, accumulator, dtype_name
from . import winograd
from .im2col import Blocks, cut
from .product import SMALL
from .scratch import Scratch, scratch_bytes
from .threads import get_threads
from .windows import Pair, Phase, Window, forward, transposed

Shape = tuple[int, ...]

COLUMN_BYTES = 1 << 20  # patches of a block: half of a 2 MB L2 cache
TILES_BYTES = 3 << 20  # Winograd's tiles of a block: its many short steps want long runs
LEAST_PIXELS = 256  # of a block, so that the matrix product is not all overhead
LEAST_BLOCKS = 8  # where the work allows, so that threads finish together
LEAST_SUMS = 1024  # of a tile of wgrad's matrix products, which limits the pixels they sum over
CHUNKS = 16  # of wgrad, each with a partial sum of its own,
PARTIAL_BYTES = 1 << 26  # which take at most so much together, if there are more than
LEAST_CHUNKS = 4
# What a core does in a nanosecond (Sapphire Rapids, float32), to choose between the algorithms:
PRODUCTS = 80  # multiply-adds of matrix products,
GATHERED = 4  # numbers gathered into patches,
TRANSFORMED = 0.45  # pixels and channels taken through Winograd's transforms


ALGORITHMS = ("im2col", "winograd")


class Cut(NamedTuple):
    """The algorithm, and images and output rows of a block."""

    algorithm: str
    images: int
    rows: int


@dataclass(frozen=True)
class Plan:
    """A convolution's phases, its work in chunks, and its scratch arrays."""

    phases: tuple[Phase, ...]
    groups: int
    edge: bool  # pixels outside the source are the nearest inside, not zero
    folded: bool  # the output is formed with its padding, which is added to the border pixels
    chunks: tuple[Blocks, ...]  # each for one thread, in order
    shared: int  # elements: weights or, for wgrad, the chunks' sums
    own: tuple[int, ...]  # of each thread: padded image, patches, product, and an extra one,
    # which is a block's sums for wgrad, or the whole padded image if folded
    dtype: str
    config: Config

    def scratch(self, workspace: Any | None) -> Scratch:
        """The arrays in the caller's workspace; None: allocated for this one call."""
        return Scratch(self.shared, self.own, self.config["workers"], self.dtype, workspace)


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The algorithm, block and workspace for one call of a contract function of convolution.

    `arguments` are those of the contract function; only shapes, types and parameters are read.
    """
    if function == "conv2d_relu_pool_backward":
        return Config("masks", reason="each pixel of a window compares its number with the code")
    return plan(function, arguments).config


def plan(function: str, arguments: Mapping[str, Any]) -> Plan:
    """The plan of one call; `arguments["config"]`, where there is one, sets how it is cut."""
    x = arguments["out" if function == "conv2d_dgrad" else "x"]
    w = arguments["out" if function == "conv2d_wgrad" else "w"]
    config = arguments.get("config")
    threads, cut_as = get_threads(), None
    if config is not None:
        threads = config["workers"]
        cut_as = Cut(config.algorithm, config["images"], config["rows"])
    dtype = accumulator(dtype_name(x))
    call = _Call(function, arguments["op"], tuple(x.shape), tuple(w.shape), dtype)
    if cut_as is not None and cut_as.algorithm not in ALGORITHMS[: 1 + _winograd_applies(call)]:
        raise UnsupportedError(
            f"{function}: backend numpy has no algorithm {cut_as.algorithm!r} for this call; "
            f"take the configuration of its own choose()"
        )
    return _plan(call, cut_as, threads)


@dataclass(frozen=True)
class _Call:
    """What a plan follows from, and what that says about the walk over the source."""

    function: str
    op: Conv2d
    x: Shape
    w: Shape
    dtype: str

    @property
    def folded(self) -> bool:
        op = self.op
        return self.function == "conv2d_dgrad" and op.padding_mode == "edge" and any(op.padding)

    @property
    def channels(self) -> Pair:
        """Of the source, which is read in patches, and of the target."""
        c, k = self.x[3], self.w[0]
        return (k, c) if self.function == "conv2d_dgrad" else (c, k)

    @property
    def padded(self) -> Shape:
        return self.op.padded_shape(self.x)

    def phases(self) -> list[Phase]:
        _, p, q, _ = self.op.output_shape(self.x, self.w)
        taps, (top, _, left, _) = (self.w[1], self.w[2]), self.op.padding
        if self.folded:
            return transposed(self.op, taps, (self.padded[1], self.padded[2]), (0, 0))
        if self.function == "conv2d_dgrad":
            return transposed(self.op, taps, (self.x[1], self.x[2]), (top, left))
        if self.function == "conv2d_relu_pool":
            return [forward(self.op, taps, (p // 2 * 2, q // 2 * 2))]
        return [forward(self.op, taps, (p, q))]


@functools.lru_cache(maxsize=1024)
def _plan(call: _Call, cut_as: Cut | None, threads: int) -> Plan:
    phases = call.phases()
    windows = [phase.window for phase in phases]
    extent = max(v.extent[0] for v in windows), max(v.extent[1] for v in windows)
    algorithm, images, rows = cut_as or _cut(call, windows, extent)
    even = 2 if call.function == "conv2d_relu_pool" or algorithm == "winograd" else 1
    images, rows = 1 if call.folded else images, -(-rows // even) * even
    chunks = _chunks(call, windows, images, rows)

    source, target = call.channels
    pixels = images * rows * extent[1]
    shared, extra = math.prod(call.w), 0
    if algorithm == "winograd":
        tiles = rows // 2, -(-extent[1] // 2)
        image, column = winograd.scratch_elements(tiles, images, source, target)
        shared = 16 * source * target + (0 if call.function == "conv2d_wgrad" else shared)
    else:
        column = pixels * source * max(math.prod(v.taps) for v in windows)
        reach = max(math.prod(v.reach(rows)) if all(v.taps) else 0 for v in windows)
        image = images * reach * source
    if call.function == "conv2d_wgrad":
        shared, extra = shared * len(chunks), shared
    elif call.folded:
        extra = math.prod(call.padded[1:])
    own = image, column, pixels * target, extra

    workers = max(1, min(threads, len(chunks)))
    size = scratch_bytes(shared, own, workers, call.dtype)
    each = scratch_bytes(0, own, 1, call.dtype) >> 10
    config = Config(
        algorithm,
        (("images", images), ("rows", rows), ("workers", workers)),
        size,
        f"blocks of {images} images x {rows} rows, {each} KB a thread",
    )
    edge = call.op.padding_mode == "edge" and call.function != "conv2d_dgrad"
    return Plan(
        tuple(phases),
        call.op.groups,
        edge,
        call.folded,
        chunks,
        shared,
        own,
        call.dtype,
        config,
    )


def _chunks(call: _Call, windows: list[Window], images: int, rows: int) -> tuple[Blocks, ...]:
    """Blocks of all phases, grouped: by image if folded, into partial sums for wgrad."""
    n = call.x[0]
    items = [
        (i, block)
        for i, window in enumerate(windows)
        for block in cut(n, window.extent[0], images, rows)
    ]
    if call.folded:
        return tuple([(i, b) for i, b in items if b.n0 == image] for image in range(n))
    if call.function != "conv2d_wgrad":
        return tuple([item] for item in items)
    most = PARTIAL_BYTES // (math.prod(call.w) * np.dtype(call.dtype).itemsize)
    count = min(len(items), CHUNKS, max(LEAST_CHUNKS, most))
    edges = [len(items) * i // count for i in range(count + 1)] if count else []
    return tuple(items[a:b] for a, b in itertools.pairwise(edges))


def _cut(call: _Call, windows: list[Window], extent: Pair) -> Cut:
    """The algorithm, and blocks: whole images if several fit, else even parts of one."""
    (source, target), size = call.channels, np.dtype(call.dtype).itemsize
    n, (p, q) = call.x[0], extent
    if _winograd_pays(call, extent):
        algorithm, pixels = "winograd", TILES_BYTES // (4 * (source + target) * size)
    else:
        length = source * max(math.prod(v.taps) for v in windows)
        algorithm, pixels = "im2col", COLUMN_BYTES // max(length * size, 1)
        if call.function == "conv2d_wgrad":
            pixels = min(pixels, SMALL // min(math.prod(call.w), LEAST_SUMS))
    pixels = max(pixels, LEAST_PIXELS)
    if p * q <= pixels and n >= LEAST_BLOCKS:
        return Cut(algorithm, min(pixels // (p * q), -(-n // LEAST_BLOCKS)), p)
    parts = max(-(-p * q // pixels), min(-(-LEAST_BLOCKS // max(n, 1)), p * q // LEAST_PIXELS))
    return Cut(algorithm, 1, -(-p // max(parts, 1)))


def _winograd_applies(call: _Call) -> bool:
    op, edge = call.op, call.op.padding_mode == "edge" and any(call.op.padding)
    unit = op.stride == op.dilation == (1, 1) and op.groups == 1
    return call.w[1:3] == (3, 3) and unit and not edge


def _winograd_pays(call: _Call, extent: Pair) -> bool:
    """Whether Winograd's algorithm applies and should be faster: nanoseconds a pixel."""
    (source, target), (p, q) = call.channels, extent
    wasted = (p + p % 2) * (q + q % 2) / (p * q)  # odd sizes compute a row or column too many
    by_tiles = wasted * (4 * source * target / PRODUCTS + (source + target) / TRANSFORMED)
    by_patches = 9 * source * target / PRODUCTS + 9 * source / GATHERED
    return _winograd_applies(call) and by_tiles < by_patches
