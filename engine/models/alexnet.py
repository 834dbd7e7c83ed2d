"""AlexNet, in the form that won ImageNet 2012 and in its later single tower.

alexnet-2012: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep
convolutional neural networks". The two GPUs of the paper are two groups; responses are normalised
across channels (LRN), pools overlap. 60,965,224 parameters for 1000 classes.
alexnet: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks": one
tower, no LRN. 61,100,840 parameters.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import Torchvision, register_model, scaled

TORCHVISION = Torchvision({
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8",
    "conv5": "features.10", "dense6": "classifier.1", "dense7": "classifier.4",
    "dense8": "classifier.6",
})  # fmt: skip


@register_model("alexnet", input_shape=(224, 224, 3), classes=1000, torchvision=TORCHVISION)
def alexnet(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.5
) -> Value:
    """One tower: five convolutions (11x11, 5x5, three 3x3), overlapping pools; dense 4096, 4096.

    x [N,224,224,3]; `width` scales the number of filters and dense units.
    """
    x = b.conv2d(x, scaled(64, width), 11, stride=4, padding=2, name="conv1")  # [N,55,55,64]
    x = b.max_pool2d(b.relu(x), 3, 2, name="pool1")  # [N,27,27,64]
    x = b.conv2d(x, scaled(192, width), 5, padding=2, name="conv2")  # [N,27,27,192]
    x = b.max_pool2d(b.relu(x), 3, 2, name="pool2")  # [N,13,13,192]
    for layer, filters in ((3, 384), (4, 256), (5, 256)):  # [N,13,13,filters]
        x = b.relu(b.conv2d(x, scaled(filters, width), 3, padding=1, name=f"conv{layer}"))
    x = b.max_pool2d(x, 3, 2, name="pool5")  # [N,6,6,256]
    for layer in (6, 7):
        x = b.relu(b.dense(b.dropout(x, dropout), scaled(4096, width), name=f"dense{layer}"))
    return b.dense(x, classes, name="dense8")


@register_model("alexnet-2012", input_shape=(227, 227, 3), classes=1000)
def alexnet_2012(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.5
) -> Value:
    """The network of 2012: two groups of filters, LRN, overlapping pools; dense 4096, 4096.

    x [N,227,227,3]; `width` scales the number of filters and dense units.
    """
    x = b.relu(b.conv2d(x, scaled(96, width, 2), 11, stride=4, name="conv1"))  # [N,55,55,96]
    x = b.max_pool2d(b.lrn(x), 3, 2, name="pool1")  # [N,27,27,96]
    x = b.relu(b.conv2d(x, scaled(256, width, 2), 5, padding=2, groups=2, name="conv2"))
    x = b.max_pool2d(b.lrn(x), 3, 2, name="pool2")  # [N,13,13,256]
    for layer, filters, groups in ((3, 384, 1), (4, 384, 2), (5, 256, 2)):  # [N,13,13,filters]
        k = scaled(filters, width, 2)
        x = b.relu(b.conv2d(x, k, 3, padding=1, groups=groups, name=f"conv{layer}"))
    x = b.max_pool2d(x, 3, 2, name="pool5")  # [N,6,6,256]
    for layer in (6, 7):
        x = b.dropout(b.relu(b.dense(x, scaled(4096, width), name=f"dense{layer}")), dropout)
    return b.dense(x, classes, name="dense8")
