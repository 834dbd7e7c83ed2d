"""The layers that kernels are measured on, with the shapes of the published networks.

VGG16: Simonyan & Zisserman 2015, table 1, column D. AlexNet: torchvision's variant of
Krizhevsky 2014. Inception v3: Szegedy et al. 2016, sizes as in torchvision. ResNet-50: He et al.
2016, table 1, stride on the 3x3 convolution as in torchvision. vgg-small: this project's own. odd
and edge: shapes that kernels like least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..engine.errors import InputError, unknown_name
from ..kernels.spec import AvgPool2d, Conv2d, MaxPool2d

HALVING = MaxPool2d((2, 2), (2, 2))
OVERLAPPING = MaxPool2d((3, 3), (2, 2))


@dataclass(frozen=True)
class Layer:
    """A convolution of x [N,H,W,C] with K filters of R x S, and the pool behind it, if any."""

    name: str
    image: tuple[int, int, int]  # H, W, C
    filters: int
    kernel: tuple[int, int]
    op: Conv2d
    pool: MaxPool2d | None = None

    def x_shape(self, batch: int) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (batch, *self.image)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """(K, R, S, C / groups)."""
        return (self.filters, *self.kernel, self.image[2] // self.op.groups)

    def y_shape(self, batch: int) -> tuple[int, ...]:
        """(N, P, Q, K)."""
        return self.op.output_shape(self.x_shape(batch), self.w_shape)

    @property
    def avg_pool(self) -> AvgPool2d | None:
        """The average pool with the windows of `pool`."""
        return self.pool and AvgPool2d(self.pool.kernel, self.pool.stride, self.pool.padding)

    def __str__(self) -> str:
        """Like `56x56x128 → 256, 3x3 /2`."""
        h, w, c = self.image
        told = f"{h}x{w}x{c} → {self.filters}, {self.kernel[0]}x{self.kernel[1]}"
        told += f" /{self.op.stride[0]}" if self.op.stride != (1, 1) else ""
        told += f" d{self.op.dilation[0]}" if self.op.dilation != (1, 1) else ""
        told += f" g{self.op.groups}" if self.op.groups != 1 else ""
        return told + (" edge" if self.op.padding_mode == "edge" else "")


@dataclass(frozen=True)
class Suite:
    """Layers that are measured together, and the batch size unless one is given."""

    name: str
    batch: int
    layers: tuple[Layer, ...]


def layer(
    size: int | tuple[int, int], channels: int, filters: int, kernel: int | tuple[int, int] = 3,
    *, stride: int = 1, padding: int | tuple[int, int, int, int] | None = None,
    mode: Literal["zeros", "edge"] = "zeros", dilation: int = 1, groups: int = 1,
    pool: MaxPool2d | None = None, name: str = "",
) -> Layer:  # fmt: skip
    """A layer in short; padding keeps the size at stride 1 unless given."""
    h, w = (size, size) if isinstance(size, int) else size
    r, s = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        rows, columns = dilation * (r - 1) // 2, dilation * (s - 1) // 2
        padding = (rows, rows, columns, columns)
    elif isinstance(padding, int):
        padding = (padding, padding, padding, padding)
    op = Conv2d((stride, stride), padding, mode, (dilation, dilation), groups)
    made = Layer(name, (h, w, channels), filters, (r, s), op, pool)
    return made if name else Layer(str(made), *list(vars(made).values())[1:])


def _resnet50() -> tuple[Layer, ...]:
    """The distinct convolutions of ResNet-50: the stem, then each stage's."""
    layers = [layer(224, 3, 64, 7, stride=2, pool=MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1)))]
    size, channels = 56, 64
    for stage, width in enumerate((64, 128, 256, 512)):
        stride = 1 if stage == 0 else 2
        after = size // stride
        layers += [
            layer(size, channels, width, 1),  # the first block reduces,
            layer(size, width, width, 3, stride=stride),
            layer(after, width, 4 * width, 1),
            layer(size, channels, 4 * width, 1, stride=stride),  # and projects its shortcut;
            layer(after, 4 * width, width, 1),  # the others
        ]
        if stride > 1:
            layers.append(layer(after, width, width, 3))
        size, channels = after, 4 * width
    return tuple(dict.fromkeys(layers))


