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
from .augment import Augment
from .dataset import Dataset
from .streams import SHUFFLE

QUEUE_BATCHES = 4

_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, eq=False)
class Batch:
    """Batch `index` of an epoch: `images` [B, H, W, C] normalised, `labels` int32[B].

    `ids` int64[B] are the positions of the samples in the data set.
    """

    index: int
    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class Loader:
    """Batches of a data set, shuffled, augmented and normalised as `(x / 255 - mean) / std`.

    `mean` and `std` are per channel in units of 0 … 1. `dtype` is float32, float64, float16 or
    bfloat16. The last batch may be smaller, or is left out with `drop_last`.

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
                f"batch size {batch_size}: must be between 1 and the {len(dataset)} images"
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
        compute = np.float64 if dtype == "float64" else np.float32
        self._scale = (1.0 / (255.0 * np.asarray(std, np.float64))).astype(compute)
        self._shift = (-np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(compute)

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
        return _ahead(self._batches(epoch, start_batch))

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        """The batches, one after the other, in the calling thread."""
        order = self.order(epoch)
        moves = None
        if self.augment is not None:
            moves = self.augment.draw(order, seed=self.seed, epoch=epoch)
        for index in range(start_batch, self.steps_per_epoch):
            chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
            ids = order[chosen]
            images = self.dataset.images[ids]
            if self.augment is not None and moves is not None:
                images = self.augment.move(images, type(moves)(*(m[chosen] for m in moves)))
            yield Batch(index, self._normalise(images), self.dataset.labels[ids], ids)

    def _normalise(self, images: np.ndarray) -> np.ndarray:
        """`images` uint8[B, H, W, C] in the dtype of the batches: x * scale + shift."""
        out = images.astype(self._scale.dtype)
        out *= self._scale
        out += self._shift
        return out.astype(self._dtype, copy=False)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
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
