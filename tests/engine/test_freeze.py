"""Frozen layers: where a network can be cut, what a frozen graph computes, and its two halves."""

import numpy as np
import pytest

from cnnengine.engine import freeze
from cnnengine.engine.config import TrainConfig
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.freeze import Freeze
from cnnengine.engine.graph_rules import verify
from cnnengine.engine.ir import Pace
from cnnengine.engine.network import Description, Network
from cnnengine.engine.passes.autodiff import autodiff
from cnnengine.engine.stages import plan_stages, stage_at

BRANCHED = '''
def build(b, x, classes):
    """Two branches, batch norm, a residual, an auxiliary head, dropout behind all of them."""
    x = b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding="same", bias=False, name="conv1"), name="n1"))
    if b.training:
        b.auxiliary(b.dense(b.dropout(x, 0.5), classes, name="aux"), 0.3)
    with b.scope("block"):
        left = b.relu(b.conv2d(x, 4, 1, name="left"))
        right = b.relu(b.conv2d(x, 4, 3, padding="same", name="right"))
        x = b.concat([left, right])
    x = b.max_pool2d(x, 2, name="pool")
    x = b.relu(b.add(b.conv2d(x, 8, 3, padding="same", name="conv2"), x))
    x = b.relu(b.batch_norm(b.conv2d(x, 8, 3, padding="same", name="conv3"), name="n3"))
    return b.dense(b.dropout(b.global_avg_pool2d(x), 0.25), classes, name="top")
'''


@pytest.fixture
def branched(tmp_path):
    """A description of a small network with everything in it that a cut must heed."""
    from cnnengine.engine import userfile

    (tmp_path / "net.py").write_text(BRANCHED)
    arch = userfile.settled(f"{tmp_path}/net.py:build")
    code = userfile.digest(userfile.content(arch))
    return Description(arch, (8, 8, 2), ("a", "b", "c"), (0.5, 0.5), (0.2, 0.3), code=code)


def _names(graph):
    return [freeze.name_of(graph, value) for value in freeze.boundaries(graph)]


def test_boundaries__are_the_values_that_everything_passes_through(branched):
    assert _names(branched.graph(1, training=False)) == [
        "conv1", "n1", "relu1", "block", "pool", "add1", "relu2", "conv3", "n3", "relu3",
        "global_avg_pool2d1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        ("conv1", "relu1/y"),  # batch norm has parameters of its own, so it is not taken along
        ("n1", "relu1/y"), ("block", "pool/y"), ("pool", "pool/y"), ("n3", "global_avg_pool2d1/y"),
    ],
)  # fmt: skip
def test_find_boundary__takes_along_what_has_no_parameters(branched, layer, value):
    graph = branched.graph(1, training=False)
    if layer == "conv1":
        value = "conv1/y"
    assert freeze.find_boundary(graph, layer, "--freeze-until").name == value


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("blok", "has no layer 'blok' (did you mean block"),
        ("block/left", "inside a branch"),
        ("block/left", "one: relu1 and block"),
        ("conv2", "the nearest layers behind which there is one: pool and add1"),
        ("top", "the last layer, so nothing is left to train"),
    ],
)
def test_find_boundary__refuses(branched, layer, told):
    with pytest.raises(InputError) as caught:
        freeze.find_boundary(branched.graph(1, training=False), layer, f"--freeze-until {layer}")
    assert str(caught.value).startswith(f"--freeze-until {layer}: ")
    assert told in str(caught.value)


def test_find_start__is_in_front_of_the_layer(branched):
    graph = branched.graph(1, training=False)
    assert freeze.find_start(graph, "conv3", "").name == "relu2/y"
    assert freeze.find_start(graph, "block", "").name == "relu1/y"
    assert freeze.find_start(graph, "conv1", "") is None
    with pytest.raises(InputError, match="inside a branch"):
        freeze.find_start(graph, "add1", "--unfreeze-at 2:add1")


