"""Makes the embedded subset from the originals: the same input gives the same subset, always.

    python -m cnnengine.engine.data.make_mini --from DIR --out DIR

Per class the first images in a Philox permutation of the original split are taken; class follows
class in turn. Prints the fingerprint that `mini.py` holds the subset to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from ...kernels import philox
from ..errors import InputError
from .dataset import Dataset, fingerprint
from .fetch import read_source
from .mini import sheet_path, write_sheet
from .registry import FASHION_MNIST, FASHION_MNIST_MINI, Entry
from .streams import SUBSET

SEED = 2017


def subset(dataset: Dataset, per_class: int, step: int) -> np.ndarray:
    """Positions of `per_class` images of each class in turn, int64[per_class * classes].

    Raises:
        InputError: a class has fewer images.
    """
    order = philox.permutation(philox.key(SEED, step, SUBSET), len(dataset))
    labels = dataset.labels[order]
    columns = [order[labels == label][:per_class] for label in range(len(dataset.classes))]
    smallest = min(len(column) for column in columns)
    if smallest < per_class:
        raise InputError(f"{dataset.name}: a class has {smallest} images, {per_class} are wanted")
    return np.stack(columns, axis=1).reshape(-1)


def make(
    source: Path, out: Path, original: Entry = FASHION_MNIST, mini: Entry = FASHION_MNIST_MINI
) -> str:
    """Write both contact sheets to the folder `out` and return the fingerprint of the subset.

    Raises:
        InputError: the originals in `source` are missing, damaged or too few.
    """
    made = []
    datasets = original.datasets(read_source(original, source))
    for step, (split, dataset) in enumerate(zip(("train", "test"), datasets, strict=True)):
        chosen = subset(dataset, mini.counts[step][0], step)
        images, labels = dataset.images[chosen], dataset.labels[chosen]
        made.append(Dataset(f"{mini.name}/{split}", images, labels, mini.classes))
        write_sheet(sheet_path(out, split), images)
    return fingerprint(made[0], made[1])


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line; 2 means that the input was wrong."""
    parser = argparse.ArgumentParser(description="Make the embedded subset from the originals.")
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        print(make(options.source, options.out))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
