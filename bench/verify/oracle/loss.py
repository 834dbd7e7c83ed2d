"""Softmax cross-entropy, image by image."""

from __future__ import annotations

import numpy as np


def softmax_cross_entropy(logits, labels, op, grad_scale=None):
    images, classes = logits.shape
    scale = op.weight * (1.0 if grad_scale is None else float(grad_scale[0]))
    loss, dlogits = np.zeros(images), np.zeros(logits.shape)
    for n in range(images):
        shifted = logits[n] - logits[n].max()
        log_softmax = shifted - np.log(np.exp(shifted).sum())
        target = np.full(classes, op.label_smoothing / classes)
        target[labels[n]] += 1 - op.label_smoothing
        loss[n] = -(target * log_softmax).sum()
        dlogits[n] = (np.exp(log_softmax) - target) / images * scale
    return {"loss": loss, "dlogits": dlogits}
