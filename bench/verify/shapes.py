"""Shapes that break kernels, and layers of real networks, as geometries of each function.

`NASTY` are few and small: primes, one pixel, one row, channels that no vector width divides,
strides to 4, asymmetric padding, edge padding, groups, an empty batch. The real ones come from the
benchmark's suites; `cut` makes their images (not their channels) smaller where time is short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ...kernels import spec
from ...kernels.spec import AvgPool2d, Conv2d, MaxPool2d
from ..suites import SUITES, Layer

Shape = tuple[int, ...]
_PLAIN = Conv2d()


@dataclass(frozen=True)
class Aim:
    """The way of a kernel that a geometry is there for, where others take it by chance or never.

    `functions` are those that have it, `kinds` the types and precisions that take it; () is all.
    `border` says which images have a border of zeros: "all", or "read" for x and dy alone; "" is
    chance. `processors`: where there is no GPU, sums are split as for one of so many. An aimed call
    asks for all that it can: bias, ReLU, residual, mask and bias gradient.
    """

    functions: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    border: str = ""
    processors: int = 1


@dataclass(frozen=True)
class Conv:
    """x (N, H, W, C), w (K, R, S, C / groups), and the parameters."""

    x: Shape
    w: Shape
    op: Conv2d = _PLAIN
    aim: Aim = Aim()

    @property
    def cost(self) -> float:
        """Multiply-adds, about."""
        return self.op.flops(self.x, self.w) / 2


@dataclass(frozen=True)
class Pool:
    """x (N, H, W, C) and a max pool; `average` has the same windows."""

    x: Shape
    op: MaxPool2d

    @property
    def average(self) -> AvgPool2d:
        """The average pool; padding counts in every other geometry."""
        op = replace(self.op, dilation=(1, 1))
        fits = [min(p, k - 1) for p, k in zip(op.padding, (*op.kernel[:1] * 2, *op.kernel[1:] * 2),
                                              strict=True)]  # fmt: skip
        padding = (fits[0], fits[1], fits[2], fits[3])
        return AvgPool2d(op.kernel, op.stride, padding, op.ceil_mode, self.x[3] % 2 == 0)

    @property
    def cost(self) -> float:
        """Values that are looked at."""
        return math.prod(self.x) * math.prod(self.op.kernel)


@dataclass(frozen=True)
class Dense:
    """n images, c features, k outputs."""

    n: int
    c: int
    k: int
    aim: Aim = Aim()

    @property
    def cost(self) -> float:
        """Multiply-adds."""
        return self.n * self.c * self.k


@dataclass(frozen=True)
class Map:
    """x (N, H, W, C)."""

    x: Shape
    aim: Aim = Aim()

    @property
    def cost(self) -> float:
        """Values."""
        return math.prod(self.x)


@dataclass(frozen=True)
class Classes:
    """n images, k classes."""

    n: int
    k: int

    @property
    def cost(self) -> float:
        """Logits."""
        return self.n * self.k


Geometry = Conv | Pool | Dense | Map | Classes
_SAME = (1, 1, 1, 1)
_SHORT = ("float16", "bfloat16")
_MMA = (*_SHORT, "tf32x3", "tf32")  # what tensor cores take
_MANY = 16  # processors
_WGRAD = ("conv2d_wgrad",)
_BORDERED = ("conv2d", "conv2d_dgrad", "conv2d_wgrad")
_PADDED = Conv2d(padding=_SAME)
_CONV = {
    "primes": Conv((2, 13, 11, 7), (5, 3, 3, 7)),
    "one pixel": Conv((1, 1, 1, 1), (1, 1, 1, 1)),
    "one pixel, padded": Conv((2, 1, 1, 3), (4, 3, 3, 3), Conv2d(padding=_SAME)),
    "one row": Conv((2, 1, 17, 3), (5, 1, 4, 3), Conv2d(padding=(0, 0, 2, 1))),
    "pointwise, 19 to 23": Conv((3, 7, 5, 19), (23, 1, 1, 19)),
    "pointwise, stride 2": Conv((2, 7, 7, 16), (24, 1, 1, 16), Conv2d((2, 2))),
    "eights": Conv((2, 8, 8, 16), (32, 3, 3, 16), Conv2d(padding=_SAME)),
    "stride 3": Conv((2, 10, 11, 4), (6, 3, 3, 4), Conv2d((3, 3))),
    "stride 4, 11x11": Conv((1, 23, 23, 3), (6, 11, 11, 3), Conv2d((4, 4), (2, 2, 2, 2))),
    "stride past the filter": Conv((1, 13, 9, 4), (4, 2, 1, 4), Conv2d((4, 3))),
    "padding 0123": Conv((2, 6, 5, 3), (4, 3, 3, 3), Conv2d(padding=(0, 1, 2, 3))),
    "edge": Conv((2, 6, 5, 3), (4, 3, 3, 3), Conv2d((1, 1), _SAME, "edge")),
    "edge, 17 channels": Conv((1, 5, 4, 17), (18, 3, 3, 17), Conv2d((1, 1), _SAME, "edge")),
    "edge, uneven": Conv((1, 5, 6, 3), (4, 4, 2, 3), Conv2d((2, 1), (3, 0, 1, 2), "edge", (1, 2))),
    "dilated, stride 2": Conv((1, 12, 15, 3), (5, 2, 3, 3), Conv2d((2, 2), dilation=(3, 2))),
    "groups": Conv((2, 6, 7, 24), (16, 3, 3, 6), Conv2d(padding=_SAME, groups=4)),
    "depthwise": Conv((2, 9, 8, 11), (11, 3, 3, 1), Conv2d(padding=_SAME, groups=11)),
    "36 taps": Conv((1, 5, 6, 16), (16, 6, 6, 16), Conv2d(padding=(2, 3, 3, 2))),
    "depthwise, twice, edge": Conv(
        (2, 6, 5, 5), (10, 3, 2, 1), Conv2d((2, 1), (1, 0, 1, 2), "edge", (1, 2), 5)
    ),
    "131 filters": Conv((1, 5, 5, 3), (131, 3, 3, 3), aim=Aim(processors=_MANY)),
    "131 filters, stride 2, edge": Conv(
        (1, 5, 4, 3),
        (131, 5, 3, 3),
        Conv2d((2, 1), (2, 2, 1, 1), "edge"),
        Aim(("conv2d_dgrad",), _MMA, "", _MANY),
    ),
    "261 channels": Conv((1, 4, 4, 261), (3, 3, 3, 261), aim=Aim(processors=_MANY)),
    "many taps, groups": Conv(
        (1, 6, 5, 34),
        (36, 4, 4, 17),
        Conv2d(groups=2),
        Aim(("conv2d", "conv2d_dgrad"), _MMA, "", _MANY),
    ),
    "many pixels": Conv((1, 41, 39, 17), (24, 1, 1, 17), aim=Aim(_WGRAD, (), "", _MANY)),
    "many pixels, few channels": Conv(
        (3, 33, 33, 3), (5, 1, 1, 3), aim=Aim(_WGRAD, _SHORT, "", _MANY)
    ),
    "many pixels, depthwise": Conv(
        (1, 33, 32, 35), (35, 1, 1, 1), Conv2d(groups=35), Aim(_WGRAD, (), "", _MANY)
    ),
    "many pixels, bordered": Conv(
        (1, 41, 39, 16), (16, 1, 1, 16), aim=Aim(_WGRAD, _MMA, "all", _MANY)
    ),
    "many images": Conv((260, 2, 2, 3), (5, 1, 1, 3), aim=Aim(("conv2d_dgrad",))),
    "many tiles": Conv((3, 90, 91, 16), (72, 1, 1, 16)),
    "bordered": Conv((2, 8, 7, 16), (32, 3, 3, 16), _PADDED, Aim(_BORDERED, _MMA, "all")),
    "bordered where read": Conv(
        (2, 7, 8, 32), (16, 3, 3, 32), _PADDED, Aim(_BORDERED, _MMA, "read")
    ),
    "empty batch": Conv((0, 6, 6, 3), (4, 3, 3, 3), Conv2d(padding=_SAME)),
}
_POOL = {
    "2x2": Pool((2, 8, 6, 5), MaxPool2d((2, 2), (2, 2))),
    "2x2, odd": Pool((2, 7, 9, 3), MaxPool2d((2, 2), (2, 2))),
    "3x3 stride 2": Pool((2, 13, 11, 7), MaxPool2d((3, 3), (2, 2))),
    "3x3 stride 2, padded": Pool((1, 9, 9, 4), MaxPool2d((3, 3), (2, 2), _SAME)),
    "overlapping": Pool((2, 6, 7, 3), MaxPool2d((3, 3), (1, 1), _SAME)),
    "ceil": Pool((2, 8, 10, 3), MaxPool2d((3, 3), (2, 2), ceil_mode=True)),
    "uneven": Pool((1, 7, 8, 3), MaxPool2d((3, 2), (2, 3), (2, 0, 1, 0))),
    "dilated": Pool((1, 9, 11, 3), MaxPool2d((2, 3), (2, 1), dilation=(3, 2))),
    "stride past the window": Pool((1, 11, 9, 3), MaxPool2d((2, 1), (4, 3))),
    "one row": Pool((2, 1, 13, 3), MaxPool2d((1, 3), (1, 2))),
    "one pixel": Pool((1, 1, 1, 1), MaxPool2d((1, 1), (1, 1))),
    "67 channels": Pool((1, 6, 6, 67), MaxPool2d((2, 2), (2, 2))),
    "empty batch": Pool((0, 6, 6, 3), MaxPool2d((2, 2), (2, 2))),
}
_DENSE = {
    "primes": Dense(3, 13, 7),
    "one each": Dense(1, 1, 1),
    "one image": Dense(1, 67, 33),
    "one output": Dense(5, 33, 1),
    "eights": Dense(8, 64, 16),
    "past a tile": Dense(131, 37, 35),
    "long sum": Dense(2, 1031, 3, Aim(("dense",))),
    "many outputs": Dense(3, 5, 1031, Aim(("dense_dgrad",))),
    "many images": Dense(1031, 5, 3, Aim(("dense_wgrad",))),
    "empty batch": Dense(0, 5, 4),
}
_MAP = {
    "primes": Map((2, 5, 3, 7)),
    "one element": Map((1, 1, 1, 1)),
    "one row": Map((1, 1, 13, 3)),
    "two pixels": Map((1, 1, 2, 3)),
    "one channel": Map((37, 2, 3, 1)),
    "131 channels": Map((2, 1, 2, 131)),
    "past a block": Map((1, 3, 11, 67)),
    "many pixels": Map((2, 23, 24, 5)),
    "4160 pixels": Map((1, 65, 64, 64), Aim(("bias_grad",))),
    "empty batch": Map((0, 4, 4, 3)),
}
_CLASSES = {
    "ten": Classes(7, 10),
    "one class": Classes(3, 1),
    "two classes": Classes(5, 2),
    "one image": Classes(1, 37),
    "thousand": Classes(3, 1000),
    "past a block": Classes(67, 11),
    "empty batch": Classes(0, 10),
}


def family(function: str) -> str:
    """Which geometries a contract function takes: conv, pool, dense, classes or map."""
    module = spec.CONTRACTS[function].module  # type: ignore[attr-defined]
    if function.startswith("global_avg") or function == "bias_grad":
        return "map"
    return {"loss": "classes"}.get(module, module if module in ("conv", "pool", "dense") else "map")


NASTY: dict[str, dict[str, Geometry]] = {
    "conv": dict(_CONV),
    "pool": dict(_POOL),
    "dense": dict(_DENSE),
    "map": dict(_MAP),
    "classes": dict(_CLASSES),
}


def aim(geometry: Geometry) -> Aim:
    """What a geometry is there for."""
    return geometry.aim if isinstance(geometry, Conv | Dense | Map) else Aim()


def _cut(layer: Layer, batch: int, pixels: int) -> tuple[int, ...]:
    """x of a layer whose image is at most `pixels` high and wide, and large enough to be odd."""
    reach = [d * (t - 1) + 1 for d, t in zip(layer.op.dilation, layer.kernel, strict=True)]
    sizes = [min(n, max(pixels, r)) for n, r in zip(layer.image, reach, strict=False)]
    return (batch, *sizes, layer.image[2])


def real(kind: str, batch: int, pixels: int) -> dict[str, Geometry]:
    """The layers of all suites as geometries of one family, images cut to `pixels`.

    Of layers whose geometries are equal (outputs of one shape, say) the first stands for all.
    """
    layers = [
        (f"{suite.name} {layer}", layer) for suite in SUITES.values() for layer in suite.layers
    ]
    found: dict[str, Geometry] = {}
    for name, layer in layers:
        x = _cut(layer, batch, pixels)
        told = name if x[1:] == layer.image else f"{name}, image cut to {x[1]}x{x[2]}"
        made = Conv(x, layer.w_shape, layer.op)
        y = layer.op.output_shape(x, layer.w_shape)
        if kind == "conv":
            found[told] = made
        elif kind == "map":
            found[told] = Map(y)
        elif kind == "pool" and layer.pool is not None:
            reach = layer.pool.reach
            if min(a - b for a, b in zip(y[1:3], reach, strict=True)) >= 0:
                found[told] = Pool(y, layer.pool)
    if kind == "dense":
        found = {
            "vgg-small 1152 → 256": Dense(64, 1152, 256),
            "vgg16 4096 → 1000": Dense(4, 4096, 1000),
            "alexnet 9216 → 4096": Dense(2, 9216, 4096),
            "resnet50 2048 → 1000": Dense(16, 2048, 1000),
            "vgg16 4096 → 1000, 256 images": Dense(256, 4096, 1000),
        }
    if kind == "classes":
        found = {"ten classes": Classes(64, 10), "ImageNet": Classes(64, 1000)}
    first = {made: name for name, made in reversed(found.items())}
    return {name: made for name, made in found.items() if first[made] == name}
