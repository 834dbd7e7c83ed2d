"""IDX and CIFAR files, sound and damaged, and single pictures of every mode."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from cnnengine.engine.data.cifar import RECORD, parse_cifar, read_cifar
from cnnengine.engine.data.dataset import (
    Dataset,
    channel_statistics,
    fingerprint,
    limited,
    make_splits,
)
from cnnengine.engine.data.files import read_members, write_atomically
from cnnengine.engine.data.idx import parse_idx, parse_pair, read_idx
from cnnengine.engine.errors import InputError

from .data_helpers import (
    CLASSES,
    cifar_bytes,
    cycle_labels,
    idx_bytes,
    pictures,
    tar_gz,
    toy_dataset,
)


@pytest.mark.parametrize("packed", [False, True])
def test_read_idx__plain_or_gzip(tmp_path, packed):
    images = pictures(5, side=7)
    data = idx_bytes(images)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(data) if packed else data)
    np.testing.assert_array_equal(read_idx(path, 3), images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:9], "truncated in its header"),
        (lambda data: data[:2], "truncated in its header"),
        (lambda data: data + b"\0", "trailing bytes"),
        (lambda data: b"\0\0\x09\x03" + data[4:], "magic number 0x00000903"),
        (lambda data: b"\0\0\x08\x01" + data[4:], "magic number 0x00000801"),
        (lambda data: b"", "not an IDX file"),
    ],
)
def test_parse_idx__damaged_names_file_and_rule(change, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_idx(change(idx_bytes(pictures(4, side=5))), 3, "the-file")
    assert str(caught.value).startswith("the-file")
    assert "\n" not in str(caught.value)


def test_parse_pair__counts_differ():
    with pytest.raises(InputError, match="4 images but 3 labels"):
        parse_pair(idx_bytes(pictures(4)), idx_bytes(cycle_labels(3)), 3, "train")


def test_parse_pair__label_out_of_range():
    with pytest.raises(InputError, match=r"label 2 is outside 0 … 1"):
        parse_pair(idx_bytes(pictures(4)), idx_bytes(cycle_labels(4)), 2, "train")


def test_read_idx__missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: cannot be read \(No such file"):
        read_idx(tmp_path / "nowhere", 3)


@pytest.mark.parametrize("change", [lambda b: b[:-20], lambda b: b[:30] + b"\xff" + b[31:]])
def test_read_idx__damaged_gzip(tmp_path, change):
    path = tmp_path / "images.gz"
    path.write_bytes(change(gzip.compress(idx_bytes(pictures(4)), mtime=0)))
    with pytest.raises(InputError, match=r"images\.gz: damaged gzip file"):
        read_idx(path, 3)


def test_read_cifar__planes_become_channels(tmp_path):
    record = bytes([1]) + bytes(1024 * [10]) + bytes(1024 * [20]) + bytes(1024 * [30])
    path = tmp_path / "batch.bin"
    path.write_bytes(record + cifar_bytes(2))
    images, labels = read_cifar(path, 3)
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert labels.tolist() == [1, 0, 1]
    assert (images[0] == [10, 20, 30]).all()
    flat = np.frombuffer(cifar_bytes(2), np.uint8)
    assert images[1, 2, 5, 1] == flat[1 + 1024 + 2 * 32 + 5]


@pytest.mark.parametrize("size", [0, 1, RECORD - 1, RECORD + 1])
def test_parse_cifar__no_whole_number_of_records(size):
    with pytest.raises(InputError, match=f"b.bin: {size} bytes are not a whole number"):
        parse_cifar(bytes(size), 10, "b.bin")


def test_parse_cifar__label_out_of_range():
    with pytest.raises(InputError, match="label 2 is outside"):
        parse_cifar(cifar_bytes(3), 2, "b.bin")


def test_read_members__missing_member_and_damaged_archive(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_gz({"one": b"1"}))
    assert read_members(path, ["one"]) == {"one": b"1"}
    with pytest.raises(InputError, match="the archive has no two"):
        read_members(path, ["one", "two"])
    path.write_bytes(gzip.compress(b"no archive at all" * 100))
    with pytest.raises(InputError, match="damaged tar archive"):
        read_members(path, ["one"])


def test_write_atomically__failure_leaves_nothing(tmp_path):
    target = tmp_path / "place"
    target.mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(target, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["place"]
    write_atomically(tmp_path / "new" / "file", b"data")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32), r"uint8\[N, H, W, C\]"),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32), "not float32"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int32), r"int32\[2\]"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64), "not int64"),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32), "no images"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 3], np.int32), "label 3 is outside"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, -1], np.int32), "label -1 is outside"),
    ],
)
def test_dataset__arrays_that_do_not_fit(images, labels, message):
    with pytest.raises(InputError, match=message):
        Dataset("d", images, labels, CLASSES)


def test_channel_statistics__match_numpy_in_float64():
    images = toy_dataset(50, (9, 7, 3)).images
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_channel_statistics__constant_channel_has_std_one():
    mean, std = channel_statistics(np.full((3, 4, 4, 1), 51, np.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


def test_fingerprint__changes_with_pixels_labels_classes_and_order():
    base = toy_dataset()
    prints = {fingerprint(base, base)}
    pixels = base.images.copy()
    pixels[3, 2, 1, 0] ^= 1
    labels = base.labels.copy()
    labels[4] = (labels[4] + 1) % 3
    prints.add(fingerprint(Dataset("toy", pixels, base.labels, CLASSES), base))
    prints.add(fingerprint(base, Dataset("toy", pixels, base.labels, CLASSES)))
    prints.add(fingerprint(Dataset("toy", base.images, labels, CLASSES), base))
    prints.add(fingerprint(Dataset("toy", base.images, base.labels, ("a", "b", "d")), base))
    assert len(prints) == 5
    renamed = Dataset("other", base.images, base.labels, CLASSES)
    assert make_splits("x", renamed, base).fingerprint == fingerprint(base, base)


def test_limited__classes_take_turns_and_images_keep_their_order():
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    labels = np.array([0, 0, 0, 1, 1, 2, 0], np.int32)
    split = Dataset("x", images, labels, ("a", "b", "c"))
    few = limited(make_splits("x", split, split), 4)
    assert few.train.images.reshape(-1).tolist() == [0, 1, 3, 5]
    assert few.train.labels.tolist() == [0, 0, 1, 2]
    assert few.note.endswith("4 images of each split at most")
    assert few.fingerprint != make_splits("x", split, split).fingerprint
    with pytest.raises(InputError, match="8 images asked for, but 'x' has 7"):
        limited(make_splits("x", split, split), 8)
