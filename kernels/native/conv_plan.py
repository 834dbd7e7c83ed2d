"""How a convolution will run: by which algorithm, as which C problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..spec.contract import Config
from . import plan

KERNELS = {  # the C kernel of each function, by algorithm
    "direct": {
        "conv2d": "correlate",
        "conv2d_relu_pool": "correlate",
        "conv2d_dgrad": "correlate",
        "conv2d_wgrad": "wgrad",
        "conv2d_relu_pool_backward": "unpool",
    },
    "winograd": dict.fromkeys(("conv2d", "conv2d_relu_pool", "conv2d_dgrad"), "winograd"),
}
# What Winograd's algorithm costs besides its products, in multiply-adds, measured on AVX-512: a
# channel of a tile there and back, and a product's filter, in L2 or streamed from L3; the latter
# also where filters were transformed beforehand.
WINOGRAD_BLOCK, TRANSFORMED = 16, 200
FILTERS_LEAVE_L2, FILTERS_STAY, FILTERS_STREAM = 3 << 19, 3, 44
PREPARED_STAY, PREPARED_STREAM = 1, 6


def config_of(made: plan.Plan, algorithm: str, variant: str, workers: int) -> Config:
    """The Config that a call of this plan is made with."""
    how = "Winograd's F(2x2, 3x3)" if algorithm == "winograd" else "direct"
    return Config(
        f"{algorithm}-{variant}",
        (("workers", workers),),
        made.workspace_bytes,
        f"float32, {how} in register tiles ({variant}), chunks: "
        + ", ".join(str(p.chunks) for p in made.problems),
    )


def winograd_applies(function: str, a: Mapping[str, Any]) -> bool:
    """3x3 filters of stride 1 over whole blocks of channels."""
    if function not in KERNELS["winograd"]:
        return False
    op, back = a["op"], function == "conv2d_dgrad"
    folds = back and op.padding_mode == "edge"
    unit = a["w"].shape[1:3] == (3, 3) and op.stride == op.dilation == (1, 1)
    return unit and not folds and _channels(back, a)[0] % WINOGRAD_BLOCK == 0


def _channels(back: bool, a: Mapping[str, Any]) -> tuple[int, int]:
    """Channels in and out of a group of what a kernel computes, `back` through dgrad or forward."""
    (k, _, _, c), groups = a["w"].shape, a["op"].groups
    return (k // groups, c) if back else (c, k // groups)


def best_algorithm(function: str, a: Mapping[str, Any], *, prepared: bool = False) -> str:
    """Winograd's where it applies and should be faster, by the multiply-adds of one image.

    Not of the batch: an image must have the same bits in a batch of any size. With `prepared`
    the filters are packed, and transformed, beforehand.
    """
    if not winograd_applies(function, a):
        return "direct"
    back = function == "conv2d_dgrad"
    c, k = _channels(back, a)
    _, h, w, _ = a["out"].shape if back else a["op"].output_shape(a["x"].shape, a["w"].shape)
    tiles, products = -(-h // 2) * -(-w // 2), 16 * c * k
    costs = (PREPARED_STAY, PREPARED_STREAM) if prepared else (FILTERS_STAY, FILTERS_STREAM)
    loaded = costs[products > FILTERS_LEAVE_L2]
    by_tiles = tiles * (1.1 * products + TRANSFORMED * (c + k)) + loaded * products
    return "winograd" if by_tiles < 0.95 * 9 * h * w * c * k else "direct"


def make_plan(
    function: str, a: Mapping[str, Any], algorithm: str, variant: str, workers: int,
    *, prepared: bool = False,
) -> plan.Plan:  # fmt: skip
    """The problems of a call, from its shapes and parameters."""
    shapes = {name: tuple(a[name].shape) for name in ("x", "w", "out") if name in a}
    db = a.get("db") is not None
    kernel = KERNELS[algorithm].get(function, "")
    if function == "conv2d_dgrad":
        return plan.dgrad(shapes["out"], shapes["w"], a["op"], db, variant, workers, kernel)
    if function == "conv2d_wgrad":
        return plan.wgrad(shapes["x"], shapes["out"], a["op"], variant, workers)
    if function == "conv2d_relu_pool_backward":
        return plan.unpool(shapes["out"], db, variant, workers)
    pool = function == "conv2d_relu_pool"
    return plan.forward(shapes["x"], shapes["w"], a["op"], pool, variant, workers, kernel, prepared)
