"""Evaluation on a simulated CUDA device: bytes in, answers out, nobody waits.

As in `test_gpu.py`, streams interleave at random: equal bits with the CPU mean that no wait is
missing.
"""

from __future__ import annotations

import numpy as np
import pytest
import simulated_cuda

from cnnengine.engine import device as devices
from cnnengine.engine.device import open_device
from cnnengine.engine.evaluate import evaluate
from cnnengine.engine.network import Network

from .toy import toy_trainer


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    return simulated_cuda.install(monkeypatch)


@pytest.fixture
def answering(tmp_path, simulated):
    """A network on the CPU after one epoch, the test images, and what makes it anew on the GPU."""
    trained = toy_trainer(tmp_path / "run", kernels="numpy", epochs=1)
    trained.run()

    def make(batch, **more):
        network = Network(trained.description, open_device("cuda"), infer_batch=batch, **more)
        network.load(trained.network.state_dict())
        return network

    return trained.network, trained.splits.test, make


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_gpu__evaluation_and_logits_equal_the_cpu_s(answering, simulated, pictures, seed):
    """Four batches, the last one smaller, streams interleaved in three ways."""
    on_cpu, test, make = answering
    simulated.random.seed(seed)
    network = make(6, pictures=pictures)
    np.testing.assert_array_equal(network.logits(test.images), on_cpu.logits(test.images))
    assert simulated.log.count("replay") == 3
    assert simulated.log.count("normalise") == 4 * pictures
    expected, found = evaluate(on_cpu, test), evaluate(network, test)
    assert (found.loss, found.accuracy) == (expected.loss, expected.accuracy)
    np.testing.assert_array_equal(found.confusion, expected.confusion)


def test_gpu__pictures_are_asked_about_as_bytes_in_memory_that_was_reserved(answering, simulated):
    _, test, make = answering
    network = make(6, pictures=True)
    assert network.device.left() == 0
    assert simulated.used == network.device.arena_bytes
    before, allocated = simulated.moved["host to device"], len(simulated.allocations)
    network.logits(test.images)
    moved = simulated.moved["host to device"] - before
    assert 24 * 64 < moved < 24 * 64 + 4 * 1300  # constants and what training changes: four blocks
    assert len(simulated.allocations) == allocated


def test_gpu__the_next_batch_is_handed_over_before_an_answer_is_read(answering, simulated):
    _, test, make = answering
    network = make(4, pictures=True)
    answers = network.answers(test.images)
    handed = [(len(next(answers)), simulated.log.count("replay")) for _ in range(5)]
    assert handed == [(4, 1), (4, 2), (4, 3), (4, 4), (4, 4)]  # the first batch is no replay


@pytest.mark.parametrize("seed", range(2))
def test_gpu__answers_that_nobody_came_for(answering, simulated, seed):
    """Batches that were left under way spoil none of those that follow in their slots."""
    on_cpu, test, make = answering
    simulated.random.seed(seed)
    network = make(4, pictures=True)
    for _ in range(3):
        next(network.answers(test.images[::-1]))
    np.testing.assert_array_equal(network.logits(test.images), on_cpu.logits(test.images))


def test_gpu__the_front_and_the_rest_of_a_network_take_turns(tmp_path, simulated):
    """Each plan has slots of its own: the front's hold constants."""
    trainer = toy_trainer(
        tmp_path / "run", device="cuda", freeze_until="conv2_2", shift=0, flip=False
    )
    network, images = trainer.network, trainer.splits.test.images
    with trainer.device.session():
        first = network.features(images)
        logits = network.logits(first)
        np.testing.assert_array_equal(network.features(images), first)
        np.testing.assert_array_equal(network.logits(first), logits)
