"""Convolution in CUDA C++: tiles of pixels and filters in shared memory and in registers.

One pair of files for each method; each stands on its own:

    conv_direct.cuh              the tiled direct convolution: halo, filters, register tiles
    conv_direct.py               its tile, and the launches of
    conv_forward.cu              conv2d, with bias, residual and ReLU; conv2d_relu_pool

Every stride, dilation, group count and padding is taken, in float32, float16 and bfloat16; sums are
float32 and rounded once. The direct kernels form IEEE products, whatever `Conv2d.precision` allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import spec
from ..spec import Config, Conv2d, MaxPool2d
from ..spec.contract import ITEMSIZE, Array, Out, dtype_name
from . import conv_direct
from .conv_direct import Tile
from .launch import usable


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """The tile and workspace of one call, from shapes and parameters alone."""
    op, out = arguments["op"], tuple(arguments["out"].shape)
    itemsize = ITEMSIZE[dtype_name(arguments["w"])]
    n, p, q, k = out
    if function == "conv2d_relu_pool":
        p, q = 2 * p, 2 * q
    tile = conv_direct.forward_tile((n, p, q, k), tuple(arguments["w"].shape), op, itemsize)
    reason = f"tiles of {tile.rows} x {tile.columns} pixels and {tile.block_filters} filters"
    return Config("direct", tile.items(), 0, reason)


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
    usable("conv2d", x=x, w=w, b=b, out=out, residual=residual, workspace=workspace)
    config = config or choose("conv2d", {"w": w, "out": out, "op": op})
    conv_direct.forward(x, w, b, residual, out, op, relu, Tile(**dict(config.tile)))


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
    usable("conv2d_relu_pool", x=x, w=w, b=b, out=out, code=code, workspace=workspace)
    config = config or choose("conv2d_relu_pool", {"w": w, "out": out, "op": op})
    conv_direct.forward_pooled(x, w, b, out, code, op, Tile(**dict(config.tile)))
