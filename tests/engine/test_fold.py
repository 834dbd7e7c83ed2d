"""Batch norms in the convolutions before them: the same answers, from the weights of the moment."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_cuda

from cnnengine.engine import device as devices
from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.compile import stages
from cnnengine.engine.device import open_device
from cnnengine.engine.graph_rules import verify
from cnnengine.engine.models import build_graph
from cnnengine.engine.naming import head
from cnnengine.engine.network import Description, Network
from cnnengine.engine.passes.fold import fold

NORMS = {"resnet18": 20, "resnet50": 53, "inception-v3": 94}


def ops(graph):
    return [node.op for node in graph.nodes]


def networks(arch, precision="fp64", side=40):
    """One that only infers, and one that could train; the same random weights for both."""
    description = Description(
        arch, (side, side, 3), tuple("abcde"), (0.0,) * 3, (1.0,) * 3, precision, {"width": 0.125}
    )
    device = open_device("cpu")
    plain = Network(description, device, infer_batch=2, train_batches=(2,))
    folded = Network(description, device, infer_batch=2)
    return folded, plain


def random_weights(network, seed):
    network.initialise(seed)
    arrays, rng = network.state_dict(), np.random.default_rng(seed)
    for array in arrays.values():
        if array.ndim == 1:
            array += rng.uniform(0.1, 0.5, array.shape).astype(array.dtype)
    return arrays


@pytest.mark.parametrize("arch", NORMS)
def test_fold__leaves_no_batch_norm_and_no_addition(arch):
    side = 299 if arch == "inception-v3" else 224
    graph = build_graph(arch, 1, (side, side, 3), 1000, training=False)
    made = dict(stages(graph, open_device("cpu"), training=False))
    assert ops(graph).count("batch_norm_inference") == NORMS[arch]
    assert ops(made["fold"]).count("batch_norm_inference") == 0
    assert len(made["fold"].derived) == 2 * NORMS[arch]
    last = made["select"]
    assert set(ops(last)) & {"relu", "add", "batch_norm_inference"} == set()
    residuals = sum(node["residual"] is not None for node in last.nodes)
    assert residuals == {"resnet18": 8, "resnet50": 16, "inception-v3": 0}[arch]
    assert sum(node.op.startswith("conv2d") for node in last.nodes) == NORMS[arch]


@pytest.mark.parametrize(
    ("arch", "precision", "allowed"),
    [
        ("resnet18", "fp64", 1e-12),
        ("resnet50", "fp32", 1e-5),
        ("resnet18", "bf16", 0.05),
    ],
)
def test_fold__gives_the_same_logits(arch, precision, allowed):
    folded, plain = networks(arch, precision)
    arrays = random_weights(plain, 1)
    plain.load(arrays)
    folded.load({name: arrays[name] for name in folded.state_dict()})
    x = np.random.default_rng(2).standard_normal((2, 40, 40, 3)).astype(np.float32)
    expected = plain.logits(x)
    assert np.abs(folded.logits(x) - expected).max() <= allowed * np.abs(expected).max()


def test_network__new_weights_are_folded_anew():
    folded, plain = networks("resnet18")
    x = np.random.default_rng(2).standard_normal((2, 40, 40, 3)).astype(np.float32)
    seen = []
    for seed in (1, 2):
        arrays = random_weights(plain, seed)
        for network in (plain, folded):
            network.load(arrays)
        seen.append(folded.logits(x))
        np.testing.assert_allclose(seen[-1], plain.logits(x), rtol=1e-5)
    assert np.abs(seen[0] - seen[1]).max() > 0.01
    for network in (plain, folded):
        network.initialise(3)
    np.testing.assert_allclose(folded.logits(x), plain.logits(x), rtol=1e-5, atol=1e-9)
    assert set(folded.state_dict()) == set(plain.state_dict())


def test_network__filters_that_were_folded_are_not_on_the_device():
    folded, plain = networks("resnet18", "fp32")
    arrays = random_weights(plain, 1)
    last = head(plain.inference.graph)
    left = sum(v.size for n, v in plain.parameters if n.rpartition("/")[0] == last)
    assert left <= folded.parameters.size < left + 32, "in the arena is the last layer alone"
    folded.load(arrays)
    for array in arrays.values():
        array += 1  # what was given may change
    told = folded.state_dict()
    for name, array in arrays.items():
        np.testing.assert_array_equal(told[name] + 1, array, err_msg=name)
        assert told[name].flags.writeable
    assert folded.parameters.array(folded.inference.graph.params[0].value).any()


def test_network__one_that_trains_keeps_its_batch_norms():
    folded, plain = networks("resnet18")
    assert "batch_norm_inference" not in ops(folded.inference.graph)
    assert ops(plain.inference.graph).count("batch_norm_inference") == NORMS["resnet18"]
    assert plain.storage.derived == {}


def test_fold__takes_the_bias_and_the_relu_along():
    b = GraphBuilder("biased", dtype="float64", training=False)
    x = b.input("x", (1, 4, 4, 2))
    graph = verify(fold(b.finish(y=b.batch_norm(b.conv2d(x, 3, 1, name="c"), name="n"))))
    assert ops(graph) == ["conv2d"]
    bias = graph.derived[1]
    assert str(graph).count("derived n/folded_b: float64[3] = n/beta + (c/b - n/running_mean)") == 1
    given = {"n/gamma": 2.0, "n/beta": 5.0, "n/running_mean": 1.0, "n/running_var": 3.99999}
    sources = [np.full(3, given.get(v.name, 7.0)) for v in bias.sources]
    np.testing.assert_allclose(bias.compute(*sources), 5 + (7 - 1) * 2 / 2)


@pytest.mark.parametrize("case", ["read twice", "an output", "ReLU first", "float16", "no conv"])
def test_fold__leaves_a_batch_norm_that_no_convolution_can_take(case):
    b = GraphBuilder("kept", dtype="float16" if case == "float16" else "float32", training=False)
    x = b.input("x", (1, 4, 4, 2))
    y = x if case == "no conv" else b.conv2d(x, 2, 1)
    normed = b.batch_norm(b.relu(y) if case == "ReLU first" else y)
    outputs = {"an output": {"seen": y}, "read twice": {"sum": b.add(normed, y)}}.get(case, {})
    graph = fold(b.finish(y=normed, **outputs))
    assert ops(graph).count("batch_norm_inference") == 1
    assert graph.derived == ()


def test_fold__on_a_gpu_has_its_place_in_the_arena_and_the_bits_of_the_cpu(monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    simulated_cuda.install(monkeypatch)
    _, plain = networks("resnet18", "fp32")
    weights = random_weights(plain, 4)
    x = np.random.default_rng(2).standard_normal((2, 40, 40, 3)).astype(np.float32)
    seen = []
    for device in (open_device("cpu", "numpy"), open_device("cuda")):
        network = Network(plain.description, device, infer_batch=2)
        with device.session():
            network.load(weights)
            seen.append([network.logits(x) for _ in range(3)])
    assert device.left() == 0
    np.testing.assert_array_equal(*seen)
