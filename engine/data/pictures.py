"""Images of a data set as picture files: one sub-folder a class, as `folder` reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from .dataset import Dataset


def write_pictures(dataset: Dataset, folder: Path, each: int) -> int:
    """Write the first `each` images of every class as PNG; how many were written.

    `folder` must not exist. The file names count from 0 in each class; a `/` in the name of a class
    becomes a `-`.

    Raises:
        InputError: `folder` exists or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        written = 0
        for label, name in enumerate(dataset.classes):
            place = folder / name.replace("/", "-")
            place.mkdir()
            for i, at in enumerate(np.flatnonzero(dataset.labels == label)[:each]):
                pixels = dataset.images[at]
                picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
                picture.save(place / f"{i:04}.png")
                written += 1
    except FileExistsError:
        raise InputError(f"{folder} exists; name a folder that does not") from None
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from None
    return written
