"""Convolution on the GPU: matrix products on patches that are gathered, or that lie in a border.

One file for each method; each stands on its own:

    conv_forward.py   conv2d, with bias, residual and ReLU; conv2d_relu_pool, one kernel for all
    conv_dgrad.py     the gradient of x, by phases of the stride, with ReLU mask and bias gradient
    conv_fold.py      what dgrad does besides where the padding repeats the edge
    conv_wgrad.py     the gradient of w, split over the pixels and added in order
    conv_stem.py      how all three gather from images with few channels
    conv_depthwise.py  all three where each filter sees one channel
    conv_split.py     the second pass of forward and dgrad, where a small batch has its sums split
    conv_halo.py      forward and dgrad of stride 1 on images with a border of zeros, on sm_90
    conv_halo_wgrad.py  the gradient of w on such images
    conv_unpool.py    the backward of the fused pool, from the pooled gradient and the codes

Every stride, dilation, group count and padding is taken, in float32, float16 and bfloat16; sums are
float32 and rounded once. `Conv2d.precision` is how tensor cores form float32 products: not at all
("ieee": plain cores), with three TF32 products ("tf32x3") or with one ("tf32"). Stride 2 gathers:
on sm_90 a step is 127 instructions with boxes of pixel pairs (TMA), gathered 124 (3x3) or 51 (1x1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .. import spec
from ..errors import UnsupportedError, require_support
from ..spec import Config, Conv2d, MaxPool2d
from ..spec.contract import Array, Out, dtype_name
from ..spec.grid import border, positions
from ..tiling import Problem
from . import conv_depthwise, conv_halo, conv_halo_wgrad, conv_unpool
from .border import zero_border
from .conv_dgrad import dgrad, scratch_floats
from .conv_forward import forward, forward_pooled
from .conv_split import depth_splits, most_splits
from .conv_stem import FEW_CHANNELS, few_channels_tile, has_few_channels, wgrad_gathers_taps
from .conv_wgrad import gathered_tile, splits, wgrad
from .gpu import architecture, multiprocessors
from .launch import scratch, usable
from .tiles import Tile, pick, product_tile


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call cannot run here, from shapes and parameters alone; None if it can."""
    op = arguments.get("op")
    if op is None or op.padding_mode == "zeros" or not any(op.padding):
        return None
    for name in ("x", "dy", "residual", "mask", "out"):
        array = None if (function, name) == ("conv2d_wgrad", "out") else arguments.get(name)
        if array is not None and any(border(array)):
            return f"pads with zeros only where an array has a border of them, {name} has one"
    return None


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The tile and workspace of one call, from shapes and parameters alone."""
    if function == "conv2d_relu_pool_backward":
        shape = tuple(arguments["out"].shape)
        summed = arguments.get("db") is not None
        size = 4 * conv_unpool.row_tiles(shape) * shape[3] if summed else 0
        return Config("gather", (), size, "bound by memory: one pixel is one read and one write")
    if function not in conv_halo.READ:
        return _choose_gather(function, arguments)
    if (reason := conv_halo.declined(function, arguments)) is None:
        return _choose_halo(function, arguments)
    config = _choose_gather(function, arguments)
    return replace(config, reason=f"{config.reason}; not by shifts: {reason}")


def _choose_gather(function: str, arguments: Mapping[str, Any]) -> Config:
    """The same for a call that gathers its patches."""
    op, out = arguments["op"], tuple(arguments["out"].shape)
    weights = out if function == "conv2d_wgrad" else tuple(arguments["w"].shape)
    if function != "conv2d_relu_pool" and conv_depthwise.is_depthwise(weights, op):
        return _choose_depthwise(function, arguments, weights)
    if function == "conv2d_wgrad":
        x = tuple(arguments["x"].shape)
        n, p, q, k = op.output_shape(x, out)
        dtype = dtype_name(arguments["x"])
        taps = out[1] * out[2] * out[3]
        # one processor: splits, not small tiles, give work to the others
        sizes = k // op.groups, taps, n * p * q
        tile = gathered_tile(*sizes, dtype, op.precision)
        problem = Problem("triton", function, "implicit-gemm", dtype, x, out, op)
        tile, told = pick(problem, (k // op.groups, taps, op.groups), 1, tile)
        if wgrad_gathers_taps(out, dtype):
            tile = few_channels_tile(tile, wgrad=True)
        parts = splits(tile, n * p * q, out, op.groups)
        size = 4 * parts * k * taps if parts > 1 else 0
        reason = f"{parts} splits of {n * p * q} pixels, added in order; {told}"
        return Config("implicit-gemm", (*tile.items(), ("splits", parts)), size, reason)
    w, dtype = tuple(arguments["w"].shape), dtype_name(arguments["w"])
    if function == "conv2d_dgrad":
        phases = op.stride[0] * op.stride[1]
        pixels = -(-out[0] * out[1] * out[2] // phases)
        columns, depth = w[3], w[0] // op.groups
        if depth < FEW_CHANNELS:
            depth *= -(-w[1] * w[2] // phases)
        problem = Problem("triton", function, "implicit-gemm", dtype, out, w, op)
        taps = -(-w[1] * w[2] // phases) if w[0] // op.groups >= FEW_CHANNELS else 0
        tile, parts, told = _tile(problem, (pixels, columns, depth), phases, taps)
        db = arguments.get("db") is not None
        size = 4 * sum(scratch_floats(out, op, tile, db, parts))
        reason = f"{phases} phases of stride {op.stride} in one launch; {told}"
        return Config("implicit-gemm", (*tile.items(), ("splits", parts)), size, reason)
    pooled = 4 if function == "conv2d_relu_pool" else 1
    pixels, columns = pooled * out[0] * out[1] * out[2], w[0] // op.groups
    few = has_few_channels(w)
    depth = w[1] * w[2] * w[3] if few else w[3]
    x = tuple(arguments["x"].shape)
    problem = Problem("triton", function, "implicit-gemm", dtype, x, w, op)
    taps = w[1] * w[2] if function == "conv2d" and not few else 0
    tile, parts, told = _tile(problem, (pixels, columns, depth), 1, taps)
    if few:
        tile = few_channels_tile(tile)
    size = 4 * parts * pixels * w[0] if parts > 1 else 0
    reason = f"[{pixels}, {columns}] a group, gathered; {told}"
    return Config("implicit-gemm", (*tile.items(), ("splits", parts)), size, reason)


def _choose_halo(function: str, arguments: Mapping[str, Any]) -> Config:
    """The same for a call whose taps are shifts of one matrix."""
    op, source = arguments["op"], arguments[conv_halo.READ[function][0]]
    k, r, s, c = arguments["out" if function == "conv2d_wgrad" else "w"].shape
    count, dtype = positions(source), dtype_name(source)
    reason = f"{count} positions of one matrix, taps are shifts of its rows"
    image = (*source.shape[:3], c)
    problem = Problem("triton", function, "halo", dtype, image, (k, r, s, c), op)
    if function == "conv2d_wgrad":
        tile = product_tile(k, c, count, dtype, op.precision, architecture=architecture())
        tile, told = pick(problem, (k, c, r * s), 1, tile)
        parts = splits(tile, count, (k, r, s, c), 1)
        size = 4 * parts * k * r * s * c if parts > 1 else 0
        tiled = (*tile.items(), ("splits", parts))
        return Config("halo", tiled, size, f"{reason}; {parts} splits, added in order; {told}")
    columns, depth = (c, k) if function == "conv2d_dgrad" else (k, c)
    tile, _, told = _tile(problem, (count, columns, depth), 1, 0)
    others = (arguments.get(name) for name in ("residual", "mask", "out"))
    if any(a is not None and border(a) != border(source) for a in others):
        tile = replace(tile, columns=min(tile.columns, 128))  # wider, pixel by pixel, would spill
    tile = replace(tile, depth=min(tile.depth, depth & -depth))  # blocks of whole taps
    size = 4 * -(-count // tile.rows) * c if arguments.get("db") is not None else 0
    return Config("halo", tile.items(), size, f"{reason}; {told}")


def _choose_depthwise(function: str, arguments: Mapping[str, Any], w: tuple[int, ...]) -> Config:
    """The same for filters that see one channel."""
    op, out = arguments["op"], arguments["out"]
    processors, parts, size = multiprocessors(), 1, 0
    if function == "conv2d_wgrad":
        pixels = positions(arguments["dy"])
        tile = conv_depthwise.depthwise_tile(pixels, w[0], 1)
        parts = conv_depthwise.shares(pixels, w, tile, processors)
        size = 4 * parts * w[0] * w[1] * w[2] if parts > 1 else 0
    else:
        n, h, v, channels = out.shape
        tile = conv_depthwise.depthwise_tile(n * h * v, channels, processors)
    if function == "conv2d_dgrad":
        phase, db = conv_depthwise.one_phase(op), arguments.get("db") is not None
        size = 4 * sum(scratch_floats(tuple(out.shape), phase, tile, db, 1))
    reason = f"{w[0]} filters of one channel each: no product to form"
    return Config("depthwise", (*tile.items(), ("splits", parts)), size, reason)


def _tile(
    problem: Problem, sizes: tuple[int, int, int], phases: int, taps: int
) -> tuple[Tile, int, str]:
    """The tile of (rows, columns, depth), the splits of `taps` such depths, what told.

    No taps: no splits.
    """
    op, processors, (rows, columns, depth) = problem.op, multiprocessors(), sizes
    assert op is not None
    batch = op.groups * phases

    def rule(batch: int) -> Tile:
        limits = batch, processors, architecture()
        return product_tile(rows, columns, depth, problem.dtype, op.precision, *limits)

    most = most_splits(taps * -(-depth // rule(batch).depth))
    tile, told = pick(problem, (rows, columns, batch * most), processors, rule(batch * most))
    tiles = batch * -(-rows // tile.rows) * -(-columns // tile.columns)
    parts = depth_splits(tiles, taps * -(-depth // tile.depth), processors)
    return tile, parts, f"{told}, {parts} splits of the depth" if parts > 1 else told


def _ready(
    function: str, arguments: dict[str, Any], config: Config | None, workspace: Any, **arrays: Any
) -> tuple[Config, Any]:
    """The config and the float32 workspace of a call whose arrays are all usable."""
    usable(function, **arrays, workspace=workspace)
    require_support(function, "triton", supports(function, {**arrays, **arguments}))
    if config is None:
        config = choose(function, arguments)
    elif config.algorithm == "halo" and (reason := conv_halo.declined(function, arguments)):
        raise UnsupportedError(
            f"{function}: backend triton cannot take shifts of one matrix here: {reason}; "
            f"use the configuration of its own choose(), or use backend numpy"
        )
    return config, scratch(workspace, config.workspace_bytes // 4)


def _tile_of(config: Config) -> Tile:
    return Tile(**{name: value for name, value in config.tile if name != "splits"})


@spec.implements(spec.conv2d)
def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    op: Conv2d,
    relu: bool = False,
    residual: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d`: bias, residual and ReLU join while the sums are still in registers."""
    arguments = {"x": x, "w": w, "out": out, "op": op}
    arrays = {"x": x, "w": w, "b": b, "out": out, "residual": residual}
    config, memory = _ready("conv2d", arguments, config, workspace, **arrays)
    if config.algorithm == "depthwise":
        conv_depthwise.forward(x, w, b, residual, out, op, relu, _tile_of(config))
        zero_border(out)
    elif config.algorithm != "halo":
        forward(x, w, b, residual, out, op, relu, _tile_of(config), config["splits"], memory)
        zero_border(out)
    elif not conv_halo.forward(x, w, b, residual, out, op, relu, _tile_of(config)):
        zero_border(out)


