"""Whole networks: the fused graph computes what the graph as written computes."""

import numpy as np
import pytest

from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.compile import compile_graph
from cnnengine.engine.device import open_device
from cnnengine.engine.network import Description, Network
from cnnengine.engine.passes import fuse
from cnnengine.engine.runner import Plan, Storage

SHAPES = {"vgg-small": (28, 28, 1), "lenet": (28, 28, 1)}


@pytest.mark.parametrize(("precision", "allowed"), [("fp64", 1e-12), ("fp32", 1e-4)])
@pytest.mark.parametrize("arch", SHAPES)
def test_fuse__whole_networks_give_the_same_loss_and_gradients(arch, precision, allowed):
    """float32 is given room for a ReLU or a maximum that falls the other way by rounding."""
    device = open_device("cpu")
    shape = SHAPES[arch]
    options = {"width": 0.25} if arch == "vgg-small" else {}
    description = Description(arch, shape, tuple("0123456789"), (0.0,), (1.0,), precision, options)
    network = Network(description, device, train_batches=[6])
    network.initialise(seed=2)
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((6, *shape)), "labels": rng.integers(0, 10, 6)}
    results = []
    for fused in (True, False):
        graph = description.graph(6, training=True)
        program = compile_graph(graph, device, training=True, fused=fused)
        ops = {node.op for node in program.graph.nodes}
        assert ("relu" in ops) != fused
        plan = Plan(program, Storage(device, network.parameters, [program]))
        network.parameters.gradients.fill(np.nan)
        plan.feed(inputs, seed=4, step=5)
        plan.run()
        gradients = {n: network.parameters.gradient(n).copy() for n, _ in network.parameters}
        results.append({**gradients, "loss": plan.output("loss").copy()})
    for name, expected in results[1].items():
        error = np.linalg.norm(results[0][name] - expected)
        assert error <= allowed * np.linalg.norm(expected), name


def test_fuse__looks_at_a_node_a_bounded_number_of_times(monkeypatch):
    looks = []

    def counted(rule):
        return lambda view, node: looks.append(node) or rule(view, node)

    monkeypatch.setattr(fuse, "RULES", tuple(map(counted, fuse.RULES)))

    def cost(layers):
        b = GraphBuilder("chain")
        y = b.input("x", (1, 4, 4, 4))
        for _ in range(layers):
            y = b.relu(b.conv2d(y, 4, 3, padding="same"))
        looks.clear()
        made = fuse.fuse(b.finish(y=y))
        assert [node.op for node in made.nodes] == ["conv2d"] * layers
        return len(looks)

    assert cost(40) <= 2 * cost(20)
