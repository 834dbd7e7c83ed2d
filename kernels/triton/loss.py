"""Softmax cross-entropy and its gradient in one launch: each image's logits stay on the chip.

A program takes BLOCK_IMAGES rows and walks over their classes twice. The first walk keeps the
running maximum m and the sum of exp(z - m), scaled down whenever m grows (Milakov & Gimelshein
2018, "Online normalizer calculation for softmax"); the second, which finds the row in the cache,
writes the gradient:

    loss = log(sum exp(z - m)) - (1 - s) * (z[label] - m) - s * (mean(z) - m)
    dlogits = (exp(z - m) / sum - (1 - s) * onehot(label) - s / K) * weight / N * grad_scale

A label that is no class cannot be refused without waiting for the GPU: it makes NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import spec
from ..spec import SoftmaxCrossEntropy
from ..spec.contract import Array, Out
from .launch import cdiv, launch, narrow, usable, wide
from .tiles import row_tile

TILE = 2048  # logits of a program at a time


@triton.jit
def _softmax_cross_entropy_kernel(
    logits,  # [N, K]
    labels,  # int32 [N]
    loss,  # float32 [N]
    dlogits,  # [N, K] or None
    grad_scale,  # float32 [1] or None
    images,
    classes,
    smoothing,
    share,  # weight / N
    SMOOTH: tl.constexpr,  # smoothing > 0: else 0 * -inf would be NaN
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_IMAGES + tl.arange(0, BLOCK_IMAGES)
    row = n.to(tl.int64)[:, None] * classes
    k = tl.arange(0, BLOCK_CLASSES)[None, :]
    label = tl.load(labels + n, mask=n < images, other=0)
    most = tl.full((BLOCK_IMAGES,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_IMAGES,), tl.float32)  # of exp(z - most)
    right = tl.zeros((BLOCK_IMAGES,), tl.float32)  # z[label]
    plain = tl.zeros((BLOCK_IMAGES,), tl.float32)  # of z
    for start in range(0, classes, BLOCK_CLASSES):
        inside = (n < images)[:, None] & (start + k < classes)
        z = wide(tl.load(logits + row + (start + k), mask=inside, other=0.0))
        higher = tl.maximum(most, tl.max(tl.where(inside, z, float("-inf")), axis=1))
        new = tl.where(inside, tl.exp(z - higher[:, None]), 0.0)
        total = total * tl.exp(most - higher) + tl.sum(new, axis=1)
        most = higher
        right += tl.sum(tl.where(start + k == label[:, None], z, 0.0), axis=1)
        plain += tl.sum(z, axis=1)
    total = tl.where((label >= 0) & (label < classes), total, float("nan"))
    right -= most
    if SMOOTH:
        right = (1.0 - smoothing) * right + smoothing * (plain / classes - most)
    tl.store(loss + n, tl.log(total) - right, mask=n < images)
    if dlogits is not None:
        if grad_scale is not None:
            share = share * tl.load(grad_scale)
        for start in range(0, classes, BLOCK_CLASSES):
            inside = (n < images)[:, None] & (start + k < classes)
            z = wide(tl.load(logits + row + (start + k), mask=inside, other=0.0))
            gradient = tl.exp(z - most[:, None]) / total[:, None]
            target = tl.where(start + k == label[:, None], 1.0 - smoothing, 0.0)
            if SMOOTH:
                target += smoothing / classes
            gradient = (gradient - target) * share
            at = dlogits + row + (start + k)
            tl.store(at, narrow(gradient, dlogits.dtype.element_ty), mask=inside)


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
    rows, columns = row_tile(classes, TILE)
    rows = min(rows, 16)  # enough programs for small batches
    launch(
        _softmax_cross_entropy_kernel,
        cdiv(images, rows),
        *(logits, labels, loss, dlogits, grad_scale),
        *(images, classes, op.label_smoothing, op.weight / max(images, 1)),
        SMOOTH=op.label_smoothing > 0,
        BLOCK_IMAGES=rows,
        BLOCK_CLASSES=columns,
    )
