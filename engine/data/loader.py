"""From a data set to batches, a few steps ahead of the consumer.

The order of an epoch is a permutation keyed by (seed, epoch), so an epoch can be entered at any
batch. One thread prepares batches into a short queue; it ends with the epoch, or when the consumer
stops early, and its exceptions are raised in the consumer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ...kernels import philox
from ..errors import InputError
from .augment import Augment, Moves
from .dataset import Dataset
from .streams import SHUFFLE

QUEUE_BATCHES = 4

_DTYPES = {
    "uint8": np.dtype(np.uint8),
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, eq=False)
class Batch:
    """Batch `index` of an epoch: `images` [B, H, W, C] normalised, `labels` int32[B].

    `ids` int64[B] are the positions of the samples in the data set. With `moves` int32[B, 3] the
    images are uint8 as they are stored, and what `kernels.spec.normalise` does is left to do.
    """

    index: int
    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    moves: np.ndarray | None = None

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What a training step is fed with, by the names of its graph's inputs."""
        if self.moves is None:
            return {"x": self.images, "labels": self.labels}
        return {"images": self.images, "moves": self.moves, "labels": self.labels}


class Loader:
    """Batches of a data set, shuffled, augmented and normalised as `(x / 255 - mean) / std`.

    `mean` and `std` are per channel in units of 0 … 1. `dtype` is float32, float64, float16,
    bfloat16, or uint8 for images as they are stored and their moves, which a device that is better
    at it makes and normalises. The last batch may be smaller, or is left out with `drop_last`.

    Raises:
        InputError: the batch size, the channels, the dtype or the shift do not fit the data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None = None,
        shuffle: bool = True,
        dtype: str = "float32",
        drop_last: bool = False,
    ) -> None:
        """Check everything against the data set; no work starts before `epoch`."""
        if not 1 <= batch_size <= len(dataset):
            raise InputError(
                f"--batch-size {batch_size}: must be between 1 and the {len(dataset)} images"
                f" of {dataset.name!r}"
            )
        H, W, C = dataset.image_shape
        if len(mean) != C or len(std) != C:
            raise InputError(
                f"mean has {len(mean)} and std has {len(std)} values, but {dataset.name!r}"
                f" has {C} channels"
            )
        if min(std) <= 0:
            raise InputError(f"std {tuple(std)}: every value must be above 0")
        if dtype not in _DTYPES:
            raise InputError(f"dtype {dtype!r}: batches are {', '.join(_DTYPES)}")
        if augment is not None and augment.shift >= min(H, W):
            raise InputError(
                f"augmentation shift {augment.shift}: must be below the image's shorter side"
                f" ({min(H, W)} pixels)"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._dtype = _DTYPES[dtype]
        self._mean, self._scale = in_pixels(mean, std, dtype)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> np.ndarray:
        """The order in which `epoch` visits the samples, int64[N]."""
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count)
        return philox.permutation(philox.key(self.seed, epoch, SHUFFLE), count)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start_batch` on, prepared ahead by a thread.

        Raises:
            InputError: the epoch is negative or `start_batch` is not 0 … steps_per_epoch.
        """
        if epoch < 0:
            raise InputError(f"epoch {epoch}: must be 0 or more")
        if not 0 <= start_batch <= self.steps_per_epoch:
            raise InputError(
                f"start batch {start_batch}: an epoch of {self.dataset.name!r} has"
                f" {self.steps_per_epoch} batches of {self.batch_size}"
            )
        return ahead(self._batches(epoch, start_batch))

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        """The batches, one after the other, in the calling thread."""
        order = self.order(epoch)
        moves = None
        if self.augment is not None:
            moves = self.augment.draw(order, seed=self.seed, epoch=epoch)
        for index in range(start_batch, self.steps_per_epoch):
            chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
            ids = order[chosen]
            images, labels = self.dataset.images[ids], self.dataset.labels[ids]
            mine = None if moves is None else Moves(*(m[chosen] for m in moves))
            if self._dtype == np.uint8:
                yield Batch(index, images, labels, ids, _table(mine, len(ids)))
                continue
            if self.augment is not None and mine is not None:
                images = self.augment.move(images, mine)
            yield Batch(index, self._normalise(images), labels, ids)

    def _normalise(self, images: np.ndarray) -> np.ndarray:
        """`images` uint8[B, H, W, C] in the dtype of the batches, as `kernels.spec.normalise`."""
        out = images.astype(self._scale.dtype)
        out -= self._mean
        out *= self._scale
        return out.astype(self._dtype, copy=False)


def in_pixels(
    mean: Sequence[float], std: Sequence[float], dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """(255 mean, 1 / (255 std)) per channel: `(x - a) * b` normalises pixels of 0 … 255.

    Both are float32, for float64 images float64.
    """
    wide = np.float64 if dtype == "float64" else np.float32
    spread = 1.0 / (255.0 * np.asarray(std, np.float64))
    return (255.0 * np.asarray(mean, np.float64)).astype(wide), spread.astype(wide)


def _table(moves: Moves | None, count: int) -> np.ndarray:
    """`moves` as int32[count, 3]; None: nothing moves."""
    table = np.zeros((count, 3), np.int32)
    if moves is not None:
        for column, values in enumerate(moves):
            table[:, column] = values
    return table


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield `batches` while a thread prepares up to QUEUE_BATCHES more of them."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(QUEUE_BATCHES)
    stop = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(batches, ready, stop), name="cnnengine-loader", daemon=True
    )
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        _drain(ready)  # room for the one put that may be under way; after it the thread sees `stop`
        thread.join()


def _produce(
    batches: Iterator[Batch],
    ready: queue.Queue[Batch | BaseException | None],
    stop: threading.Event,
) -> None:
    """Put every batch, then None; an exception instead ends the row."""
    try:
        for batch in batches:
            ready.put(batch)
            if stop.is_set():
                return
        ready.put(None)
    except BaseException as error:
        ready.put(error)


def _drain(ready: queue.Queue[Batch | BaseException | None]) -> None:
    """Empty the queue without waiting."""
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return
