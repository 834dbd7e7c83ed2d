"""What frozen layers gave, kept on disk so that it is computed once.

    CACHE/KEY/entry.json           shapes, element type, CRC-32 of both files, how long it took
    CACHE/KEY/train.bin, test.bin  one array each, memory-mapped while training

KEY is a SHA-256 over all that decides the numbers: the graph of the frozen layers, their weights
and states, the data, the normalisation, and the kernels. An entry is written beside its place and
renamed, so it is whole or not there, also when two processes make it at once. Files that are
removed while a process reads them stay readable for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs

from .data import Loader, Splits
from .device import numpy_dtype
from .errors import InputError
from .features import FORMAT, Features, Kept, feature_bytes, key_of, shapes_of
from .files import check_folder, remove
from .freeze import FEATURES

if TYPE_CHECKING:
    from .network import Network

CHUNK = 64 << 20  # bytes of features that are made or checked at a time
ENTRY = "entry.json"
KEY = re.compile(r"[0-9a-f]{64}")  # nothing else in the folder is ours to remove
UNFINISHED = re.compile(r"\.[0-9a-f]{16}-.*\.part")
ABANDONED_SECONDS = 60  # after which an unfinished entry that nobody holds is removed


class FeatureCache:
    """A folder of entries, the least recently used removed where they take too much room."""

    def __init__(self, folder: str, most_bytes: float) -> None:
        """Keep at most so many bytes in `folder`, or in the user's cache if that is ""."""
        user = platformdirs.user_cache_path("cnnengine") / "features"
        self.folder = Path(folder) if folder else user
        self.most_bytes = most_bytes

    def check(self) -> None:
        """Whether the folder is there or can be made. Raises: InputError."""
        check_folder(self.folder, "--cache-dir")

    def get(
        self, network: Network, splits: Splits, in_order: Loader, stopped: Callable[[], bool]
    ) -> Kept | None:
        """The features of both splits, from disk or else made now; None when `stopped`.

        `in_order` gives the training images as they are stored, in their order in the data set.

        Raises: InputError when the folder cannot be written.
        """
        key = key_of(network, splits)
        place, shapes = self.folder / key, shapes_of(network, splits)
        dtype = network.front_graph(1).outputs[FEATURES].dtype
        size = feature_bytes(network, splits)
        try:
            kept, damage = _open(place, shapes, dtype, splits)
            if kept is not None:
                with contextlib.suppress(OSError):
                    os.utime(place / ENTRY)  # used now
                return kept
            if damage:
                remove(place)
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self._due(size):
                shutil.rmtree(path, ignore_errors=True)
            told = _make(place, network, splits, in_order, stopped)
        except OSError as error:
            raise self._refusal(size, error.strerror or str(error)) from None
        if told is None:
            return None
        arrays, seconds = told
        note = (
            f"ran the frozen layers once over {len(splits.train)} + {len(splits.test)} images in "
            f"{seconds:.1f} s; kept {size / 1e6:.0f} MB in {place}"
        )
        return _kept(arrays, splits, seconds, f"{damage}; {note}" if damage else note, made=True)

    def check_room(self, network: Network, splits: Splits) -> None:
        """Whether the disk can take the features of both splits, unless they are there already.

        Removes and writes nothing. Raises: InputError.
        """
        if os.path.lexists(self.folder / key_of(network, splits)):
            return
        size = feature_bytes(network, splits)
        there = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        try:
            free = shutil.disk_usage(there).free
            if there == self.folder:
                free += sum(map(_bytes, self._due(size)))
        except OSError as error:
            raise self._refusal(size, error.strerror or str(error)) from None
        if not os.access(there, os.W_OK | os.X_OK):
            raise self._refusal(size, f"nothing may be written in {there}")
        if free < size:
            raise self._refusal(size, f"the disk has room for {free / 1e6:.0f} MB")

    def _refusal(self, size: int, why: str) -> InputError:
        return InputError(
            f"cannot keep the outputs of the frozen layers ({size / 1e6:.0f} MB) in {self.folder}: "
            f"{why}; give another --cache-dir, or --cache-gb 0 to run the frozen layers in every "
            "step"
        )

    def _due(self, size: int) -> list[Path]:
        """What goes before `size` bytes come: what was abandoned, the least recently used."""
        due, found = [], []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if UNFINISHED.fullmatch(path.name):
                    due += [path] * _is_abandoned(path)
                elif KEY.fullmatch(path.name):
                    found.append(((path / ENTRY).stat().st_mtime, _bytes(path), path))
        taken = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if taken + size <= self.most_bytes:
                break
            due.append(path)
            taken -= bytes_
        return due


