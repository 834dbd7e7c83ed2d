"""ResNet: every block adds to what it was given (He et al. 2016, "Deep residual learning").

Parameters for 1000 classes: resnet18 11,689,512, resnet50 25,557,032. In resnet50 the 3x3
convolution of a block takes the stride, not the 1x1 before it: the usual form since, with the same
parameters.
"""

from __future__ import annotations

from collections.abc import Callable

from ..build import GraphBuilder
from ..geometry import Padding
from ..ir import Value
from . import Torchvision, register_model, scaled

FILTERS = (64, 128, 256, 512)  # of the four stages
Branch = Callable[[GraphBuilder, Value, int, int], Value]

IN_BLOCK = {
    **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)}, **{f"norm{i}": f"bn{i}" for i in (1, 2, 3)},
    "conv_shortcut": "downsample.0", "norm_shortcut": "downsample.1",
}  # fmt: skip
TORCHVISION = Torchvision({
    "conv1": "conv1", "norm1": "bn1", "dense": "fc",
    **{
        f"block{stage}_{block}/{ours}": f"layer{stage - 1}.{block - 1}.{theirs}"
        for stage in (2, 3, 4, 5)
        for block in range(1, 7)
        for ours, theirs in IN_BLOCK.items()
    },
})  # fmt: skip


@register_model("resnet18", input_shape=(224, 224, 3), classes=1000, torchvision=TORCHVISION)
def resnet18(b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0) -> Value:
    """Residual network of 18 layers: four stages of two blocks of two 3x3 convolutions.

    x [N,224,224,3]; `width` scales the number of filters.
    """
    return _resnet(b, x, classes, (2, 2, 2, 2), _basic, width)


@register_model("resnet50", input_shape=(224, 224, 3), classes=1000, torchvision=TORCHVISION)
def resnet50(b: GraphBuilder, x: Value, classes: int, *, width: float = 1.0) -> Value:
    """Residual network of 50 layers: 3, 4, 6 and 3 blocks of 1x1, 3x3, 1x1 convolutions.

    x [N,224,224,3]; `width` scales the number of filters.
    """
    return _resnet(b, x, classes, (3, 4, 6, 3), _bottleneck, width)


def _resnet(
    b: GraphBuilder, x: Value, classes: int, blocks: tuple[int, ...], branch: Branch, width: float
) -> Value:
    x = b.relu(_conv_norm(b, x, scaled(64, width), 7, 2, 3, "1"))  # [N,112,112,64]
    x = b.max_pool2d(x, 3, 2, padding=1, name="pool1")  # [N,56,56,64]
    for stage, (filters, count) in enumerate(zip(FILTERS, blocks, strict=True), start=2):
        for block in range(1, count + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            with b.scope(f"block{stage}_{block}"):
                y = branch(b, x, scaled(filters, width), stride)
                if y.shape != x.shape:
                    x = _conv_norm(b, x, y.shape[3], 1, stride, 0, "_shortcut")
                x = b.relu(b.add(y, x))
        # [N,56,56,64], [N,28,28,128], [N,14,14,256], [N,7,7,512]; four times as deep in resnet50
    return b.dense(b.global_avg_pool2d(x), classes, name="dense")


def _conv_norm(
    b: GraphBuilder, x: Value, filters: int, kernel: int, stride: int, padding: Padding, name: str
) -> Value:
    x = b.conv2d(x, filters, kernel, stride=stride, padding=padding, bias=False, name=f"conv{name}")
    return b.batch_norm(x, name=f"norm{name}")


def _basic(b: GraphBuilder, x: Value, filters: int, stride: int) -> Value:
    """Two 3x3 convolutions; x [N,H,W,C] → [N,P,Q,filters]."""
    x = b.relu(_conv_norm(b, x, filters, 3, stride, 1, "1"))
    return _conv_norm(b, x, filters, 3, 1, 1, "2")


def _bottleneck(b: GraphBuilder, x: Value, filters: int, stride: int) -> Value:
    """A 3x3 convolution between two of 1x1; x [N,H,W,C] → [N,P,Q,4*filters]."""
    x = b.relu(_conv_norm(b, x, filters, 1, 1, 0, "1"))
    x = b.relu(_conv_norm(b, x, filters, 3, stride, 1, "2"))
    return _conv_norm(b, x, 4 * filters, 1, 1, 0, "3")
