"""The data set inside the package, and the script that makes it."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from cnnengine.engine.data import load
from cnnengine.engine.data import make_mini as script
from cnnengine.engine.data.mini import EMBEDDED, FINGERPRINT, read_mini, sheet_path
from cnnengine.engine.data.registry import FASHION_MNIST_MINI
from cnnengine.engine.errors import InputError

from .data_helpers import CLASSES, pictures, toy_mnist, write_gzip

SPLITS = ("train", "test")


def test_mini__is_balanced_and_says_that_it_is_a_subset():
    splits = load("fashion-mnist-mini")
    assert splits.train.images.shape == (5000, 28, 28, 1)
    assert splits.test.images.shape == (1000, 28, 28, 1)
    assert splits.train.class_counts().tolist() == [500] * 10
    assert splits.test.class_counts().tolist() == [100] * 10
    assert splits.train.labels[:20].tolist() == [*range(10), *range(10)]
    assert splits.train.classes[9] == "Ankle boot"
    assert splits.note.startswith("Subset of Fashion-MNIST")
    assert splits.fingerprint == FINGERPRINT
    assert splits.mean == pytest.approx((0.2860,), abs=0.003)
    assert splits.std == pytest.approx((0.3530,), abs=0.003)


def test_mini__no_image_comes_twice():
    splits = load("fashion-mnist-mini")
    both = np.concatenate([splits.train.images, splits.test.images]).reshape(6000, -1)
    assert len(np.unique(both, axis=0)) >= 5995


def test_mini__is_small_and_carries_its_licence():
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 3_000_000
    licence = (EMBEDDED / "LICENSE.fashion-mnist").read_text("utf-8")
    assert "Copyright (c) 2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence
    assert "subset" in licence


def change_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-5000]),
        lambda path: path.write_bytes(b""),
        change_a_byte,
        lambda path: shutil.copy(sheet_path(path.parent, "test"), path),
    ],
)
def test_read_mini__damaged_package_is_told_in_one_line(tmp_path, harm):
    for split in SPLITS:
        shutil.copy(sheet_path(EMBEDDED, split), tmp_path)
    assert len(read_mini(tmp_path)[0]) == 5000
    harm(sheet_path(tmp_path, "train"))
    with pytest.raises(InputError, match=r"the package's own data is damaged; install it again$"):
        read_mini(tmp_path)


@pytest.fixture
def toy_originals(tmp_path):
    """A toy original of 3 classes, its folder, and what the toy subset is to be."""
    original, files = toy_mnist(train=330, test=180)
    mini = dataclasses.replace(FASHION_MNIST_MINI, classes=CLASSES, counts=((100,) * 3, (50,) * 3))
    return original, write_gzip(tmp_path / "source", files), mini


def test_make_mini__same_input_same_bytes(tmp_path, toy_originals):
    original, source, mini = toy_originals
    places = tmp_path / "one", tmp_path / "two"
    prints = []
    for place in places:
        place.mkdir()
        prints.append(script.make(source, place, original, mini))
    assert prints[0] == prints[1]
    for split in SPLITS:
        first, second = (sheet_path(place, split).read_bytes() for place in places)
        assert first == second
    train, test = read_mini(places[0], prints[0], mini)
    assert train.class_counts().tolist() == [100] * 3
    assert test.class_counts().tolist() == [50] * 3


def test_make_mini__takes_images_with_their_own_labels(tmp_path, toy_originals):
    original, source, mini = toy_originals
    train, _ = read_mini(tmp_path, script.make(source, tmp_path, original, mini), mini)
    position = {image.tobytes(): i for i, image in enumerate(pictures(330, seed=1))}
    origins = [position[image.tobytes()] for image in train.images]
    assert [origin % 3 for origin in origins] == train.labels.tolist()
    assert len(set(origins)) == 300
    assert origins != sorted(origins)


def test_make_mini__too_few_originals(tmp_path, toy_originals):
    original, source, mini = toy_originals
    greedy = dataclasses.replace(mini, counts=((150,) * 3, (50,) * 3))
    with pytest.raises(InputError, match="a class has 110 images, 150 are wanted"):
        script.make(source, tmp_path, original, greedy)


def test_make_mini__command_line_names_what_is_missing(tmp_path, capsys):
    assert script.main(["--from", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
