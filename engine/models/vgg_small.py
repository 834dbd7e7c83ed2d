"""vgg-small: VGG's recipe (Simonyan & Zisserman 2015) at the size of small grey images.

Three blocks of two 3x3 convolutions with ReLU and a 2x2 max pool, then two dense layers.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import register_model, scaled


@register_model("vgg-small", input_shape=(28, 28, 1))
def vgg_small(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.3
) -> Value:
    """Three blocks of two 3x3 convolutions (32-64-128 filters), dense 256, dropout, dense.

    x [N,H,W,C]; `width` scales the number of filters and dense units.
    """
    for block, filters in enumerate((32, 64, 128), start=1):  # [N,28,28] → [14,14] → [7,7]
        for layer in (1, 2):
            x = b.conv2d(x, scaled(filters, width), 3, padding="same", name=f"conv{block}_{layer}")
            x = b.relu(x)
        x = b.max_pool2d(x, 2, name=f"pool{block}")  # [N,14,14,32], [N,7,7,64], [N,3,3,128]
    x = b.relu(b.dense(x, scaled(256, width), name="dense1"))  # [N,256]
    x = b.dropout(x, dropout)
    return b.dense(x, classes, name="dense2")
