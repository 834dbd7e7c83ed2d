"""A tiny data set and run for tests of training: 8x8 pictures of four classes, learnable."""

import numpy as np

from cnnengine.engine.checkpoint import RunFolder
from cnnengine.engine.config import TrainConfig
from cnnengine.engine.data.dataset import Dataset, make_splits
from cnnengine.engine.device import open_device
from cnnengine.engine.train import Trainer

CLASSES = ("north", "south", "east", "west")


def toy_splits(count=70, seed=0):
    """Grey 8x8 pictures: one bright half each, with noise; uint8 [N,8,8,1]."""
    rng = np.random.default_rng(seed)
    sets = []
    for split, size in (("train", count), ("test", 20)):
        labels = np.arange(size, dtype=np.int32) % 4
        images = rng.integers(0, 120, (size, 8, 8, 1))
        halves = [np.s_[:4], np.s_[4:], np.s_[:, 4:], np.s_[:, :4]]
        for image, label in zip(images, labels, strict=True):
            image[halves[label]] += 100
        sets.append(Dataset(f"toy {split}", images.astype(np.uint8), labels, CLASSES))
    return make_splits("toy", *sets)


def toy_config(**changes):
    """Three epochs of five steps of a narrow vgg-small; the last batch is smaller."""
    settings = {
        "data": "toy", "epochs": 3, "batch_size": 16, "shift": 1, "lr": 0.02,
        "options": {"width": 0.125}, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def toy_trainer(folder, splits=None, *, resumed=False, **changes):
    """A trainer with a fresh or existing run folder; frozen layers' outputs are kept beside it."""
    config = toy_config(**{"cache_dir": str(folder.parent / "cache"), **changes})
    run = RunFolder(folder)
    if not folder.exists():
        run.create()
    device = open_device(config.device, config.kernels, graphs=config.graph)
    return Trainer(config, splits or toy_splits(), device, run, resumed=resumed)
