"""Filters packed once: the same answers, from the weights of the moment, in less memory."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.engine import compile as compiler
from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.device import open_device
from cnnengine.engine.network import Description, Network
from cnnengine.engine.passes.pack import pack
from cnnengine.kernels import registry

pytestmark = pytest.mark.skipif(
    registry.missing("native") is not None, reason=f"native: {registry.missing('native')}"
)
SIDE = {"vgg-small": (28, 28, 1), "resnet18": (40, 40, 3)}


def network(arch, **batches):
    description = Description(
        arch, SIDE[arch], tuple("abcde"), (0.0,) * SIDE[arch][2], (1.0,) * SIDE[arch][2],
        options={"width": 0.25},
    )  # fmt: skip
    return Network(description, open_device("cpu"), **batches)


def packed(made):
    return [d for d in made.inference.graph.derived if d.value.packed]


@pytest.mark.parametrize("arch", SIDE)
def test_pack__gives_the_logits_of_filters_as_they_are(arch, monkeypatch):
    made = network(arch, infer_batch=2)
    monkeypatch.setattr(compiler, "pack", lambda graph: graph)
    plain = network(arch, infer_batch=2)
    convolutions = [n for n in plain.inference.graph.nodes if n.op.startswith("conv2d")]
    assert len(packed(made)) == len(convolutions) >= 6
    assert packed(plain) == []
    x = np.random.default_rng(2).standard_normal((2, *SIDE[arch])).astype(np.float32)
    for seed in (1, 2):  # new weights are packed anew
        made.initialise(seed)
        plain.load(made.state_dict())
        expected = plain.logits(x)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(made.logits(x), expected, rtol=0, atol=1e-5 * np.ptp(expected))


def test_network__filters_that_were_packed_are_not_in_the_arena():
    made = network("vgg-small", infer_batch=2)
    in_arena = {p.value.name for p in made.parameters.parameters}
    assert not any(name.startswith("conv") and name.endswith("/w") for name in in_arena)
    assert {"conv1_1/b", "dense1/w"} <= in_arena
    assert set(made.state_dict()) == set(network("vgg-small", train_batches=(2,)).state_dict())
    for derived in packed(made):
        held = made.storage.derived[derived.value.name]
        assert held.nbytes == derived.value.nbytes >= 4 * np.prod(derived.value.shape)


def test_network__one_that_trains_packs_at_every_call():
    assert packed(network("vgg-small", infer_batch=2, train_batches=(2,))) == []


def test_pack__leaves_filters_that_two_convolutions_read():
    b = GraphBuilder("shared", training=False)
    x = b.input("x", (1, 9, 9, 4))
    y = b.conv2d(x, 4, 3, padding=1, bias=False, name="c")
    graph = b.finish(y=y)
    twice = graph.with_nodes([
        *graph.nodes,
        graph.nodes[0].with_arguments(x=y, out=type(y)("z", y.shape)),
    ])  # fmt: skip
    device = open_device("cpu")
    assert len(pack(compiler.select(graph, device.backends)).derived) == 1
    assert pack(compiler.select(twice, device.backends)).derived == ()
