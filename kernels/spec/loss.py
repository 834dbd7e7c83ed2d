"""The contract of the loss: softmax cross-entropy with its gradient, in one pass.

With K classes, smoothing s and target t = (1 - s) * onehot(label) + s / K:
    loss_n = -sum over k of  t_k * log softmax(logits_n)_k
    dlogits_n = (softmax(logits_n) - t) / N * grad_scale     (the gradient of the mean loss)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import require
from .contract import (
    Array,
    Out,
    accumulator,
    contiguous,
    contract,
    disjoint,
    has_dtype,
    has_rank,
    has_shape,
    same_float,
)


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """`label_smoothing` in [0, 1) spreads that share of the target over all classes.

    `weight` multiplies the gradient, of a loss beside the main one; the loss is told without it.
    """

    label_smoothing: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        require(
            0.0 <= self.label_smoothing < 1.0,
            "softmax_cross_entropy",
            "label_smoothing must be in [0, 1)",
            label_smoothing=self.label_smoothing,
        )
        require(
            math.isfinite(self.weight),
            "softmax_cross_entropy",
            "weight must be finite",
            weight=self.weight,
        )


@contract()
def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    loss: Out,
    dlogits: Out | None,
    *,
    op: SoftmaxCrossEntropy,
    grad_scale: Array | None = None,
) -> None:
    """The loss of every image and, in the same pass, the gradient of their mean.

    logits and dlogits [N,K] of one float type; labels int32 [N] in 0 … K-1; loss [N] of the
    accumulator's type, unscaled. dlogits is `op.weight` times the gradient; `grad_scale` [1] of the
    accumulator's type multiplies it, too (loss scaling for float16). dlogits may be None
    (evaluation). Labels are checked where data are loaded; a backend that can look at them for free
    raises ShapeError for one out of range.

    Raises: ShapeError, DTypeError.
    """
    name = "softmax_cross_entropy"
    has_rank(name, 2, logits=logits)
    dtype = same_float(name, logits=logits, dlogits=dlogits)
    has_dtype(name, "int32", labels=labels)
    has_dtype(name, accumulator(dtype), loss=loss, grad_scale=grad_scale)
    n, k = logits.shape
    require(k >= 1, name, "needs at least one class", logits=tuple(logits.shape))
    has_shape(name, (n,), labels=labels, loss=loss)
    has_shape(name, (n, k), dlogits=dlogits)
    has_shape(name, (1,), grad_scale=grad_scale)
    contiguous(name, logits=logits, labels=labels, loss=loss, dlogits=dlogits)
    disjoint(name, loss, logits=logits, dlogits=dlogits)
