"""GoogLeNet, or Inception v1 (Szegedy et al. 2015, "Going deeper with convolutions").

The network of the paper: no batch norm but LRN after the first layers, pools that round up. Two
auxiliary heads give the layers in the middle a loss of their own while training, at 0.3 of the
weight. For 1000 classes 6,998,552 parameters, with the heads 13,378,280.

googlenet-bn is the form that torchvision has trained weights for (Ioffe & Szegedy 2015, "Batch
normalization", with some changes): batch norm in every convolution, no LRN, 3x3 filters where the
paper has 5x5. 6,624,904 parameters, with the heads 13,004,888.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import Torchvision, register_model, scaled

AUXILIARY_WEIGHT = 0.3

# 1x1; 1x1, 3x3; 1x1, 5x5; 1x1 behind the pool: filters of each branch (table 1 of the paper)
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


# our layer in a module → torchvision's (with a batch norm each)
BRANCHES = {
    "conv1x1": "branch1", "conv3x3_reduce": "branch2.0", "conv3x3": "branch2.1",
    "second3x3_reduce": "branch3.0", "second3x3": "branch3.1", "pool_conv": "branch4.1",
}  # fmt: skip
CONVOLUTIONS = {
    "conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3",
    "auxiliary4a/conv": "aux1.conv", "auxiliary4d/conv": "aux2.conv",
    **{
        f"inception{module}/{ours}": f"inception{module}.{theirs}"
        for module in INCEPTION
        for ours, theirs in BRANCHES.items()
    },
}  # fmt: skip
TORCHVISION = Torchvision(
    {
        "dense": "fc",
        **{f"auxiliary4a/dense{i}": f"aux1.fc{i}" for i in (1, 2)},
        **{f"auxiliary4d/dense{i}": f"aux2.fc{i}" for i in (1, 2)},
        **{ours: f"{theirs}.conv" for ours, theirs in CONVOLUTIONS.items()},
        **{f"{ours}_norm": f"{theirs}.bn" for ours, theirs in CONVOLUTIONS.items()},
    },
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
)  # fmt: skip


@register_model("googlenet", input_shape=(224, 224, 3), classes=1000)
def googlenet(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.4,
    head_dropout: float = 0.7,
) -> Value:  # fmt: skip
    """Inception v1: nine modules of parallel 1x1, 3x3, 5x5 filters; auxiliary heads in training.

    x [N,224,224,3]; `width` scales the number of filters; `head_dropout` is that of the
    auxiliary heads.
    """
    return _Modules(b, width, norm=False).network(x, classes, dropout, head_dropout)


@register_model("googlenet-bn", input_shape=(224, 224, 3), classes=1000, torchvision=TORCHVISION)
def googlenet_bn(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.2,
    head_dropout: float = 0.7,
) -> Value:  # fmt: skip
    """Inception v1 as torchvision has it: batch norm, no LRN, two branches of 3x3 filters.

    x [N,224,224,3]; options as of googlenet.
    """
    return _Modules(b, width, norm=True).network(x, classes, dropout, head_dropout)


class _Modules:
    """The network and its parts, in a builder and at a width; `norm` for googlenet-bn."""

    def __init__(self, b: GraphBuilder, width: float, *, norm: bool) -> None:
        self.b, self.width, self.norm = b, width, norm

    def network(self, x: Value, classes: int, dropout: float, head_dropout: float) -> Value:
        """Logits [N,classes] for x [N,224,224,3]."""
        b = self.b
        x = self.conv(x, 64, 7, "conv1", stride=2, padding=3)
        x = self.lrn(b.max_pool2d(x, 3, 2, ceil_mode=True, name="pool1"))  # [N,56,56,64]
        x = self.conv(x, 64, 1, "conv2_reduce")
        x = self.lrn(self.conv(x, 192, 3, "conv2", padding=1))
        x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="pool2")  # [N,28,28,192]
        for name, filters in INCEPTION.items():
            with b.scope(f"inception{name}"):
                x = self.inception(x, filters)
            # 3a, 3b [N,28,28,256], 480; 4a … 4e [N,14,14,512], …, 832; 5a, 5b [N,7,7,832], 1024
            if name in ("4a", "4d") and b.training:
                with b.scope(f"auxiliary{name}"):
                    b.auxiliary(self.head(x, classes, head_dropout), AUXILIARY_WEIGHT)
            if name in ("3b", "4e"):
                size = 2 if self.norm and name == "4e" else 3
                x = b.max_pool2d(x, size, 2, ceil_mode=True, name=f"pool{name[0]}")
        x = b.dropout(b.global_avg_pool2d(x), dropout)  # [N,1024]
        return b.dense(x, classes, name="dense")

    def conv(
        self, x: Value, filters: int, kernel: int, name: str, *, stride: int = 1, padding: int = 0
    ) -> Value:
        """Convolution with bias, or without and then batch norm; ReLU."""
        x = self.b.conv2d(
            x, scaled(filters, self.width), kernel, stride=stride, padding=padding,
            bias=not self.norm, name=name,
        )  # fmt: skip
        return self.b.relu(self.b.batch_norm(x, eps=1e-3, name=f"{name}_norm") if self.norm else x)

    def lrn(self, x: Value) -> Value:
        """Response normalisation where there is no batch norm."""
        return x if self.norm else self.b.lrn(x, size=5, alpha=1e-4, beta=0.75, k=1.0)

    def inception(self, x: Value, filters: tuple[int, ...]) -> Value:
        """Four branches over one image, their channels side by side."""
        one, three_reduce, three, five_reduce, five, pooled = filters
        ones = self.conv(x, one, 1, "conv1x1")
        threes = self.conv(x, three_reduce, 1, "conv3x3_reduce")
        threes = self.conv(threes, three, 3, "conv3x3", padding=1)
        name, kernel = ("second3x3", 3) if self.norm else ("conv5x5", 5)
        fives = self.conv(x, five_reduce, 1, f"{name}_reduce")
        fives = self.conv(fives, five, kernel, name, padding=kernel // 2)
        pool = self.b.max_pool2d(x, 3, 1, padding=1, name="pool")
        return self.b.concat([ones, threes, fives, self.conv(pool, pooled, 1, "pool_conv")])

    def head(self, x: Value, classes: int, dropout: float) -> Value:
        """Logits from the middle of the network; x [N,14,14,C]."""
        b = self.b
        x = b.avg_pool2d(x, 5, 3, name="pool")  # [N,4,4,C]
        x = self.conv(x, 128, 1, "conv")  # [N,4,4,128]
        x = b.relu(b.dense(x, scaled(1024, self.width), name="dense1"))
        return b.dense(b.dropout(x, dropout), classes, name="dense2")
