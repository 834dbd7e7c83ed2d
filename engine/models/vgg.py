"""VGG: stacks of 3x3 convolutions (Simonyan & Zisserman 2015, "Very deep convolutional networks").

vgg16 is their configuration D: 13 convolutions and 3 dense layers, 138,357,544 parameters for
1000 classes.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import register_model

CONFIGURATION_D = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (filters, convolutions)


@register_model("vgg16", input_shape=(224, 224, 3), classes=1000)
def vgg16(b: GraphBuilder, x: Value, classes: int, *, dropout: float = 0.5) -> Value:
    """13 convolutions of 3x3 in five blocks, each ended by a 2x2 max pool; dense 4096, 4096.

    x [N,224,224,3].
    """
    for block, (filters, layers) in enumerate(CONFIGURATION_D, start=1):
        for layer in range(1, layers + 1):
            x = b.relu(b.conv2d(x, filters, 3, padding="same", name=f"conv{block}_{layer}"))
        x = b.max_pool2d(x, 2, name=f"pool{block}")  # [N,112,112,64] … [N,7,7,512]
    for layer in (1, 2):
        x = b.dropout(b.relu(b.dense(x, 4096, name=f"dense{layer}")), dropout)  # [N,4096]
    return b.dense(x, classes, name="dense3")
