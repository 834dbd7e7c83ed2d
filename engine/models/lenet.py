"""LeNet-5 (LeCun et al. 1998) with today's parts: ReLU and max pooling."""

from __future__ import annotations

from ..build import GraphBuilder
from ..ir import Value
from . import register_model


@register_model("lenet", input_shape=(28, 28, 1))
def lenet(b: GraphBuilder, x: Value, classes: int) -> Value:
    """Two 5x5 convolutions (6, 16 filters), each with ReLU and a 2x2 max pool; dense 120, 84.

    x [N,28,28,1].
    """
    x = b.max_pool2d(b.relu(b.conv2d(x, 6, 5, padding="same", name="conv1")), 2)  # [N,14,14,6]
    x = b.max_pool2d(b.relu(b.conv2d(x, 16, 5, name="conv2")), 2)  # [N,5,5,16]
    x = b.relu(b.dense(x, 120, name="dense1"))
    x = b.relu(b.dense(x, 84, name="dense2"))
    return b.dense(x, classes, name="dense3")
