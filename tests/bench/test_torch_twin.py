"""The torch twin is the network: logits, losses, gradients and states equal ours in float64."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.engine import models
from cnnengine.engine.device import open_device
from cnnengine.engine.network import Description, Network

SEED, STEP = 3, 5
ASSEMBLED = "C4:norm:edge:s2 P D0.3 F8"


def every_op(b, x, classes):
    """A network of all layers that there are, with the paddings that torch does not have."""
    x = b.relu(b.conv2d(x, 6, 3, padding=(0, 1, 2, 1), bias=False, name="a"))
    x = b.conv2d(x, 6, 3, padding="same", padding_mode="edge", groups=2, bias=False, name="b")
    x = b.relu(b.batch_norm(x, name="norm"))
    y = b.conv2d(x, 6, (3, 1), padding="same", dilation=2, name="c")
    x = b.relu(b.add(x, y))
    x = b.dropout(b.max_pool2d(x, 3, 2, padding=(1, 0, 0, 2), ceil_mode=True), 0.3)
    y = b.avg_pool2d(x, 3, 1, padding=(1, 1, 0, 2), count_include_pad=False)
    z = b.avg_pool2d(x, 3, 1, padding=(0, 2, 2, 0))
    w = b.max_pool2d(x, 3, 1, padding=1)
    x = b.lrn(b.concat([x, y, z, w]), size=4)
    x = b.conv2d(x, 5, 1, stride=2, name="d")
    x = b.dropout(b.relu(b.flatten(x)), 0.4)
    return b.dense(x, classes, name="e")


def global_average(b, x, classes):
    """A network that ends in a global average, with a frozen layer."""
    with b.frozen():
        x = b.relu(b.conv2d(x, 4, 3, stride=2, name="a"))
    x = b.conv2d(x, 7, 3, name="b")
    return b.dense(b.global_avg_pool2d(x), classes, name="c")


def two_heads(b, x, classes):
    """A network with an auxiliary head in training."""
    x = b.relu(b.conv2d(x, 4, 3, stride=2, name="a"))
    if b.training:
        b.auxiliary(b.dense(x, classes, name="head"), 0.3)
    return b.dense(b.relu(b.conv2d(x, 5, 3, name="b")), classes, name="c")


def general(b, x, classes):
    """A network of what imported networks have besides layers."""
    x = b.prelu(b.conv2d(x, 6, 3, name="a"), name="p")
    gates = b.softmax(b.reduce_sum(x, (1, 2), keepdims=True))
    scale = b.broadcast(b.constant("scale", (0.5, 2.0, 1.5, -1.0, 0.3, 1.0)), gates.shape)
    x = b.mul(x, b.broadcast(b.mul(gates, scale), x.shape))
    x = b.pad(b.clip(x, -0.05, 0.4), (0, 2, -1, 0), (0, 0, 1, -2), 0.25)
    x = b.transpose(b.leaky_relu(x), (0, 2, 1, 3))
    x = b.transpose(b.reshape(x, (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])), (0, 2, 1))
    x = b.reshape(x, (x.shape[0], x.shape[1] // 4, 2, x.shape[2] * 2))
    return b.softmax(b.dense(b.global_max_pool2d(x), classes, name="b"), log=True)


@pytest.fixture
def registered(monkeypatch):
    """Register this file's networks for one test."""
    networks = {"every-op": every_op, "global-average": global_average, "two-heads": two_heads}
    networks["general"] = general
    for name, build in networks.items():
        model = models.Model(name, build, (13, 11, 2), 4, name)
        monkeypatch.setitem(models.MODELS, name, model)


