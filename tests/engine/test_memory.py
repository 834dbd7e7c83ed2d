"""The memory plan: nothing that lives at the same time shares bytes, and results do not change."""

import numpy as np
import pytest

from cnnengine.engine.compile import compile_graph
from cnnengine.engine.device import open_device
from cnnengine.engine.models import build_graph
from cnnengine.engine.network import Description, Network
from cnnengine.engine.passes.memory import plan_memory
from cnnengine.engine.runner import Plan, Storage


def _lifetimes(program):
    """Value → (first, last) node that touches it, computed anew from the graph."""
    graph, aliases = program.graph, program.memory.aliases
    spans = {}
    for i, node in enumerate(graph.nodes):
        for value in (*node.reads, *node.writes, *node.scratch):
            root = aliases.get(value, value)
            first, _ = spans.get(root, (i, i))
            spans[root] = (first, i)
    for value in graph.outputs.values():
        root = aliases.get(value, value)
        spans[root] = (spans[root][0], len(graph.nodes))
    return spans


@pytest.mark.parametrize("arch", ["vgg-small", "lenet"])
@pytest.mark.parametrize("training", [True, False])
def test_plan_memory__values_alive_together_never_overlap(arch, training):
    graph = build_graph(arch, 3, (28, 28, 1), 10, training=training)
    program = compile_graph(graph, open_device("cpu"), training=training)
    spans, offsets = _lifetimes(program), program.memory.offsets
    placed = list(offsets)
    for i, a in enumerate(placed):
        assert offsets[a] % 64 == 0
        assert offsets[a] + a.nbytes <= program.memory.total_bytes
        for b in placed[i + 1 :]:
            alive_together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            apart = offsets[a] + a.nbytes <= offsets[b] or offsets[b] + b.nbytes <= offsets[a]
            assert apart or not alive_together, f"{a} and {b} share memory"


def test_plan_memory__reuse_takes_less_than_half_for_vgg_small():
    graph = build_graph("vgg-small", 64, (28, 28, 1), 10, training=True)
    memory = compile_graph(graph, open_device("cpu"), training=True).memory
    assert memory.total_bytes < 0.6 * memory.unplanned_bytes


@pytest.mark.parametrize("fused", [True, False])
def test_plan__planned_equals_unplanned_bit_for_bit(fused):
    device = open_device("cpu")
    graph = build_graph("vgg-small", 4, (28, 28, 1), 10, training=True, options={"width": 0.25})
    description = Description(
        "vgg-small", (28, 28, 1), tuple("0123456789"), (0.0,), (1.0,), options={"width": 0.25}
    )
    network = Network(description, device, train_batches=[4])
    network.initialise(seed=5)
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((4, 28, 28, 1)), "labels": rng.integers(0, 10, 4)}
    results = []
    for reuse in (True, False):
        program = compile_graph(graph, device, training=True, fused=fused, reuse=reuse)
        storage = Storage(device, network.parameters, [program])
        storage.activations.fill(0xFF)  # NaN in every float type: stale reads would show
        plan = Plan(program, storage)
        plan.feed(inputs, seed=3, step=7)
        plan.run()
        gradients = network.parameters.gradients.copy()
        results.append((plan.output("loss").copy(), plan.output("logits").copy(), gradients))
    for planned, unplanned in zip(*results, strict=True):
        assert np.isfinite(planned).all()
        np.testing.assert_array_equal(planned, unplanned)


def test_plan_memory__reuse_off_gives_every_value_its_own_place():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=True)
    memory = plan_memory(graph, reuse=False)
    assert memory.total_bytes == memory.unplanned_bytes