def _inception_v3() -> tuple[Layer, ...]:
    """The distinct convolutions of Inception v3: the stem, then the modules by image size."""
    layers = [
        layer(299, 3, 32, stride=2, padding=0), layer(149, 32, 32, padding=0),
        layer(147, 32, 64, pool=OVERLAPPING), layer(73, 64, 80, 1),
        layer(73, 80, 192, padding=0, pool=OVERLAPPING),
    ]  # fmt: skip
    layers += [layer(35, c, k, 1) for c in (192, 256, 288) for k in (64, 48)]
    layers += [layer(35, 192, 32, 1), layer(35, 48, 64, 5), layer(35, 64, 96), layer(35, 96, 96)]
    layers += [layer(35, 288, 384, stride=2, padding=0), layer(35, 96, 96, stride=2, padding=0)]
    layers += [layer(17, 768, width, 1) for width in (192, 160, 128)]
    for width in (128, 160, 192):
        layers += [layer(17, width, width, taps) for taps in ((1, 7), (7, 1))]
        layers += [layer(17, width, 192, taps) for taps in ((1, 7), (7, 1))]
    layers += [layer(17, 192, width, stride=2, padding=0) for width in (320, 192)]
    layers += [layer(8, c, k, 1) for c in (1280, 2048) for k in (320, 384, 448, 192)]
    layers += [layer(8, 384, 384, (1, 3)), layer(8, 384, 384, (3, 1)), layer(8, 448, 384)]
    return tuple(dict.fromkeys(layers))


SUITES = {
    suite.name: suite
    for suite in (
        Suite("vgg-small", 64, (
            layer(28, 1, 32), layer(28, 32, 32, pool=HALVING),
            layer(14, 32, 64), layer(14, 64, 64, pool=HALVING),
            layer(7, 64, 128), layer(7, 128, 128, pool=HALVING),
        )),
        Suite("vgg16", 4, (
            layer(224, 3, 64), layer(224, 64, 64, pool=HALVING),
            layer(112, 64, 128), layer(112, 128, 128, pool=HALVING),
            layer(56, 128, 256), layer(56, 256, 256, pool=HALVING),
            layer(28, 256, 512), layer(28, 512, 512, pool=HALVING),
            layer(14, 512, 512, pool=HALVING),
        )),
        Suite("alexnet", 32, (
            layer(224, 3, 64, 11, stride=4, padding=2, pool=OVERLAPPING),
            layer(27, 64, 192, 5, pool=OVERLAPPING),
            layer(13, 192, 384), layer(13, 384, 256), layer(13, 256, 256, pool=OVERLAPPING),
        )),
        Suite("inception-v3", 8, _inception_v3()),
        Suite("resnet50", 8, _resnet50()),
        Suite("odd", 7, (
            layer(29, 3, 5), layer(31, 13, 17, pool=HALVING), layer(17, 7, 31, 5),
            layer((23, 37), 11, 13, (5, 3), stride=2), layer(19, 17, 19, 7, stride=3, padding=0),
            layer(13, 37, 41, 1), layer(29, 19, 23, dilation=2),
            layer(13, 33, 65, padding=(0, 1, 2, 0)), layer(16, 24, 36, groups=3),
            layer((1, 61), 23, 29, (1, 5), pool=MaxPool2d((1, 3), (1, 2))),
        )),
        Suite("edge", 16, (
            layer(56, 3, 32, mode="edge"), layer(28, 32, 32, mode="edge", pool=HALVING),
            layer(28, 64, 128, 5, mode="edge"), layer(14, 128, 128, mode="edge"),
            layer(28, 64, 64, 3, stride=2, mode="edge"),
        )),
    )
}  # fmt: skip


def get_suite(name: str) -> Suite:
    """The suite called `name`. Raises: InputError with close matches."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]


def pick_layers(suite: Suite, wanted: str | None) -> tuple[Layer, ...]:
    """The layers numbered in `wanted` ("1,3-5", counted from 1), or all. Raises: InputError."""
    if wanted is None:
        return suite.layers
    picked: list[Layer] = []
    for part in wanted.split(","):
        first, _, last = part.partition("-")
        try:
            numbers = range(int(first), int(last or first) + 1)
        except ValueError:
            numbers = range(0)
        if not numbers or numbers[0] < 1 or numbers[-1] > len(suite.layers):
            raise InputError(
                f"--layers {wanted}: {part!r} is not a number or range of 1 … {len(suite.layers)}"
            )
        picked += [suite.layers[n - 1] for n in numbers]
    return tuple(picked)
