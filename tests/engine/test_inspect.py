"""Looking into networks: stages, receptive fields, patches and the gradient of a class."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.data.dataset import Dataset
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.graph_rules import verify
from cnnengine.engine.inspect import gradcam, patches, probe, receptive, stages, view
from cnnengine.engine.models import build_graph, get_model
from cnnengine.engine.network import Description, Network

CLASSES = ("a", "b", "c")
LINE = "C4:k5:s2:p1 P3:s2:p1 C6:edge A2:s1 C5:k1x3:p0 G"


def make(arch, shape=(20, 20, 1), *, positive=False, **options):
    """A small network in float64 with random parameters and running statistics."""
    description = Description(
        arch, shape, CLASSES, (0.0,) * shape[2], (1.0,) * shape[2], "fp64", options
    )
    network = Network(description, open_device("cpu"), infer_batch=1)
    network.initialise(3)
    rng, arrays = np.random.default_rng(0), network.state_dict()
    for name, values in arrays.items():
        if name.endswith(("/b", "/beta", "/gamma", "/running_mean", "/running_var")):
            arrays[name] = rng.uniform(0.2, 1.0, values.shape)
        elif positive:
            arrays[name] = abs(values) + 0.01
    network.load(arrays)
    return network


def pictures(count, shape, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def graph_of(arch, **options):
    model = get_model(arch)
    return build_graph(arch, 1, model.input_shape, model.classes, training=False, options=options)


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("lenet", "conv1 max_pool2d1 conv2 max_pool2d2 dense1 dense2 dense3"),
        ("alexnet-2012", "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 dense6 dense7 dense8"),
        (
            "resnet18",
            "conv1 pool1 block2_1 block2_2 block3_1 block3_2 block4_1 block4_2 block5_1 block5_2 "
            "global_avg_pool2d1 dense",
        ),
        (
            "googlenet",
            "conv1 pool1 conv2_reduce conv2 pool2 inception3a inception3b pool3 inception4a "
            "inception4b inception4c inception4d inception4e pool4 inception5a inception5b "
            "global_avg_pool2d1 dense",
        ),
    ],
)
def test_stages__what_everything_goes_through(arch, names):
    assert [stage.name for stage in stages.stages(graph_of(arch))] == names.split()


def test_low_middle_high__takes_whole_modules():
    for arch, names in {
        "vgg-small": ["conv1_1", "conv2_2", "conv3_2"],
        "googlenet": ["conv1", "inception4b", "inception5b"],
        "squeezenet": ["conv1", "fire6", "conv10"],
        "lenet": ["conv1", "conv2"],
    }.items():
        listed = stages.stages(graph_of(arch))
        assert [stage.name for stage in stages.low_middle_high(listed)] == names


def test_find__shows_what_the_activation_makes_of_a_layer():
    graph = graph_of("resnet18")
    assert stages.find(graph, "block2_1/conv1").value.name == "block2_1/relu1/y"
    assert stages.find(graph, "block2_1/conv2").value.name == "block2_1/norm2/y"
    assert stages.find(graph, "block2_1").value.name == "block2_1/relu2/y"


def test_find__an_unknown_layer_and_one_without_pictures():
    graph = graph_of("vgg-small")
    with pytest.raises(InputError, match=r"unknown layer 'conv22' \(did you mean conv2_2"):
        stages.find(graph, "conv22")
    with pytest.raises(InputError, match="dense1 has no pictures .* its output is 256; .*conv1_1"):
        stages.find(graph, "dense1")


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [  # Araujo et al. 2019, and the papers; as far as the image reaches
        ("alexnet-2012", {"conv1": 11, "pool1": 19, "conv2": 51, "conv5": 163, "pool5": 195}),
        ("vgg16", {"conv1_2": 5, "pool3": 44, "conv5_3": 196, "pool5": 212, "dense1": 224}),
        ("resnet18", {"conv1": 7, "pool1": 11, "block2_1": 27, "block3_1": 67, "block4_1": 147}),
        ("squeezenet", {"conv1": 3, "pool1": 7, "fire2": 15, "fire9": 207}),
    ],
)
def test_fields__of_known_networks(arch, sizes):
    graph = graph_of(arch)
    known = receptive.fields(graph)
    told = {stage.name: known[stage.value].size for stage in stages.stages(graph)}
    assert {name: told[name] for name in sizes} == {n: (s, s) for n, s in sizes.items()}


@pytest.mark.parametrize(
    ("arch", "side", "options"),
    [
        (LINE, 20, {}),
        ("squeezenet", 33, {"width": 0.05}),
        ("resnet18", 40, {"width": 0.02}),
    ],
)
def test_fields__are_the_pixels_that_change_a_value(arch, side, options):
    network = make(arch, (side, side, 1), positive=True, **options)
    graph = probe.inference_graph(network, 1)
    known = receptive.fields(graph)
    values = [s.value for s in stages.stages(graph) if s.is_picture]
    assert len(values) > 3
    ask = probe.Probe(network, [value.name for value in values])
    images = np.ones((side + 1, side, side, 1), np.uint8)  # the last is as it was
    images[range(side), range(side), range(side)] = 255
    parts = [ask(images[i : i + ask.batch]) for i in range(0, side + 1, ask.batch)]
    for value in values:
        answers = np.concatenate([part[value.name] for part in parts])
        changed = (answers[:-1] != answers[-1:]).any(axis=3)  # [side,P,Q]
        rows, columns = known[value].rows, known[value].columns
        at = np.arange(side)[:, None]
        inside = [(at >= pairs[:, 0]) & (at <= pairs[:, 1]) for pairs in (rows, columns)]
        expected = inside[0][:, :, None] & inside[1][:, None, :]
        np.testing.assert_array_equal(changed, expected, err_msg=value.name)


def test_fields__with_dilation_and_asymmetric_padding():
    b = GraphBuilder("n", training=False)
    x = b.input("x", (1, 9, 7, 1))
    y = b.conv2d(x, 2, (3, 2), dilation=(2, 1), padding=(3, 1, 0, 1))
    graph = b.finish(logits=y)
    told = receptive.fields(graph)[y]
    assert told.rows.tolist() == [
        [1, 1], [0, 2], [1, 3], [0, 4], [1, 5], [2, 6], [3, 7], [4, 8], [5, 7],
    ]  # fmt: skip
    assert told.columns.tolist() == [[i, min(i + 1, 6)] for i in range(7)]
    assert told.box(0, 6) == (1, 2, 6, 7)


def test_fields__of_padding_alone_are_empty():
    b = GraphBuilder("n", training=False)
    x = b.input("x", (1, 2, 2, 1))
    y = b.conv2d(x, 2, 1, padding=1)
    told = receptive.fields(b.finish(logits=y))[y]
    top, bottom, left, right = told.box(0, 1)
    assert top == bottom
    assert (left, right) == (0, 1)


def test_fields__edge_padding_sees_the_nearest_pixel():
    b = GraphBuilder("n", training=False)
    x = b.input("x", (1, 3, 3, 1))
    y = b.conv2d(x, 2, 2, padding=(2, 2, 2, 2), padding_mode="edge")
    told = receptive.fields(b.finish(logits=y))[y]
    assert told.rows.tolist() == [[0, 0], [0, 0], [0, 1], [1, 2], [2, 2], [2, 2]]


def test_fields__of_what_imported_networks_bring():
    b = GraphBuilder("n", training=False)
    x = b.input("x", (1, 6, 6, 1))
    padded = b.pad(x, (0, 1, -2, 0), (0, 0, 1, 0))  # [1,7,5,1]
    column = b.reduce_sum(padded, (1,), keepdims=True)  # [1,1,5,1]
    scale = b.broadcast(b.reduce_sum(column, (2,), keepdims=True), padded.shape)
    both = b.mul(padded, scale)
    slope = b.broadcast(b.parameter("slope", (1, 1, 1, 1), "ones"), padded.shape)
    y = b.conv2d(b.mul(padded, slope), 2, 2, name="conv")  # [1,6,4,2]
    split = b.transpose(b.reshape(y, (1, 6, 4, 2, 1)), (0, 1, 2, 4, 3))
    flat = b.transpose(b.flatten(split), (1, 0))
    told = receptive.fields(b.finish(logits=both, flat=flat))
    assert told[padded].rows.tolist() == [[6, -1], *([i, i] for i in range(6))]
    assert told[padded].columns.tolist() == [[2, 2], [3, 3], [4, 4], [5, 5], [6, -1]]
    assert told[column].rows.tolist() == [[0, 5]]
    assert told[column].columns.tolist() == told[padded].columns.tolist()
    assert told[both].columns.tolist() == [[2, 5]] * 5
    assert told[split].rows.tolist() == [[0, 0], *([i, i + 1] for i in range(5))]
    assert told[flat].columns.tolist() == [[2, 5]]


@pytest.mark.parametrize("move", ["transpose", "reshape"])
def test_fields__an_op_that_moves_pixels_is_named(move):
    b = GraphBuilder("n", training=False)
    x = b.input("x", (1, 6, 6, 2))
    moved = b.transpose(x, (0, 2, 1, 3)) if move == "transpose" else b.reshape(x, (1, 12, 3, 2))
    with pytest.raises(InputError, match=f"not known which pixels {move} takes"):
        receptive.fields(b.finish(logits=moved))


def test_strongest_patches__are_all_that_the_value_depends_on():
    network = make("vgg-small", (20, 20, 3), width=0.1)
    images = pictures(30, (20, 20, 3))
    dataset = Dataset("noise", images, np.arange(30, dtype=np.int32) % 3, CLASSES)
    graph = probe.inference_graph(network, 1)
    wanted = [stages.find(graph, name).value for name in ("conv1_2", "conv2_2")]
    known = {value.name: field for value, field in receptive.fields(graph).items()}
    ask = probe.Probe(network, [value.name for value in wanted])
    ask.batch = 13  # the last batch is smaller
    channels = {value.name: [1, 0] for value in wanted}
    found = patches.strongest_patches(ask, dataset, channels, known, count=4)
    assert set(found) == {(value.name, k) for value in wanted for k in (0, 1)}
    for (name, channel), best in found.items():
        maps = np.concatenate([ask(images[i : i + 13])[name] for i in range(0, 30, 13)])
        peaks = maps[..., channel].max(axis=(1, 2))
        assert [patch.value for patch in best] == sorted(peaks.tolist(), reverse=True)[:4]
        for patch in best:
            top, bottom, left, right = patch.box
            assert bottom - top <= known[name].size[0] < 20
            other = pictures(1, (20, 20, 3), seed=patch.index)[0]
            other[top:bottom, left:right] = patch.pixels
            assert patch.value in ask(other[None])[name][0, ..., channel].astype(np.float32)
            assert patch.label == CLASSES[patch.index % 3]
            np.testing.assert_array_equal(images[patch.index, top:bottom, left:right], patch.pixels)


@pytest.mark.parametrize(
    ("arch", "shape", "layer"),
    [
        ("C4 P C6:s2 A2 F8", (16, 16, 1), "conv1"),
        ("squeezenet", (49, 49, 3), "fire4/expand3x3"),
        ("googlenet", (80, 80, 3), "inception4d/conv1x1"),
        ("resnet18", (40, 40, 3), None),
    ],
)
def test_gradient_graph__is_the_slope_along_the_biases(arch, shape, layer):
    options = {} if " " in arch else {"width": 0.0625}
    network, image = make(arch, shape, **options), pictures(1, shape)
    graph = probe.inference_graph(network, 1)
    node = next(n for n in graph.nodes if n.name == (layer or "block2_2/norm1"))
    plan = probe.bind(network, verify(gradcam.gradient_graph(graph, node.out)))
    seed = np.random.default_rng(5).standard_normal((1, 3))
    plan.feed({"x": network.normalise(image), gradcam.SEED: seed})
    plan.run()
    slopes = plan.output(gradcam.GRADIENT).sum(axis=(0, 1, 2))
    direction = np.random.default_rng(6).standard_normal(len(slopes))
    name = (node["b"] or node["beta"]).name
    arrays, step, weighted = network.state_dict(), 1e-6, []
    for sign in (1, -1):
        network.load({**arrays, name: arrays[name] + sign * step * direction})
        plan.run()
        weighted.append((plan.output("logits") * seed).sum())
    slope = (weighted[0] - weighted[1]) / (2 * step)
    assert slope == pytest.approx(slopes @ direction, rel=1e-5)
    assert abs(slope) > 1e-6


def test_gradient_graph__an_op_without_a_rule_is_named(monkeypatch):
    network = make("C4 P F8")
    graph = probe.inference_graph(network, 1)
    rules = {op: rule for op, rule in gradcam.RULES.items() if op != "max_pool2d"}
    monkeypatch.setattr(gradcam, "RULES", rules)
    with pytest.raises(InputError, match="max_pool2d has no gradient"):
        gradcam.gradient_graph(graph, stages.find(graph, "conv1").value)


def test_grad_cam__beside_torch(request):
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        if request.config.getoption("--require-torch"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    functional = torch.nn.functional
    network, image = make("C4 P C6 P F8", (12, 12, 3)), pictures(1, (12, 12, 3))
    p = {name: torch.from_numpy(array) for name, array in network.state_dict().items()}

    def conv(x, name):
        w = p[f"{name}/w"].permute(0, 3, 1, 2)
        return functional.relu(functional.conv2d(x, w, p[f"{name}/b"], padding=1))

    x = torch.from_numpy(network.normalise(image).astype(np.float64)).permute(0, 3, 1, 2)
    maps = conv(functional.max_pool2d(conv(x, "conv1"), 2), "conv2").detach().requires_grad_()
    flat = functional.max_pool2d(maps, 2).permute(0, 2, 3, 1).flatten(1)
    hidden = functional.relu(functional.linear(flat, p["dense1/w"], p["dense1/b"]))
    logits = functional.linear(hidden, p["classes/w"], p["classes/b"])
    (gradient,) = torch.autograd.grad(logits[0, 1], maps)
    expected = functional.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))[0]
    layer = stages.find(probe.inference_graph(network, 1), "conv2").value.name
    told = gradcam.grad_cam(network, image[0], 1, layer)
    assert expected.max() > 0
    np.testing.assert_allclose(told.heat, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        told.gradient, gradient[0].permute(1, 2, 0).numpy(), rtol=1e-9, atol=1e-12
    )


def test_grad_cam__behind_a_global_average_the_weights_are_the_class_s():
    network, image = make("googlenet", (80, 80, 3), width=0.0625), pictures(1, (80, 80, 3))[0]
    layer = stages.find(probe.inference_graph(network, 1), "inception5b").value
    told = gradcam.grad_cam(network, image, 2, layer.name)
    H, W = layer.shape[1:3]
    np.testing.assert_allclose(told.weights, network.state_dict()["dense/w"][2] / (H * W))


def test_look__agrees_with_the_network():
    network, image = make("resnet18", (40, 40, 3), width=0.0625), pictures(1, (40, 40, 3))[0]
    seen = view.look(network, image, channels=3, label=1)
    logits = network.logits(network.normalise(image[None]))[0]
    assert [name for name, _ in seen.answers] == [CLASSES[i] for i in np.argsort(-logits)]
    assert sum(share for _, share in seen.answers) == pytest.approx(1)
    assert seen.looked_for[0] == "b"
    assert [layer.level for layer in seen.layers] == ["Low", "Middle", "High"]
    for layer in seen.layers:
        peaks = [channel.map.max() for channel in layer.channels]
        assert len(peaks) == 3
        assert peaks == sorted(peaks, reverse=True)
        assert peaks[0] == layer.high
        assert layer.channels[0].map.shape == layer.step.shape[:2]
    assert seen.steps[0].shape == (40, 40, 3)
    assert seen.filters.shape[1:] == (7, 7, 3)


def test_look__an_answer_that_is_not_finite():
    network = make("C4 P F8")
    arrays = network.state_dict()
    arrays["dense1/b"][0] = np.nan
    network.load(arrays)
    with pytest.raises(InputError, match="not finite; the first that is not: .*dense1"):
        view.look(network, pictures(1, (20, 20, 1))[0])


def test_choose_layers__a_network_without_convolutions_and_a_layer_twice():
    with pytest.raises(InputError, match="F8 has no convolution"):
        view.choose_layers(make("P F8"))
    with pytest.raises(InputError, match="--layers names relu1 twice"):
        view.choose_layers(make("C4 P F8"), ["conv1", "relu1"])