@spec.implements(spec.conv2d_dgrad)
def conv2d_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    op: Conv2d,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_dgrad`: all phases of the stride in one launch, mask and db in its epilogue."""
    arguments = {"dy": dy, "w": w, "out": out, "op": op, "db": db}
    arrays = {"dy": dy, "w": w, "out": out, "mask": mask, "db": db}
    config, memory = _ready("conv2d_dgrad", arguments, config, workspace, **arrays)
    if config.algorithm != "halo":
        direct = config.algorithm == "depthwise"
        dgrad(dy, w, out, mask, db, op, _tile_of(config), config["splits"], memory, direct)
        zero_border(out)
    elif not conv_halo.dgrad(dy, w, out, mask, db, op, _tile_of(config), memory):
        zero_border(out)


@spec.implements(spec.conv2d_wgrad)
def conv2d_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    op: Conv2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_wgrad`: splits of the pixels, whose sums are added from first to last."""
    arguments = {"x": x, "dy": dy, "out": out, "op": op}
    arrays = {"x": x, "dy": dy, "out": out}
    config, memory = _ready("conv2d_wgrad", arguments, config, workspace, **arrays)
    given = (x, dy, out, op, _tile_of(config), config["splits"], memory)
    if config.algorithm == "halo":
        conv_halo_wgrad.wgrad(*given)
    else:
        wgrad(*given, depthwise=config.algorithm == "depthwise")


@spec.implements(spec.conv2d_relu_pool)
def conv2d_relu_pool(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    code: Out | None,
    *,
    op: Conv2d,
    pool: MaxPool2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_relu_pool`: the four pixels of a window lie in one tile and are pooled there."""
    arguments = {"x": x, "w": w, "out": out, "op": op}
    arrays = {"x": x, "w": w, "b": b, "out": out, "code": code}
    config, _ = _ready("conv2d_relu_pool", arguments, config, workspace, **arrays)
    forward_pooled(x, w, b, out, code, op, _tile_of(config))
    zero_border(out)


@spec.implements(spec.conv2d_relu_pool_backward)
def conv2d_relu_pool_backward(
    dy: Array,
    code: Array,
    out: Out,
    *,
    pool: MaxPool2d,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_relu_pool_backward`: every pixel asks the code of its window, once."""
    arguments = {"out": out, "db": db}
    arrays = {"dy": dy, "code": code, "out": out, "db": db}
    _, memory = _ready("conv2d_relu_pool_backward", arguments, config, workspace, **arrays)
    conv_unpool.unpool(dy, code, out, db, memory)
    zero_border(out)
