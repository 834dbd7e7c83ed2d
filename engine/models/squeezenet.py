"""SqueezeNet: few parameters through 1x1 squeezes (Iandola et al. 2016, arXiv 1602.07360).

squeezenet is the authors' version 1.1, which pools earlier: 1,235,496 parameters for 1000 classes.
"""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import Torchvision, register_model, scaled

FIRES = {  # (squeeze, expand) of the fire modules between two pools
    "pool1": ((16, 64), (16, 64)),
    "pool3": ((32, 128), (32, 128)),
    "pool5": ((48, 192), (48, 192), (64, 256), (64, 256)),
}

MODULES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}  # fire → torchvision's features.N
TORCHVISION = Torchvision({
    "conv1": "features.0", "conv10": "classifier.1",
    **{
        f"fire{number}/{layer}": f"features.{module}.{layer}"
        for number, module in MODULES.items()
        for layer in ("squeeze", "expand1x1", "expand3x3")
    },
})  # fmt: skip


@register_model("squeezenet", input_shape=(224, 224, 3), classes=1000, torchvision=TORCHVISION)
def squeezenet(
    b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0, dropout: float = 0.5,
    linear: bool = False,
) -> Value:  # fmt: skip
    """SqueezeNet 1.1: eight fire modules (1x1 squeeze, 1x1 and 3x3 expand), no dense layer.

    x [N,224,224,3]; `width` scales the number of filters; `linear` leaves out conv10's ReLU, which
    cuts off classes for good where there are few images to learn from.
    """
    x = b.relu(b.conv2d(x, scaled(64, width), 3, stride=2, name="conv1"))  # [N,111,111,64]
    number = 2
    for pool, fires in FIRES.items():
        x = b.max_pool2d(x, 3, 2, ceil_mode=True, name=pool)
        for squeeze, expand in fires:
            with b.scope(f"fire{number}"):
                x = fire(b, x, scaled(squeeze, width), scaled(expand, width))
            number += 1
        # [N,55,55,128], [N,27,27,256], [N,13,13,512]
    x = b.conv2d(b.dropout(x, dropout), classes, 1, name="conv10")  # [N,13,13,classes]
    return b.global_avg_pool2d(x if linear else b.relu(x))


def fire(b: GraphBuilder, x: Value, squeeze: int, expand: int) -> Value:
    """1x1 to `squeeze` channels, then 1x1 and 3x3 to `expand` each, side by side."""
    x = b.relu(b.conv2d(x, squeeze, 1, name="squeeze"))
    ones = b.relu(b.conv2d(x, expand, 1, name="expand1x1"))
    threes = b.relu(b.conv2d(x, expand, 3, padding="same", name="expand3x3"))
    return b.concat([ones, threes])
