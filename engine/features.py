"""What frozen layers make of each image: features, which training takes in place of images.

They are computed once and kept on disk (`feature_cache.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .data import Batch, Loader, Splits
from .data.loader import ahead
from .device import numpy_dtype
from .freeze import FEATURES

if TYPE_CHECKING:
    from .network import Network

FORMAT = 2  # of the entries on disk


@dataclass(frozen=True, eq=False)
class Features:
    """One split behind the frozen layers: `images` [N, ...] in their type, `labels` int32[N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Kept:
    """Both splits, the seconds that the frozen layers took for them, and what to tell people.

    `made`: now, not in an earlier run.
    """

    train: Features
    test: Features
    seconds: float
    made: bool
    note: str


class FeatureLoader:
    """Batches of features, in the order in which `loader` would give the images."""

    def __init__(self, loader: Loader, features: Features) -> None:
        """Nothing is read yet."""
        self._loader, self._features = loader, features
        self.steps_per_epoch = loader.steps_per_epoch

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start_batch` on, prepared ahead by a thread."""
        return ahead(self._batches(epoch, start_batch))

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        order, size = self._loader.order(epoch), self._loader.batch_size
        for index in range(start_batch, self.steps_per_epoch):
            ids = order[index * size : (index + 1) * size]
            found = self._features
            yield Batch(index, np.asarray(found.images[ids]), found.labels[ids], ids)


def key_of(network: Network, splits: Splits) -> str:
    """The SHA-256 that names the features of a data set behind the frozen layers of a network."""
    description = network.description
    digest = hashlib.sha256(
        json.dumps([
            FORMAT, str(network.front_graph(1)), splits.fingerprint, description.mean,
            description.std, description.precision, network.device.place,
        ]).encode()
    )  # fmt: skip
    for name, array in sorted(network.front_dict().items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def feature_bytes(network: Network, splits: Splits) -> int:
    """Bytes that the features of both splits take."""
    value = network.front_graph(1).outputs[FEATURES]
    count = len(splits.train) + len(splits.test)
    return count * math.prod(value.shape) * numpy_dtype(value.dtype).itemsize


def shapes_of(network: Network, splits: Splits) -> dict[str, tuple[int, ...]]:
    """Split → [N, ...], the shape of its features."""
    one = network.front_graph(1).outputs[FEATURES].shape[1:]
    return {"train": (len(splits.train), *one), "test": (len(splits.test), *one)}
