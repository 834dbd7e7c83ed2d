"""Evaluation: logits over a data set, turned into accuracy, loss and a confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .data import Dataset
from .errors import InputError
from .features import Features
from .network import Network

CHUNK = 1000  # answers looked at at a time, at least


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


def evaluate(
    network: Network, dataset: Dataset | Features, told: Callable[[int], None] = lambda _: None
) -> Evaluation:
    """Run every image of `dataset` (not shuffled, not augmented) through the network.

    `told` hears after each batch how many images are done. A network that is cut takes a data set
    of features. Raises: InputError when there are no images.
    """
    if len(dataset) == 0:
        raise InputError("nothing to evaluate: the data set has no images")
    classes = len(network.description.classes)
    losses, verdicts = np.empty(len(dataset)), np.empty(len(dataset), np.int64)
    done = 0
    for logits in _gathered(_counted(network.answers(dataset.images), told)):
        part = slice(done, done + len(logits))
        labels = dataset.labels[part]
        losses[part] = -log_softmax(logits)[np.arange(len(labels)), labels]
        verdicts[part] = logits.argmax(axis=1)
        done += len(logits)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (dataset.labels, verdicts), 1)
    return Evaluation(float(np.trace(confusion) / done), float(losses.sum() / done), confusion)


def _counted(answers: Iterable[np.ndarray], told: Callable[[int], None]) -> Iterator[np.ndarray]:
    done = 0
    for answer in answers:
        done += len(answer)
        told(done)
        yield answer


def _gathered(answers: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows, at least CHUNK at a time but for the last: each turn costs the same."""
    parts: list[np.ndarray] = []
    for answer in answers:
        parts.append(answer)
        if sum(map(len, parts)) >= CHUNK:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)