def _bytes(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())


def _kept(
    arrays: dict[str, np.ndarray], splits: Splits, seconds: float, note: str, *, made: bool
) -> Kept:
    train = Features(arrays["train"], splits.train.labels)
    return Kept(train, Features(arrays["test"], splits.test.labels), seconds, made, note)


def _open(
    place: Path, shapes: dict[str, tuple[int, ...]], dtype: str, splits: Splits
) -> tuple[Kept | None, str]:
    """An entry, its content checked; or None and what is wrong with it ("": it is not there)."""
    if not os.path.lexists(place):
        return None, ""
    arrays = {}
    try:
        told = json.loads((place / ENTRY).read_bytes())
        for split, shape in shapes.items():
            arrays[split] = _mapped(place, split, shape, dtype)
            if _checksum(arrays[split]) != told["crc32"][split]:
                return None, f"{place / f'{split}.bin'} was damaged"
        seconds = float(told["seconds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, f"{place} was damaged"
    note = f"took the outputs of the frozen layers from {place}"
    return _kept(arrays, splits, seconds, note, made=False), ""


def _mapped(place: Path, split: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    path, kind = place / f"{split}.bin", numpy_dtype(dtype)
    if path.stat().st_size != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{path} has another size")
    return np.memmap(path, kind, "r", shape=shape)


def _checksum(array: np.ndarray) -> int:
    total, rows = 0, _rows(array[:1])
    for start in range(0, len(array), rows):
        total = zlib.crc32(array[start : start + rows].reshape(-1).view(np.uint8).data, total)
    return total


def _rows(one: np.ndarray) -> int:
    return max(1, CHUNK // max(1, one.nbytes))


def _make(
    place: Path, network: Network, splits: Splits, in_order: Loader, stopped: Callable[[], bool]
) -> tuple[dict[str, np.ndarray], float] | None:
    """Run the frozen layers and put the entry in its place; the arrays and seconds, mapped."""
    part = Path(tempfile.mkdtemp(prefix=f".{place.name[:16]}-", suffix=".part", dir=place.parent))
    handle = os.open(part, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        seconds, sums, arrays = 0.0, {}, {}
        for split, shape in shapes_of(network, splits).items():
            images = _images(splits, split, in_order)
            written = _write(part / f"{split}.bin", network, images, stopped)
            if written is None:
                return None
            dtype, sums[split], spent = written
            seconds += spent
            arrays[split] = _mapped(part, split, shape, dtype)
        told = {"format": FORMAT, "crc32": sums, "seconds": seconds}
        (part / ENTRY).write_text(json.dumps(told), encoding="utf-8")
        with contextlib.suppress(OSError):  # another process was first: same content
            os.rename(part, place)
        return arrays, seconds
    finally:
        os.close(handle)
        shutil.rmtree(part, ignore_errors=True)  # gone where it was renamed


def _images(splits: Splits, split: str, in_order: Loader) -> Iterator[np.ndarray]:
    """The uint8 images of a split, some at a time."""
    if split == "train":
        for batch in in_order.epoch(0):
            yield batch.images
        return
    images, size = splits.test.images, in_order.batch_size
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _write(
    path: Path, network: Network, images: Iterator[np.ndarray], stopped: Callable[[], bool]
) -> tuple[str, int, float] | None:
    """Write the features of all images; None when `stopped`.

    Returns: (element type, CRC-32, seconds in the network).
    """
    total, dtype, seconds = 0, "", 0.0
    with open(path, "wb") as file:
        for batch in images:
            if stopped():
                return None
            begun = time.perf_counter()
            found = network.features(batch)
            seconds += time.perf_counter() - begun
            content = found.reshape(-1).view(np.uint8).data
            dtype, total = str(found.dtype), zlib.crc32(content, total)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return dtype, total, seconds


def _is_abandoned(part: Path) -> bool:
    """Whether a process left it unfinished, and none still works on it."""
    if time.time() - part.stat().st_mtime < ABANDONED_SECONDS:
        return False
    handle = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
