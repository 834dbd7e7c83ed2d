"""Softmax cross-entropy and its gradient in one launch, a warp an image (loss.cu)."""

from __future__ import annotations

from .. import spec
from ..spec import SoftmaxCrossEntropy
from ..spec.contract import Array, Out
from .group import THREADS
from .launch import Kernel, cdiv, launch, type_name, usable

IMAGES = THREADS // 32  # of a block: one for each of its warps


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
    """The loss of every image and the gradient of their mean; NaN where a label is no class."""
    arrays = {"logits": logits, "labels": labels, "loss": loss, "dlogits": dlogits}
    usable("softmax_cross_entropy", **arrays, grad_scale=grad_scale)
    images, classes = logits.shape
    launch(
        Kernel("loss.cu", f"softmax_cross_entropy_kernel<{type_name(logits)}>"),
        *(cdiv(images, IMAGES), THREADS, logits, labels, loss, dlogits, grad_scale),
        *(images, classes, float(op.label_smoothing), op.weight / max(images, 1)),
    )
