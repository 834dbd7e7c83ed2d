"""Borders of zeros: which values get one, and that no result depends on it."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.engine.arena import ParameterArena
from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.compile import stages
from cnnengine.engine.device import open_device
from cnnengine.engine.graph_rules import verify
from cnnengine.engine.init import initial_values
from cnnengine.engine.ir import Value
from cnnengine.engine.models import build_graph
from cnnengine.engine.passes.autodiff import autodiff
from cnnengine.engine.passes.fuse import fuse
from cnnengine.engine.passes.layout import layout
from cnnengine.engine.passes.memory import plan_memory
from cnnengine.engine.passes.select import select
from cnnengine.engine.runner import Plan, Program, Storage
from cnnengine.kernels import registry

TRITON = pytest.mark.skipif(registry.missing("triton") is not None, reason="needs Triton")


def chain(size=6, dtype="float16", filters=16, pool=False):
    """Four convolutions, the last one of stride 2, with a loss: forward and backward, fused."""
    b = GraphBuilder("chain", dtype=dtype)
    x = b.input("x", (2, size, size, 3))
    y = b.relu(b.conv2d(x, filters, 3, padding="same", name="conv1"))
    y = b.relu(b.conv2d(y, 2 * filters, 3, padding="same", name="conv2"))
    if pool:
        y = b.avg_pool2d(y, 3, 1, padding=1)
    y = b.relu(b.conv2d(y, filters, (1, 5), padding="same", name="conv3"))
    y = b.relu(b.conv2d(y, filters, 3, stride=2, name="conv4"))
    logits = b.dense(y, 4, name="fc")
    loss = b.softmax_cross_entropy(logits, b.input("labels", (2,), "int32"))
    return fuse(autodiff(b.finish(loss=loss, logits=logits)))


def small(**how):
    """The graph of vgg-small for two images."""
    return build_graph("vgg-small", 2, (28, 28, 1), 10, **{"options": {}, **how})


def borders(graph):
    """Name → border, for the values that have one."""
    values = [v for node in graph.nodes for v in (*node.reads, *node.writes)]
    return {v.name: v.border for v in values if any(v.border)}


def algorithms(graph):
    """(function, layer) → algorithm, for the convolutions."""
    nodes = [node for node in graph.nodes if node.op.startswith("conv2d")]
    return {
        (node.op.removeprefix("conv2d_"), node.name): node.choice.config.algorithm for node in nodes
    }


def results(graph, device, backends, inputs):
    """The outputs of a graph, all gradients with them."""
    final = verify(select(graph, backends))
    parameters = ParameterArena(final.params, device)
    parameters.load(initial_values(final.params, seed=3))
    program = Program(final, plan_memory(final))
    plan = Plan(program, Storage(device, parameters, [program]))
    plan.feed(inputs, seed=1, step=2)
    with device.session():
        plan.run()
    return {name: device.to_host(plan.output(name)) for name in graph.outputs}


def batch(graph):
    """Random values for the inputs of a graph."""
    rng = np.random.default_rng(5)
    shape = graph.inputs[0].shape
    return {"x": rng.standard_normal(shape), "labels": rng.integers(0, 4, shape[0])}


@pytest.mark.parametrize("arch", ["vgg-small", "chain"])
def test_layout__changes_no_bit_in_numpy(arch):
    device = open_device("cpu", "numpy")
    if arch == "chain":
        plain = chain(dtype="float32")
    else:
        built = small(training=True, dtype="float32", options={"width": 0.25})
        plain = fuse(autodiff(built))
    made = verify(layout(plain, device.backends, least_width=3, always=True))
    assert len(borders(made)) >= 4
    first, second = (results(g, device, device.backends, batch(plain)) for g in (plain, made))
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


@TRITON
def test_layout__convolutions_without_a_gather_give_the_same():
    device = open_device("interpreter")
    plain = chain()
    made = verify(layout(plain, device.backends, least_width=4))
    chosen = algorithms(select(made, device.backends))
    halo = {key for key, algorithm in chosen.items() if algorithm == "halo"}
    layers = ("conv2", "conv3")
    assert halo == {(f, n) for f in ("conv2d", "dgrad", "wgrad") for n in layers}
    first, second = (results(g, device, device.backends, batch(plain)) for g in (plain, made))
    for name, value in first.items():
        error = np.linalg.norm(second[name].astype(float) - value)
        assert error <= 2e-3 * np.linalg.norm(value.astype(float)), name


@TRITON
def test_layout__gives_the_border_that_the_filters_reach():
    made = layout(chain(), ("triton",), least_width=4)
    assert borders(made) == {
        "relu1/y": (1, 1),  # conv2's x, 3x3
        "grad/conv2/y@relu2": (1, 1),
        "relu2/y": (0, 2),  # conv3's x, 1x5
        "grad/conv3/y@relu3": (0, 2),
    }


@TRITON
@pytest.mark.parametrize(
    ("graph", "width"),
    [
        (chain(), 7),  # narrower than is worth it
        (chain(dtype="float32"), 4),  # IEEE products are gathered anyway
        (chain(filters=12), 4),  # blocks would not fit the channels
    ],
    ids=["narrow", "float32", "channels"],
)
def test_layout__leaves_what_gains_nothing(graph, width):
    assert layout(graph, ("triton",), least_width=width) is graph


@TRITON
def test_layout__leaves_values_that_another_function_touches():
    made = layout(chain(pool=True), ("triton",), least_width=4)
    assert "avg_pool2d1/y" not in borders(made)
    assert "relu2/y" not in borders(made)
    assert borders(made)["relu1/y"] == (1, 1)


@TRITON
@pytest.mark.parametrize(("architecture", "found"), [(80, False), (90, True)])
def test_stages__only_gpus_with_a_copy_engine_get_borders(architecture, found):
    from cnnengine.kernels.triton import gpu

    device = open_device("interpreter")
    graph = small(training=True, dtype="float16")
    with gpu.recorded(108, architecture):
        told = dict(stages(graph, device, training=True))
    assert bool(borders(told["layout"])) == found
    assert ("+1+1" in str(told["layout"])) == found


def test_value__counts_its_border():
    value = Value("y", (2, 5, 6, 4), "float16", border=(1, 2))
    assert value.nbytes == 2 * 6 * 8 * 4 * 2
    assert str(value) == "y: float16[2,5,6,4]+1+2"


def test_stages__the_cpu_has_no_borders():
    graph = small(training=False, dtype="float32")
    assert "layout" not in dict(stages(graph, open_device("cpu"), training=False))
