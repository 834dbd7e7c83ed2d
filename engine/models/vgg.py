"""VGG: stacks of 3x3 convolutions (Simonyan & Zisserman 2015, "Very deep convolutional networks").

vgg16 is their configuration D: 13 convolutions and 3 dense layers, 138,357,544 parameters for
1000 classes.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import Torchvision, register_model, scaled

CONFIGURATION_D = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (filters, convolutions)

TORCHVISION = Torchvision({
    "conv1_1": "features.0", "conv1_2": "features.2", "conv2_1": "features.5",
    "conv2_2": "features.7", "conv3_1": "features.10", "conv3_2": "features.12",
    "conv3_3": "features.14", "conv4_1": "features.17", "conv4_2": "features.19",
    "conv4_3": "features.21", "conv5_1": "features.24", "conv5_2": "features.26",
    "conv5_3": "features.28", "dense1": "classifier.0", "dense2": "classifier.3",
    "dense3": "classifier.6",
})  # fmt: skip


@register_model("vgg16", input_shape=(224, 224, 3), classes=1000, torchvision=TORCHVISION)
def vgg16(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.5
) -> Value:
    """13 convolutions of 3x3 in five blocks, each ended by a 2x2 max pool; dense 4096, 4096.

    x [N,224,224,3]; `width` scales the number of filters and dense units.
    """
    for block, (filters, layers) in enumerate(CONFIGURATION_D, start=1):
        for layer in range(1, layers + 1):
            x = b.conv2d(x, scaled(filters, width), 3, padding="same", name=f"conv{block}_{layer}")
            x = b.relu(x)
        x = b.max_pool2d(x, 2, name=f"pool{block}")  # [N,112,112,64] … [N,7,7,512]
    for layer in (1, 2):
        x = b.relu(b.dense(x, scaled(4096, width), name=f"dense{layer}"))  # [N,4096]
        x = b.dropout(x, dropout)
    return b.dense(x, classes, name="dense3")
