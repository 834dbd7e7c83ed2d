"""What a data set is once it is in memory: pictures, labels, the names of the classes.

Pixels stay uint8 until a batch is made; `Splits` carries the numbers that normalise them and a
fingerprint of the content, by which a resumed run refuses to go on with other data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

_STATISTICS_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split: `images` uint8[N, H, W, C], `labels` int32[N] below `len(classes)`.

    Raises:
        InputError: an array has another shape or type, or a label is out of range.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the arrays against each other and against the classes."""
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InputError(
                f"data set {self.name!r}: images must be uint8[N, H, W, C],"
                f" not {images.dtype}{list(images.shape)}"
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise InputError(
                f"data set {self.name!r}: labels must be int32[{len(images)}],"
                f" not {labels.dtype}{list(labels.shape)}"
            )
        if len(labels) == 0:
            raise InputError(f"data set {self.name!r} has no images")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            wrong = low if low < 0 else high
            raise InputError(
                f"data set {self.name!r}: label {wrong} is outside"
                f" 0 … {len(self.classes) - 1} ({len(self.classes)} classes)"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def class_counts(self) -> np.ndarray:
        """How many images each class has, int64[classes]."""
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set: its two splits and what a run must know of them.

    `mean` and `std` are per channel, of the train images in units of 0 … 1 (`std` is 1 for a
    channel that never changes). `fingerprint` is the SHA-256 of the decoded content. `note` says
    in words what was done (subset, split rule); `skipped` lists the files left out, with reasons.
    """

    name: str
    train: Dataset
    test: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    note: str = ""
    skipped: tuple[str, ...] = ()

    def whole(self) -> Dataset:
        """Both splits as one, the train images first."""
        images, labels = (
            np.concatenate([getattr(split, name) for split in (self.train, self.test)])
            for name in ("images", "labels")
        )
        return Dataset(f"{self.name}/all", images, labels, self.test.classes)


def make_splits(
    name: str, train: Dataset, test: Dataset, note: str = "", skipped: tuple[str, ...] = ()
) -> Splits:
    """Join two splits and compute the mean, the standard deviation and the fingerprint."""
    mean, std = channel_statistics(train.images)
    return Splits(name, train, test, mean, std, fingerprint(train, test), note, skipped)


def limited(splits: Splits, count: int) -> Splits:
    """The first `count` training images and at most as many test images, classes taking turns.

    Raises:
        InputError: there are fewer training images.
    """
    if count > len(splits.train):
        raise InputError(
            f"{count} images asked for, but {splits.name!r} has {len(splits.train)} to train on"
        )
    note = f"{splits.note}; {count} images of each split at most"
    train, test = (_first(split, count) for split in (splits.train, splits.test))
    return make_splits(splits.name, train, test, note, splits.skipped)


def _first(dataset: Dataset, count: int) -> Dataset:
    labels = dataset.labels
    turn = np.empty(len(labels), np.int64)  # how many of its class come before an image
    for label in range(len(dataset.classes)):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    kept = np.sort(np.lexsort((labels, turn))[:count])
    return Dataset(dataset.name, dataset.images[kept], labels[kept], dataset.classes)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `images` uint8[N, H, W, C], in 0 … 1 units.

    They come from exact counts of the 256 values, so they do not depend on any order of summing.
    """
    values = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in range(images.shape[3]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _STATISTICS_CHUNK):
            chunk = images[start : start + _STATISTICS_CHUNK, :, :, channel]
            counts += np.bincount(chunk.reshape(-1), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        deviation = float(np.sqrt(share @ (values - mean) ** 2))
        means.append(mean)
        deviations.append(deviation if np.count_nonzero(counts) > 1 else 1.0)
    return tuple(means), tuple(deviations)


def fingerprint(train: Dataset, test: Dataset) -> str:
    """SHA-256 (64 hex digits) over shapes, pixels, labels and class names of both splits."""
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(repr((split.images.shape, split.classes)).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, dtype="<i4").data)
    return digest.hexdigest()
