"""Convolution in CUDA C++: tiles of pixels and filters in shared memory and in registers.

One pair of files for each method; each stands on its own:

    conv_direct.cuh              the tiled direct convolution: halo, filters, register tiles
    conv_direct.py               its tile, and the launches of
    conv_forward.cu              conv2d, with bias, residual and ReLU; conv2d_relu_pool
    conv_dgrad.py, .cu           the gradient of x, by phases of the stride, mask and bias gradient
    conv_wgrad.py, .cu           the gradient of w, split over the pixels and added in order
    conv_unpool.py, .cu          the backward of the fused pool, from gradient and codes
    conv_mma.py, _mma*.cu        all passes as implicit matrix products on tensor cores

Every stride, dilation, group count and padding is taken, in float32, float16 and bfloat16; sums are
float32 and rounded once. Tensor cores take what they can (`conv_mma.refusal`): all but IEEE
products of float32 and very few channels. The direct kernels take the rest, with IEEE products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import spec
from ..spec import Config, Conv2d, MaxPool2d
from ..spec.contract import ITEMSIZE, Array, Out, dtype_name
from . import conv_direct, conv_mma, conv_unpool
from .border import zero_border
from .conv_dgrad import dgrad, dgrad_tile, scratch_floats
from .conv_direct import Tile
from .conv_mma_tile import MmaTile
from .conv_wgrad import WgradTile, wgrad, wgrad_tile
from .launch import scratch, usable


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The tile and workspace of one call, from shapes and parameters alone."""
    if function == "conv2d_relu_pool_backward":
        summed = arguments.get("db") is not None
        size = 4 * conv_unpool.scratch_floats(arguments["out"]) if summed else 0
        return Config("gather", (), size, "bound by memory: one pixel is one read and one write")
    if (refusal := conv_mma.refusal(function, arguments)) is None:
        return conv_mma.choose(function, arguments)
    return _choose_direct(function, arguments, refusal)


def _choose_direct(function: str, arguments: Mapping[str, Any], refusal: str) -> Config:
    """The same of the direct kernels; `refusal` says why not tensor cores."""
    op, out = arguments["op"], tuple(arguments["out"].shape)
    if function == "conv2d_wgrad":
        n, p, q, k = op.output_shape(tuple(arguments["x"].shape), out)
        shares = wgrad_tile(n * p * q, out, op)
        size = 4 * shares.splits * k * out[1] * out[2] * out[3] if shares.splits > 1 else 0
        reason = f"{shares.splits} splits of {n * p * q} pixels, added in order; {refusal}"
        return Config("direct", shares.items(), size, reason)
    w = tuple(arguments["w"].shape)
    itemsize = ITEMSIZE[dtype_name(arguments["w"])]
    if function == "conv2d_dgrad":
        tile = dgrad_tile(out, w, op, itemsize)
        size = 4 * sum(scratch_floats(out, op, tile, arguments.get("db") is not None))
        told = f"{op.stride[0] * op.stride[1]} phases of stride {op.stride} in one launch, "
    else:
        if function == "conv2d_relu_pool":
            out = out[0], 2 * out[1], 2 * out[2], out[3]
        tile, size, told = conv_direct.forward_tile(out, w, op, itemsize), 0, ""
    reason = f"{told}tiles of {tile.rows} x {tile.columns} pixels x {tile.block_filters}; {refusal}"
    return Config("direct", tile.items(), size, reason)


def _ready(
    function: str, arguments: dict[str, Any], config: Config | None, workspace: Any, **arrays: Any
) -> tuple[Config, Any]:
    """The config and the float32 workspace of a call whose arrays are all usable."""
    usable(function, **arrays, workspace=workspace)
    config = config or choose(function, arguments)
    return config, scratch(workspace, config.workspace_bytes // 4)


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
    config, _ = _ready("conv2d", arguments, config, workspace, **arrays)
    if config.algorithm == "mma":
        conv_mma.forward(x, w, b, residual, out, op, relu, MmaTile.of(config))
    else:
        conv_direct.forward(x, w, b, residual, out, op, relu, Tile(**dict(config.tile)))
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
    if config.algorithm == "mma":
        conv_mma.dgrad(dy, w, out, mask, db, op, MmaTile.of(config), memory)
    else:
        dgrad(dy, w, out, mask, db, op, Tile(**dict(config.tile)), memory)
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
    config, memory = _ready("conv2d_wgrad", arguments, config, workspace, x=x, dy=dy, out=out)
    if config.algorithm == "mma":
        conv_mma.wgrad(x, dy, out, op, MmaTile.of(config), config["splits"], memory)
    else:
        wgrad(x, dy, out, op, WgradTile(**dict(config.tile)), memory)


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
    """`spec.conv2d_relu_pool`: the four pixels of a window are one thread's, and pooled there."""
    arguments = {"x": x, "w": w, "out": out, "op": op}
    arrays = {"x": x, "w": w, "b": b, "out": out, "code": code}
    config, _ = _ready("conv2d_relu_pool", arguments, config, workspace, **arrays)
    if config.algorithm == "mma":
        conv_mma.forward_pooled(x, w, b, out, code, op, MmaTile.of(config))
    else:
        conv_direct.forward_pooled(x, w, b, out, code, op, Tile(**dict(config.tile)))
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
    """`spec.conv2d_relu_pool_backward`: every window's code says which of its pixels gets dy."""
    arguments = {"out": out, "db": db}
    arrays = {"dy": dy, "code": code, "out": out, "db": db}
    _, memory = _ready("conv2d_relu_pool_backward", arguments, config, workspace, **arrays)
    conv_unpool.unpool(dy, code, out, db, memory)
    zero_border(out)
