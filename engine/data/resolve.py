"""From a name or a path to a data set in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError, unknown_name
from .dataset import Dataset, Splits, make_splits
from .fetch import read_cached
from .folder import read_folder
from .images import Size, check_channels, convert, height_width
from .mini import read_mini
from .registry import REGISTRY, Entry


def load(
    name_or_path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    skip_bad: bool = False,
    image_size: Size | None = None,
    channels: int | None = None,
    seed: int = 0,
    registry: Mapping[str, Entry] = REGISTRY,
) -> Splits:
    """The data set of that name, or else the folder of images at that path; never downloads.

    `image_size` ((height, width) in pixels, or one number for a square) and `channels` (1 or 3)
    convert the images; None keeps what they have. `skip_bad` and `seed` (of the split) matter to
    folders only. `./mnist` is the folder, `mnist` the name.

    Raises:
        InputError: unknown name, a data set not yet fetched, or content that is not sound.
    """
    name = str(name_or_path)
    if name in registry:
        return _load_named(registry[name], cache_dir, image_size, channels)
    path = Path(name)
    if path.is_dir():
        return read_folder(
            path, image_size=image_size, channels=channels, skip_bad=skip_bad, seed=seed
        )
    if path.exists():
        raise InputError(f"{path}: a file; a data set is a name or a folder of images")
    problem = unknown_name("data set", name, registry)
    raise InputError(f"{problem}; or an existing folder of images, one sub-folder a class")


def _load_named(
    entry: Entry, cache_dir: str | Path | None, image_size: Size | None, channels: int | None
) -> Splits:
    """A registered data set, converted where another size or depth is wanted."""
    size = None if image_size is None else height_width(image_size)
    if channels is not None:
        check_channels(channels)
    train, test = read_mini() if entry.embedded else entry.datasets(read_cached(entry, cache_dir))
    note = entry.description
    wanted = (size or train.image_shape[:2], channels or train.image_shape[2])
    if (*wanted[0], wanted[1]) != train.image_shape:
        note += f"; converted to {wanted[0][0]}x{wanted[0][1]}x{wanted[1]}"
        train, test = (_converted(split, *wanted) for split in (train, test))
    return make_splits(entry.name, train, test, note)


def _converted(dataset: Dataset, size: tuple[int, int], channels: int) -> Dataset:
    """The data set with every image scaled to `size` = (height, width) and `channels`."""
    pixels = dataset.images[..., 0] if dataset.image_shape[2] == 1 else dataset.images
    images = np.stack([convert(Image.fromarray(image), size, channels) for image in pixels])
    return Dataset(dataset.name, images, dataset.labels, dataset.classes)