def network_of(arch):
    model = models.get_model(arch)
    channels = model.input_shape[2]
    description = Description(
        arch,
        model.input_shape,
        tuple("abcdefghij"[: model.classes]),
        (0.0,) * channels,
        (1.0,) * channels,
        "fp64",
    )
    network = Network(description, open_device("cpu", "numpy"), infer_batch=3, train_batches=(3,))
    network.initialise(1)
    rng = np.random.default_rng(0)
    weights = {n: a + rng.uniform(0, 0.2, a.shape) for n, a in network.state_dict().items()}
    network.load(weights)
    x = rng.standard_normal((3, *model.input_shape))
    labels = rng.integers(0, model.classes, 3).astype(np.int32)
    return network, weights, x, labels


def assert_equal(name, found, expected):
    assert found.shape == expected.shape, name
    off = np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
    assert off < 1e-10, f"{name}: relative RMS {off:.3g}"


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    "arch", ["lenet", "vgg-small", "every-op", "general", "global-average", "two-heads", ASSEMBLED]
)
def test_loss_and_gradients__equal_the_engine_in_float64(torch, registered, arch, channels_last):
    from cnnengine.bench.torch_twin import TorchTwin

    network, weights, x, labels = network_of(arch)
    plan = network.training[3]
    with network.device.session():
        plan.feed({"x": x, "labels": labels}, seed=SEED, step=STEP)
        plan.run()
    graph = network.description.graph(3, training=True)
    twin = TorchTwin(graph, channels_last=channels_last, dtype="float64", given_masks=True)
    twin.load(weights)
    twin.draw_masks(SEED, STEP)
    losses, gradients = twin.loss_and_gradients(x, labels)
    assert_equal("loss", losses, plan.output("loss"))
    trainable = [p.value.name for p in graph.params if p.trainable]
    assert list(gradients) == trainable
    for name in trainable:
        assert_equal(name, gradients[name], network.parameters.gradient(name))
    for name, state in twin.state_dict().items():
        assert_equal(name, state, network.state_dict()[name])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("arch", ["lenet", "vgg-small", "every-op", "general"])
def test_logits__equal_the_engine_in_inference(torch, registered, arch, channels_last):
    from cnnengine.bench.torch_twin import TorchTwin

    network, weights, x, _ = network_of(arch)
    graph = network.description.graph(3, training=False)
    twin = TorchTwin(graph, channels_last=channels_last, dtype="float64")
    twin.load(weights)
    with network.device.session():
        plan = network.inference
        plan.feed({"x": x})
        plan.run()
        assert_equal("logits", twin.logits(x), plan.output("logits"))


def test_draw_masks__follow_seed_and_step(torch):
    from cnnengine.bench.torch_twin import TorchTwin

    network, weights, x, labels = network_of("vgg-small")
    twin = TorchTwin(network.description.graph(3, training=True), dtype="float64", given_masks=True)
    twin.load(weights)
    losses = []
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        twin.draw_masks(seed, step)
        losses.append(twin.loss_and_gradients(x, labels)[0])
    assert np.array_equal(losses[0], losses[3])
    assert not np.array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], losses[2])


def test_twin__refuses_loss_scaling(torch):
    from cnnengine.bench.torch_twin import TorchTwin
    from cnnengine.kernels.errors import UnsupportedError

    graph = models.build_graph("lenet", 2, (28, 28, 1), 10, training=True, scaled=True)
    with pytest.raises(UnsupportedError, match="loss scaling"):
        TorchTwin(graph)


def test_twin__refuses_what_would_see_another_order_of_a_flattened_image(torch):
    from cnnengine.bench.torch_twin import TorchTwin
    from cnnengine.engine.build import GraphBuilder
    from cnnengine.kernels.errors import UnsupportedError

    b = GraphBuilder("flat", training=False)
    logits = b.transpose(b.flatten(b.input("x", (2, 3, 3, 4))), (1, 0))
    graph = b.finish(logits=logits)
    assert TorchTwin(graph, channels_last=True).module
    with pytest.raises(UnsupportedError, match=r"transpose \(transpose1\) of a flattened image"):
        TorchTwin(graph, channels_last=False)
