"""Softmax cross-entropy on the CPU, in chunks of images.

With z = logits - max, which keeps exp(z) in (0, 1], and L = log sum exp(z):
    loss = L - (1 - s) * z[label] - s * mean(z),   softmax = exp(z) / sum exp(z).
"""

from __future__ import annotations

import numpy as np

from .. import spec
from ..errors import require
from ..spec import SoftmaxCrossEntropy
from ..spec.contract import Array, Out
from .compute import for_chunks, rows_per_chunk, store, widen


@spec.implements(spec.softmax_cross_entropy)
def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    loss: Out,
    dlogits: Out | None,
    *,
    op: SoftmaxCrossEntropy,
    grad_scale: Array | None = None,
) -> None:
    """The loss of every image and the gradient of their mean.

    Raises: ShapeError when a label is no class.
    """
    n, classes = logits.shape
    if n == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    inside = low >= 0 and high < classes
    rule = f"labels must lie in 0 … {classes - 1}"
    require(inside, "softmax_cross_entropy", rule, smallest=low, largest=high)
    smoothing = op.label_smoothing
    scale = op.weight / n * (1.0 if grad_scale is None else float(grad_scale[0]))

    def run(i: int, j: int) -> None:
        z = widen(logits[i:j])
        z = z - z.max(axis=1, keepdims=True)
        target = np.arange(j - i), labels[i:j]
        right = z[target]
        if smoothing:  # 0 * -inf would be NaN
            right = (1.0 - smoothing) * right + smoothing * z.mean(axis=1)
        np.exp(z, out=z)
        sums = z.sum(axis=1, keepdims=True)
        np.subtract(np.log(sums[:, 0]), right, out=loss[i:j])
        if dlogits is not None:
            z /= sums
            z -= smoothing / classes
            z[target] -= 1.0 - smoothing
            z *= scale
            store(z, dlogits[i:j])

    for_chunks(n, rows_per_chunk(classes), run)
