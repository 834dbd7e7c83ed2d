"""Augmentation by sample number, the order of epochs, and the thread that works ahead."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from cnnengine.engine.data import Augment, Loader, in_pixels
from cnnengine.engine.data.loader import QUEUE_BATCHES
from cnnengine.engine.errors import InputError
from cnnengine.kernels import philox, registry

from .data_helpers import toy_dataset


def toy_loader(batch_size=5, *, dataset=None, **options):
    dataset = dataset or toy_dataset()
    channels = dataset.image_shape[2]
    settings = {"seed": 7, "mean": (0.5,) * channels, "std": (0.25,) * channels} | options
    return Loader(dataset, batch_size, **settings)


def shifted(image, down, right):
    """`image` [H, W, C] moved by a plain loop, black coming in."""
    H, W, _ = image.shape
    out = np.zeros_like(image)
    for row in range(H):
        for column in range(W):
            if 0 <= row - down < H and 0 <= column - right < W:
                out[row, column] = image[row - down, column - right]
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_augment__moves_as_a_plain_loop_does(channels):
    images = toy_dataset(40, (8, 6, channels)).images
    ids = np.arange(40)
    augment = Augment(shift=2, flip=True)
    moves = augment.draw(ids, seed=1, epoch=4)
    out = augment.apply(images, ids, seed=1, epoch=4)
    for image, got, down, right, mirror in zip(images, out, *moves, strict=True):
        expected = shifted(image, down, right)
        np.testing.assert_array_equal(got, expected[:, ::-1] if mirror else expected)


def test_augment__draws_are_even_and_in_range():
    down, right, mirror = Augment(shift=3, flip=True).draw(np.arange(70_000), seed=0, epoch=0)
    for steps in (down, right):
        counts = np.bincount(steps + 3, minlength=7)
        assert len(counts) == 7
        assert abs(counts - 10_000).max() < 400
    assert abs(mirror.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.02


def test_augment__depends_on_seed_epoch_and_sample_only():
    images = toy_dataset(30).images
    augment = Augment(shift=2, flip=True)
    ids = np.arange(30)
    whole = augment.apply(images, ids, seed=1, epoch=2)
    picked = np.array([17, 3, 29])
    np.testing.assert_array_equal(
        augment.apply(images[picked], picked, seed=1, epoch=2), whole[picked]
    )
    assert (augment.apply(images, ids, seed=2, epoch=2) != whole).any()
    assert (augment.apply(images, ids, seed=1, epoch=3) != whole).any()
    assert (augment.apply(images, ids + 2**32, seed=1, epoch=2) != whole).any()


def test_augment__sample_owns_its_block_of_the_stream():
    words = philox.random_bits(philox.key(5, 9, 1001), 4, start=4 * 12).astype(np.int64)
    down, right, mirror = Augment(shift=4, flip=True).draw(np.array([12]), seed=5, epoch=9)
    assert down[0] == (words[0] * 9 >> 32) - 4
    assert right[0] == (words[1] * 9 >> 32) - 4
    assert mirror[0] == words[2] >> 31


def test_augment__nothing_asked_changes_nothing():
    images = toy_dataset().images
    out = Augment().apply(images, np.arange(len(images)), seed=0, epoch=0)
    np.testing.assert_array_equal(out, images)
    assert out is not images


def test_augment__shift_out_of_range():
    with pytest.raises(InputError, match="shift -1"):
        Augment(shift=-1)
    with pytest.raises(InputError, match=r"shift 6: must be below .* \(6 pixels\)"):
        Augment(shift=6).apply(toy_dataset().images, np.arange(23), seed=0, epoch=0)


def test_loader__visits_every_sample_once_and_keeps_the_last_batch():
    dataset = toy_dataset()
    batches = list(toy_loader(dataset=dataset).epoch(0))
    assert [batch.index for batch in batches] == [0, 1, 2, 3, 4]
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 3]
    ids = np.concatenate([batch.ids for batch in batches])
    assert ids.dtype == np.int64
    assert sorted(ids) == list(range(23))
    for batch in batches:
        np.testing.assert_array_equal(batch.labels, dataset.labels[batch.ids])
        assert batch.images.flags.c_contiguous


def test_loader__drop_last_and_no_shuffle():
    loader = toy_loader(shuffle=False, drop_last=True)
    assert loader.steps_per_epoch == 4
    ids = np.concatenate([batch.ids for batch in loader.epoch(3)])
    assert ids.tolist() == list(range(20))
    assert toy_loader().steps_per_epoch == 5
    assert toy_loader(23).steps_per_epoch == 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-14), ("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 2e-2)],
)
def test_loader__normalises(dtype, tolerance):
    dataset = toy_dataset(shape=(4, 4, 3))
    mean, std = (0.1, 0.5, 0.9), (0.3, 0.2, 0.1)
    loader = toy_loader(23, dataset=dataset, mean=mean, std=std, dtype=dtype, shuffle=False)
    (batch,) = loader.epoch(0)
    assert batch.images.dtype.name == dtype
    expected = (dataset.images / 255 - mean) / std
    np.testing.assert_allclose(
        batch.images.astype(np.float64), expected, rtol=tolerance, atol=5 * tolerance
    )


@pytest.mark.parametrize("augment", [None, Augment(shift=2, flip=True)])
def test_loader__raw_batches_become_the_normalised_ones(augment):
    """By the contract function that a device runs on them, bit for bit."""
    dataset = toy_dataset(shape=(8, 6, 3))
    mean, std = (0.1, 0.5, 0.9), (0.3, 0.2, 0.1)
    given = {"dataset": dataset, "mean": mean, "std": std, "augment": augment}
    made = list(toy_loader(**given).epoch(1))
    for batch, raw in zip(made, toy_loader(**given, dtype="uint8").epoch(1), strict=True):
        assert raw.images.dtype == np.uint8
        out = np.empty_like(batch.images)
        normalise = registry.load("numpy").function("normalise")
        normalise(raw.images, raw.moves, *in_pixels(mean, std), out)
        np.testing.assert_array_equal(out, batch.images)
        assert list(raw.inputs) == ["images", "moves", "labels"]
        assert list(batch.inputs) == ["x", "labels"]


def test_loader__order_depends_on_seed_and_epoch():
    orders = {
        tuple(toy_loader(seed=seed).order(epoch)) for seed in (1, 2, 2**40) for epoch in (0, 1)
    }
    assert len(orders) == 6
    assert tuple(toy_loader(seed=1, batch_size=9).order(0)) in orders


def test_loader__resumed_epoch_gives_the_same_batches():
    augment = Augment(shift=2, flip=True)
    whole = list(toy_loader(augment=augment).epoch(2))
    for start in range(6):
        rest = list(toy_loader(augment=augment).epoch(2, start_batch=start))
        assert [batch.index for batch in rest] == list(range(start, 5))
        for got, expected in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(got.images, expected.images)
            np.testing.assert_array_equal(got.labels, expected.labels)
            np.testing.assert_array_equal(got.ids, expected.ids)


def test_loader__sample_looks_the_same_in_every_batch_size():
    augment = Augment(shift=2, flip=True)

    def seen(**options):
        images = np.empty((23, 8, 6, 1), np.float32)
        for batch in toy_loader(augment=augment, **options).epoch(1):
            images[batch.ids] = batch.images
        return images

    np.testing.assert_array_equal(seen(batch_size=5), seen(batch_size=11, shuffle=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24}, "--batch-size 24: must be between 1 and the 23 images of 'toy'"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"mean": (0.5, 0.5)}, "mean has 2 and std has 1 values, but 'toy' has 1 channels"),
        ({"std": (0.0,)}, "every value must be above 0"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"augment": Augment(shift=6)}, "shift 6"),
    ],
)
def test_loader__options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        toy_loader(**options)


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 6)])
def test_loader__epoch_or_start_out_of_range(epoch, start):
    with pytest.raises(InputError, match=r"epoch -1|start batch (-1|6)"):
        toy_loader().epoch(epoch, start_batch=start)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name == "cnnengine-loader"]


@pytest.mark.parametrize("taken", [0, 1, 3, 200])
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_loader__consumer_that_stops_early_leaves_no_thread(taken, pause):
    batches = toy_loader(1, dataset=toy_dataset(200)).epoch(0)
    for _ in range(taken):
        next(batches)
    time.sleep(pause)
    batches.close()
    assert loader_threads() == []


def test_loader__consumer_that_raises_leaves_no_thread():
    def consume():
        for _ in toy_loader(1, dataset=toy_dataset(200)).epoch(0):
            raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        consume()
    assert loader_threads() == []
    list(toy_loader().epoch(0))
    assert loader_threads() == []


class _Counted(np.ndarray):
    """Images that count how often a batch is taken, and may fail."""

    taken = 0
    fails_at = -1

    def __getitem__(self, key):
        if isinstance(key, np.ndarray):
            _Counted.taken += 1
            if _Counted.taken == _Counted.fails_at:
                raise MemoryError("no room for the batch")
        return np.asarray(self)[key]


def counted_dataset(monkeypatch, fails_at=-1):
    monkeypatch.setattr(_Counted, "taken", 0)
    monkeypatch.setattr(_Counted, "fails_at", fails_at)
    dataset = toy_dataset(60)
    return dataclasses.replace(dataset, images=dataset.images.view(_Counted))


def test_loader__exception_of_the_thread_reaches_the_consumer(monkeypatch):
    loader = toy_loader(2, dataset=counted_dataset(monkeypatch, fails_at=4))
    batches = loader.epoch(0)
    assert [next(batches).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(MemoryError, match="no room for the batch"):
        next(batches)
    assert loader_threads() == []


def test_loader__works_ahead_but_not_without_bound(monkeypatch):
    batches = toy_loader(2, dataset=counted_dataset(monkeypatch)).epoch(0)
    assert _Counted.taken == 0
    next(batches)
    deadline = time.monotonic() + 5
    while _Counted.taken < QUEUE_BATCHES + 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert _Counted.taken == QUEUE_BATCHES + 2
    batches.close()
    assert loader_threads() == []
