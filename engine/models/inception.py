"""Inception v3 (Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision").

Large filters are factorised: 5x5 into two 3x3, 7x7 into 1x7 and 7x1. Every convolution is followed
by batch norm and ReLU. 23,834,568 parameters for 1000 classes; training adds an auxiliary head at
0.4 of the weight, with it 27,161,264.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..build import GraphBuilder
from ..geometry import Padding, Size
from ..ir import Value
from . import Torchvision, register_model, scaled

AUXILIARY_WEIGHT = 0.4

# scope → torchvision's module, and convolution in it → torchvision's (with a batch norm each)
STEM = {"conv1": "Conv2d_1a_3x3", "conv2": "Conv2d_2a_3x3", "conv3": "Conv2d_2b_3x3",
        "conv4": "Conv2d_3b_1x1", "conv5": "Conv2d_4a_3x3"}  # fmt: skip
SIDES = {"conv1x1": "branch1x1", "pool_conv": "branch_pool"}
DOUBLE = {f"double_{i}": f"branch3x3dbl_{i}" for i in (1, 2, 3)}
SQUARE = {**SIDES, **{f"conv5x5_{i}": f"branch5x5_{i}" for i in (1, 2)},
          **{f"conv3x3_{i}": f"branch3x3dbl_{i}" for i in (1, 2, 3)}}  # fmt: skip
SEVENS = {**SIDES, **{f"conv7x7_{i}": f"branch7x7_{i}" for i in (1, 2, 3)},
          **{f"double_{i}": f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)}}  # fmt: skip
TO_EIGHT = {**{f"conv3x3_{i}": f"branch3x3_{i}" for i in (1, 2)},
            **{f"conv7x7_{i}": f"branch7x7x3_{i}" for i in (1, 2, 3, 4)}}  # fmt: skip
WIDE = {**SIDES, **DOUBLE, "conv3x3": "branch3x3_1", "conv3x3_1x3": "branch3x3_2a",
        "conv3x3_3x1": "branch3x3_2b", "double_1x3": "branch3x3dbl_3a",
        "double_3x1": "branch3x3dbl_3b"}  # fmt: skip
MODULES = {
    "mixed1": ("Mixed_5b", SQUARE), "mixed2": ("Mixed_5c", SQUARE), "mixed3": ("Mixed_5d", SQUARE),
    "mixed4": ("Mixed_6a", {"conv3x3": "branch3x3", **DOUBLE}),
    "mixed5": ("Mixed_6b", SEVENS), "mixed6": ("Mixed_6c", SEVENS), "mixed7": ("Mixed_6d", SEVENS),
    "mixed8": ("Mixed_6e", SEVENS), "mixed9": ("Mixed_7a", TO_EIGHT),
    "mixed10": ("Mixed_7b", WIDE), "mixed11": ("Mixed_7c", WIDE),
    "auxiliary": ("AuxLogits", {"conv1": "conv0", "conv2": "conv1"}),
}  # fmt: skip
CONVOLUTIONS = {
    **STEM,
    **{
        f"{scope}/{ours}": f"{module}.{theirs}"
        for scope, (module, names) in MODULES.items()
        for ours, theirs in names.items()
    },
}
TORCHVISION = Torchvision(
    {
        "dense": "fc", "auxiliary/dense": "AuxLogits.fc",
        **{ours: f"{theirs}.conv" for ours, theirs in CONVOLUTIONS.items()},
        **{f"{ours}_norm": f"{theirs}.bn" for ours, theirs in CONVOLUTIONS.items()},
    },
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
)  # fmt: skip


@register_model("inception-v3", input_shape=(299, 299, 3), classes=1000, torchvision=TORCHVISION)
def inception_v3(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.5
) -> Value:
    """Inception v3: eleven modules with factorised filters; an auxiliary head in training.

    x [N,299,299,3]; `width` scales the number of filters.
    """
    make = _Modules(b, width)
    x = make.conv(x, 32, 3, "conv1", stride=2)  # [N,149,149,32]
    x = make.conv(x, 32, 3, "conv2")  # [N,147,147,32]
    x = make.conv(x, 64, 3, "conv3", padding=1)  # [N,147,147,64]
    x = b.max_pool2d(x, 3, 2, name="pool1")  # [N,73,73,64]
    x = make.conv(x, 80, 1, "conv4")  # [N,73,73,80]
    x = make.conv(x, 192, 3, "conv5")  # [N,71,71,192]
    x = b.max_pool2d(x, 3, 2, name="pool2")  # [N,35,35,192]
    for number, pooled in ((1, 32), (2, 64), (3, 64)):
        with b.scope(f"mixed{number}"):
            x = make.square(x, pooled)  # [N,35,35,256], [N,35,35,288] twice
    with b.scope("mixed4"):
        x = make.to_seventeen(x)  # [N,17,17,768]
    for number, inner in ((5, 128), (6, 160), (7, 160), (8, 192)):
        with b.scope(f"mixed{number}"):
            x = make.sevens(x, inner)  # [N,17,17,768]
    if b.training:
        with b.scope("auxiliary"):
            b.auxiliary(make.head(x, classes), AUXILIARY_WEIGHT)
    with b.scope("mixed9"):
        x = make.to_eight(x)  # [N,8,8,1280]
    for number in (10, 11):
        with b.scope(f"mixed{number}"):
            x = make.wide(x)  # [N,8,8,2048]
    x = b.dropout(b.global_avg_pool2d(x), dropout)  # [N,2048]
    return b.dense(x, classes, name="dense")


class _Modules:
    """The parts of the network, in a builder and at a width; each takes and returns [N,H,W,C]."""

    def __init__(self, b: GraphBuilder, width: float) -> None:
        self.b, self.width = b, width

    def conv(
        self, x: Value, filters: int, kernel: Size, name: str, *, stride: int = 1,
        padding: Padding = 0,
    ) -> Value:  # fmt: skip
        """Convolution without bias, batch norm, ReLU."""
        x = self.b.conv2d(
            x, scaled(filters, self.width), kernel, stride=stride, padding=padding, bias=False,
            name=name,
        )  # fmt: skip
        return self.b.relu(self.b.batch_norm(x, eps=1e-3, name=f"{name}_norm"))

    def chain(self, x: Value, branch: str, layers: Sequence[tuple[int, Size]]) -> Value:
        """(filters, kernel) after one another, each keeping the size of the image."""
        for number, (filters, kernel) in enumerate(layers, start=1):
            x = self.conv(x, filters, kernel, f"{branch}_{number}", padding="same")
        return x

    def pooled(self, x: Value, filters: int) -> Value:
        """The mean of 3x3 pixels, then 1x1."""
        x = self.b.avg_pool2d(x, 3, 1, padding=1, name="pool")
        return self.conv(x, filters, 1, "pool_conv")

    def square(self, x: Value, pooled: int) -> Value:
        """1x1, 5x5, two 3x3 and a pool side by side (figure 5 of the paper)."""
        ones = self.conv(x, 64, 1, "conv1x1")
        fives = self.chain(x, "conv5x5", ((48, 1), (64, 5)))
        threes = self.chain(x, "conv3x3", ((64, 1), (96, 3), (96, 3)))
        return self.b.concat([ones, fives, threes, self.pooled(x, pooled)])

    def to_seventeen(self, x: Value) -> Value:
        """35 pixels to 17: strided filters beside a strided pool (figure 10)."""
        threes = self.conv(x, 384, 3, "conv3x3", stride=2)
        doubles = self.chain(x, "double", ((64, 1), (96, 3)))
        doubles = self.conv(doubles, 96, 3, "double_3", stride=2)
        return self.b.concat([threes, doubles, self.b.max_pool2d(x, 3, 2, name="pool")])

    def sevens(self, x: Value, inner: int) -> Value:
        """7x7 as 1x7 and 7x1, once and twice, beside 1x1 and a pool (figure 6)."""
        ones = self.conv(x, 192, 1, "conv1x1")
        once = self.chain(x, "conv7x7", ((inner, 1), (inner, (1, 7)), (192, (7, 1))))
        twice = self.chain(
            x, "double",
            ((inner, 1), (inner, (7, 1)), (inner, (1, 7)), (inner, (7, 1)), (192, (1, 7))),
        )  # fmt: skip
        return self.b.concat([ones, once, twice, self.pooled(x, 192)])

    def to_eight(self, x: Value) -> Value:
        """17 pixels to 8, as `to_seventeen` with a factorised 7x7."""
        threes = self.conv(self.conv(x, 192, 1, "conv3x3_1"), 320, 3, "conv3x3_2", stride=2)
        sevens = self.chain(x, "conv7x7", ((192, 1), (192, (1, 7)), (192, (7, 1))))
        sevens = self.conv(sevens, 192, 3, "conv7x7_4", stride=2)
        return self.b.concat([threes, sevens, self.b.max_pool2d(x, 3, 2, name="pool")])

    def wide(self, x: Value) -> Value:
        """3x3 as 1x3 beside 3x1, to many channels (figure 7)."""
        ones = self.conv(x, 320, 1, "conv1x1")
        threes = self.conv(x, 384, 1, "conv3x3")
        doubles = self.chain(x, "double", ((448, 1), (384, 3)))
        return self.b.concat(
            [
                ones, *self._split(threes, "conv3x3"), *self._split(doubles, "double"),
                self.pooled(x, 192),
            ]
        )  # fmt: skip

    def _split(self, x: Value, name: str) -> list[Value]:
        return [
            self.conv(x, 384, (1, 3), f"{name}_1x3", padding="same"),
            self.conv(x, 384, (3, 1), f"{name}_3x1", padding="same"),
        ]

    def head(self, x: Value, classes: int) -> Value:
        """Logits from the middle of the network; x [N,17,17,768]."""
        x = self.b.avg_pool2d(x, 5, 3, name="pool")  # [N,5,5,768]
        x = self.conv(x, 128, 1, "conv1")  # [N,5,5,128]
        x = self.conv(x, 768, 5, "conv2")  # [N,1,1,768]
        return self.b.dense(self.b.global_avg_pool2d(x), classes, name="dense")
