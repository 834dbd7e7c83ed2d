"""GoogLeNet, or Inception v1 (Szegedy et al. 2015, "Going deeper with convolutions").

The network of the paper: no batch norm but LRN after the first layers, pools that round up. Two
auxiliary heads give the layers in the middle a loss of their own while training, at 0.3 of the
weight. For 1000 classes 6,998,552 parameters, with the heads 13,378,280.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import register_model, scaled

AUXILIARY_WEIGHT = 0.3

# 1x1; 1x1, 3x3; 1x1, 5x5; 1x1 behind the pool: filters of each branch (table 1 of the paper)
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


@register_model("googlenet", input_shape=(224, 224, 3), classes=1000)
def googlenet(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.4,
    head_dropout: float = 0.7,
) -> Value:  # fmt: skip
    """Inception v1: nine modules of parallel 1x1, 3x3, 5x5 filters; auxiliary heads in training.

    x [N,224,224,3]; `width` scales the number of filters; `head_dropout` is that of the
    auxiliary heads.
    """
    x = b.relu(b.conv2d(x, scaled(64, width), 7, stride=2, padding=3, name="conv1"))
    x = _lrn(b, b.max_pool2d(x, 3, 2, ceil_mode=True, name="pool1"))  # [N,56,56,64]
    x = b.relu(b.conv2d(x, scaled(64, width), 1, name="conv2_reduce"))
    x = _lrn(b, b.relu(b.conv2d(x, scaled(192, width), 3, padding=1, name="conv2")))
    x = b.max_pool2d(x, 3, 2, ceil_mode=True, name="pool2")  # [N,28,28,192]
    for name, filters in INCEPTION.items():
        with b.scope(f"inception{name}"):
            x = _inception(b, x, tuple(scaled(count, width) for count in filters))
        # 3a, 3b [N,28,28,256], 480; 4a … 4e [N,14,14,512], …, 528, 832; 5a, 5b [N,7,7,832], 1024
        if name in ("4a", "4d") and b.training:
            with b.scope(f"auxiliary{name}"):
                b.auxiliary(_head(b, x, classes, width, head_dropout), AUXILIARY_WEIGHT)
        if name in ("3b", "4e"):
            x = b.max_pool2d(x, 3, 2, ceil_mode=True, name=f"pool{name[0]}")
    x = b.dropout(b.global_avg_pool2d(x), dropout)  # [N,1024]
    return b.dense(x, classes, name="dense")


def _lrn(b: GraphBuilder, x: Value) -> Value:
    return b.lrn(x, size=5, alpha=1e-4, beta=0.75, k=1.0)


def _inception(b: GraphBuilder, x: Value, filters: tuple[int, ...]) -> Value:
    """Four branches over one image, their channels side by side."""
    one, three_reduce, three, five_reduce, five, pooled = filters
    ones = b.relu(b.conv2d(x, one, 1, name="conv1x1"))
    threes = b.relu(b.conv2d(x, three_reduce, 1, name="conv3x3_reduce"))
    threes = b.relu(b.conv2d(threes, three, 3, padding=1, name="conv3x3"))
    fives = b.relu(b.conv2d(x, five_reduce, 1, name="conv5x5_reduce"))
    fives = b.relu(b.conv2d(fives, five, 5, padding=2, name="conv5x5"))
    pool = b.max_pool2d(x, 3, 1, padding=1, name="pool")
    pool = b.relu(b.conv2d(pool, pooled, 1, name="pool_conv"))
    return b.concat([ones, threes, fives, pool])


def _head(b: GraphBuilder, x: Value, classes: int, width: float, dropout: float) -> Value:
    """Logits from the middle of the network; x [N,14,14,C]."""
    x = b.avg_pool2d(x, 5, 3, name="pool")  # [N,4,4,C]
    x = b.relu(b.conv2d(x, scaled(128, width), 1, name="conv"))  # [N,4,4,128]
    x = b.relu(b.dense(x, scaled(1024, width), name="dense1"))
    return b.dense(b.dropout(x, dropout), classes, name="dense2")
