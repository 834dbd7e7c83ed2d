"""Data sets, and the way from a data set to batches of normalised pictures.

`load` opens a data set by name or folder, `fetch` brings one onto this machine, `Loader` makes
batches; the readers of file formats are `idx`, `cifar`, `images` and `folder`.
"""

from .augment import Augment
from .dataset import Dataset, Splits, limited
from .fetch import fetch
from .images import read_image
from .loader import Batch, Loader, in_pixels
from .registry import REGISTRY, Entry
from .resolve import load

__all__ = [
    "REGISTRY",
    "Augment",
    "Batch",
    "Dataset",
    "Entry",
    "Loader",
    "Splits",
    "fetch",
    "in_pixels",
    "limited",
    "load",
    "read_image",
]
