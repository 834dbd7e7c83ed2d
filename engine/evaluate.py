"""Evaluation: logits over a data set, turned into accuracy, loss and a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .data import Dataset
from .features import Features
from .network import Network

CHUNK = 1000  # images normalised at a time


@dataclass(frozen=True, eq=False)
class Evaluation:
    """accuracy in 0 … 1, mean cross-entropy, confusion int64[true class, predicted class]."""

    accuracy: float
    loss: float
    confusion: np.ndarray

    def recall(self) -> np.ndarray:
        """The share of each class's images that were recognised, float64[classes]; NaN if none."""
        totals = self.confusion.sum(axis=1)
        return np.divide(np.diag(self.confusion), totals, where=totals > 0,
                         out=np.full(len(totals), np.nan))  # fmt: skip

    def precision(self) -> np.ndarray:
        """The share of each class's verdicts that were right, float64[classes]; NaN if none."""
        totals = self.confusion.sum(axis=0)
        return np.divide(np.diag(self.confusion), totals, where=totals > 0,
                         out=np.full(len(totals), np.nan))  # fmt: skip


@np.errstate(invalid="ignore")
def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [N,K] logarithms of the class probabilities of logits [N,K]; NaN if one is inf."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def evaluate(network: Network, dataset: Dataset | Features) -> Evaluation:
    """Run every image of `dataset` (not shuffled, not augmented) through the network.

    A network that is cut takes a data set of features.
    """
    classes = len(network.description.classes)
    confusion = np.zeros((classes, classes), np.int64)
    total = 0.0
    for start in range(0, len(dataset), CHUNK):
        images = network.prepared(dataset.images[start : start + CHUNK])
        labels = dataset.labels[start : start + CHUNK]
        logits = network.logits(images)
        total -= float(log_softmax(logits)[np.arange(len(labels)), labels].sum())
        np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    return Evaluation(float(np.trace(confusion) / len(dataset)), total / len(dataset), confusion)
