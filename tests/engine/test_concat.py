"""Slices of channels: concats and their gradients copy nothing, and no bit depends on it."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_cuda

from cnnengine.engine import device as devices
from cnnengine.engine.arena import ParameterArena
from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.compile import stages
from cnnengine.engine.device import open_device
from cnnengine.engine.graph_rules import verify
from cnnengine.engine.init import initial_values
from cnnengine.engine.models import build_graph
from cnnengine.engine.passes.autodiff import autodiff
from cnnengine.engine.passes.concat import concat
from cnnengine.engine.passes.fuse import fuse
from cnnengine.engine.passes.memory import plan_memory
from cnnengine.engine.passes.select import select
from cnnengine.engine.runner import Plan, Program, Storage
from cnnengine.kernels import registry

from .toy import toy_trainer

CPU = ("native", "numpy") if registry.missing("native") is None else ("numpy",)


def copies(graph):
    """The values that concats and their gradients copy."""
    made = []
    for node in graph.nodes:
        if node.op in ("concat", "channel_slice"):
            made += [v for v in (node["xs"] or (node.out,)) if v.within is None]
    return made


def finished(b, y):
    """The graph of a network that ends in `y` [2,h,w,C], with a loss and gradients, fused."""
    logits = b.dense(b.global_avg_pool2d(y), 3, name="fc")
    loss = b.softmax_cross_entropy(logits, b.input("labels", (2,), "int32"))
    return fuse(autodiff(b.finish(loss=loss, logits=logits)))


def results(graph, device, backends=None, reuse=True):
    """The outputs of a graph, gradients and states with them; activations start as NaN."""
    final = verify(select(graph, backends or device.backends))
    parameters = ParameterArena(final.params, device)
    parameters.load(initial_values(final.params, seed=3))
    program = Program(final, plan_memory(final, reuse=reuse))
    storage = Storage(device, parameters, [program])
    storage.activations.fill(0xFF)
    plan = Plan(program, storage)
    rng = np.random.default_rng(5)
    plan.feed({"x": rng.standard_normal(graph.inputs[0].shape), "labels": [2, 0]}, seed=1, step=2)
    with device.session():
        plan.run()
    found = {name: device.to_host(plan.output(name)) for name in graph.outputs}
    return {**found, **{name: device.to_host(a) for name, a in storage.states.items()}}


def assert_same_bits(plain, made, device=None, backends=None):
    device = device or open_device("cpu", "numpy" if CPU == ("numpy",) else "auto")
    expected = results(plain, device, backends, reuse=False)
    for name, value in results(made, device, backends).items():
        assert np.isfinite(value).all(), name
        assert value.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("arch", ["squeezenet", "googlenet", "inception-v3"])
@pytest.mark.parametrize("training", [False, True])
def test_concat__copies_nothing_in_the_networks_of_the_literature(arch, training):
    side = 299 if arch == "inception-v3" else 96  # what the auxiliary heads need
    graph = build_graph(arch, 2, (side, side, 3), 10, training=training)
    made = dict(stages(graph, open_device("cpu"), training=training))
    many = 16 if arch == "squeezenet" else 36
    assert len(copies(made["fuse"])) >= many * (1 + training)
    assert copies(made["select"]) == []
    before, after = (plan_memory(made[name]) for name in ("fuse", "concat"))
    assert after.unplanned_bytes < before.unplanned_bytes
    assert after.total_bytes <= before.total_bytes


def inception(seed, dtype="float32", norm=False):
    """Random branches over one image, some of them nested, shared or of other kinds."""
    rng = np.random.default_rng(seed)
    b = GraphBuilder("random", dtype=dtype)
    pool = [b.conv2d(b.input("x", (2, 7, 6, 3)), 4, 3, padding="same")]

    def grown(x):
        kind = rng.integers(7)
        if kind < 4:
            size = int(rng.choice([1, 3]))
            y = b.conv2d(x, int(rng.integers(1, 9)), size, padding="same", bias=not norm)
            y = b.batch_norm(y) if norm else y
            return b.relu(y) if kind < 3 else y
        if kind == 4:
            return b.max_pool2d(x, 3, 1, padding=1)
        return b.avg_pool2d(x, 3, 1, padding=1) if kind == 5 else b.add(x, x)

    for _ in range(9):
        chosen = [pool[int(i)] for i in rng.integers(0, len(pool), int(rng.integers(1, 4)))]
        if len(chosen) > 1:
            pool.append(b.concat([grown(x) if rng.random() < 0.7 else x for x in chosen]))
        else:
            pool.append(grown(chosen[0]))
    return finished(b, b.concat([pool[-1], pool[-2]]))


@pytest.mark.parametrize("seed", range(12))
def test_concat__changes_no_bit_of_random_graphs(seed):
    plain = inception(seed, norm=seed % 3 == 0)
    made = verify(concat(plain, CPU))
    assert len(copies(made)) < len(copies(plain))
    assert_same_bits(plain, made)


@pytest.mark.skipif(registry.missing("triton") is not None, reason="needs Triton")
def test_concat__changes_no_bit_in_triton():
    b = GraphBuilder("fire")
    x = b.relu(b.conv2d(b.input("x", (2, 4, 5, 3)), 4, 1))
    y = b.concat([b.relu(b.conv2d(x, 5, 1)), b.relu(b.conv2d(x, 3, 3, padding="same"))])
    plain = finished(b, b.relu(b.conv2d(y, 4, 1)))
    device = open_device("interpreter")
    made = verify(concat(plain, device.backends))
    assert copies(made) == []
    assert_same_bits(plain, made, device)


def test_concat__a_slice_of_a_slice_lies_in_the_outermost():
    b = GraphBuilder("nested", training=False)
    x = b.input("x", (1, 4, 4, 2))
    one, two, three = (b.conv2d(x, k, 1) for k in (2, 3, 4))
    inner = b.concat([one, two])
    graph = concat(b.finish(y=b.concat([three, inner])), CPU)
    first, second, third = (node.out for node in graph.nodes[:3])
    assert [v.channel for v in (third, first, second)] == [0, 4, 6]
    assert {v.root.name for v in (first, second, third)} == {"concat2/y"}
    assert str(second) == "conv2d2/y: float32[1,4,4,3] in concat2/y[6:9]"
    assert list(plan_memory(graph).offsets) == [graph.outputs["y"]]


def test_concat__leaves_what_must_lie_alone():
    b = GraphBuilder("mixed", training=False)
    x = b.input("x", (1, 4, 4, 2))
    added = b.conv2d(x, 3, 1, name="added")
    seen = b.conv2d(x, 3, 1, name="seen")
    flat = b.conv2d(x, 3, 1, name="flat")
    twice = b.conv2d(x, 3, 1, name="twice")
    y = b.concat([x, added, seen, flat, twice, twice])
    outputs = {"y": y, "seen": seen, "sum": b.add(added, added), "flat": b.flatten(flat)}
    graph = concat(b.finish(**outputs, again=b.concat([twice, x])), CPU)
    places = {v.name: v.place for n in graph.nodes for v in n.writes if v.place}
    assert places == {"twice/y": " in concat1/y[11:14]"}


def test_concat__leaves_values_with_a_border_alone():
    b = GraphBuilder("bordered", training=False)
    y = b.conv2d(b.input("x", (1, 4, 4, 2)), 3, 1)
    graph = b.finish(y=b.concat([y, y]))
    wide = type(y)("wide", y.shape, border=(1, 1))
    assert concat(graph.with_values({y: wide}), CPU).nodes[0].out is wide


NETWORK = """
def build(b, x, classes):
    for width in (4, 6):
        x = b.concat([b.relu(b.conv2d(x, width, size, padding="same")) for size in (1, 3)])
        threes = b.relu(b.batch_norm(b.conv2d(x, width, 3, padding=1, bias=False)))
        x = b.concat([b.conv2d(x, 3, 1), b.concat([threes, b.max_pool2d(x, 3, 1, padding=1)])])
    return b.dense(b.global_avg_pool2d(x), classes)
"""


def test_concat__trains_on_a_gpu_to_the_bits_of_the_cpu(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NETWORK)
    network = {"arch": f"{tmp_path}/net.py:build", "options": {}, "epochs": 1}
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    simulated = simulated_cuda.install(monkeypatch)
    found = []
    for settings in ({"kernels": "numpy"}, {"device": "cuda"}):
        trainer = toy_trainer(tmp_path / str(len(found)), **network, **settings)
        assert copies(trainer.network.training[16].graph) == []
        trainer.run(lambda _: None)
        found.append(trainer.network.state_dict())
    assert simulated.log.count("replay") > 0
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)