@pytest.mark.parametrize("cut", [False, True])
def test_frozen__nothing_is_computed_behind_the_boundary_in_backward(branched, cut):
    graph = branched.graph(2, training=True)
    half = freeze.frozen(graph, "pool/y")
    if cut:
        half = freeze.cut(half, "pool/y")[1]
    joint = verify(autodiff(verify(half)))
    backward = joint.nodes[len(half.nodes) :]
    assert {node.name for node in backward} == {
        "conv2", "add1", "relu2", "conv3", "n3", "relu3", "global_avg_pool2d1", "dropout2", "top",
    } - {"add1"}  # fmt: skip
    trained = {name.removeprefix("grad/") for name in joint.outputs if name.startswith("grad/")}
    assert trained == {
        f"{layer}/{name}" for layer in ("conv2", "conv3", "top") for name in "wb"
    } | {"n3/gamma", "n3/beta"}  # fmt: skip
    front = {v for node in half.nodes if node.name in ("conv1", "n1", "pool") for v in node.writes}
    assert not any(v.name.startswith("grad/") and v in front for v in joint.producers())


def test_frozen__batch_norms_rest_and_heads_in_front_are_left_out(branched):
    graph = branched.graph(2, training=True)
    half = freeze.frozen(graph, "pool/y")
    ops = {node.name: node.op for node in half.nodes}
    assert (ops["n1"], ops["n3"]) == ("batch_norm_inference", "batch_norm_training")
    assert next(node for node in half.nodes if node.name == "pool")["code"] is None
    assert "aux" not in ops
    assert not any(p.value.name.startswith("aux/") for p in half.params)
    assert [len(g.keys) for g in (graph, half)] == [2, 1]
    assert [v.name for v in half.inputs] == ["x", "labels"]
    kept = freeze.frozen(graph, "conv1/y")
    assert "aux" in {node.name for node in kept.nodes}


def test_network__its_halves_give_the_bits_of_the_whole(branched):
    settings = {"infer_batch": 3, "train_batches": (4,)}
    rng = np.random.default_rng(0)
    images = rng.normal(size=(7, 8, 8, 2)).astype(np.float32)
    labels = np.array([0, 1, 2, 0], np.int32)
    results = []
    for cut in (False, True):
        device = open_device("cpu")
        network = Network(branched, device, **settings, freeze=Freeze("pool/y", {}, cut))
        with device.session():
            network.initialise(5)
            state = network.state_dict()
            state["n1/running_mean"] += 0.1
            network.load(state)
            x = network.features(images) if cut else images
            logits = network.logits(x)
            plan = network.training[4]
            plan.feed({"x": x[:4], "labels": labels}, seed=1, step=2)
            plan.run()
        views = {n: network.parameters.gradient(n) for n, _ in network.parameters if n[0] in "t3"}
        results.append((logits, np.array(plan.output("loss")), views, network.state_dict()))
    for whole, halves in zip(*results, strict=True):
        if isinstance(whole, dict):
            assert whole.keys() == halves.keys()
            assert all(np.array_equal(whole[name], halves[name]) for name in whole)
        else:
            assert np.array_equal(whole, halves)


def _config(**settings):
    return TrainConfig(**{"epochs": 9, **settings})


def test_plan_stages__boundaries_and_paces(branched):
    config = _config(freeze_until="relu2", unfreeze_at="3:conv2 6:conv1", lower_lr=0.5)
    stages = plan_stages(branched, config, steps_per_epoch=10)
    assert [(s.epoch, s.layer, s.freeze.boundary) for s in stages] == [
        (0, "relu2", "relu2/y"), (2, "pool", "pool/y"), (5, "", ""),
    ]  # fmt: skip
    assert [stage_at(stages, epoch).epoch for epoch in (-1, 0, 1, 2, 4, 5, 8)] == [
        0, 0, 0, 2, 2, 5, 5,
    ]  # fmt: skip
    paces = stages[0].freeze.paces
    assert paces["top/w"] == Pace(1.0, 0)
    assert paces["n3/gamma"] == paces["conv3/w"] == Pace(0.5, 0)
    assert paces["conv2/b"] == Pace(0.25, 20)
    assert paces["block/left/w"] == paces["conv1/w"] == Pace(0.125, 50)
    assert str(stages[1]) == "frozen up to and including pool: 248 of 1,459 parameters"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"freeze_until": "pool", "unfreeze_at": "3:conv3"}, "3:conv3: no more layers are trained"),
        ({"freeze_until": "pool", "unfreeze_at": "3:blok"}, "3:blok: .* .did you mean block"),
        ({"freeze_until": "pool", "unfreeze_at": "3:add1"}, "3:add1: lies inside a branch"),
    ],
)
def test_plan_stages__refuses(branched, settings, told):
    with pytest.raises(InputError, match=f"^--unfreeze-at {told}"):
        plan_stages(branched, _config(**settings), 10)
