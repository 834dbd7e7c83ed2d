"""The networks of the literature: parameters, shapes, and one step beside torch in float64."""

import numpy as np
import pytest

from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.device import open_device
from cnnengine.engine.diagnose import answer_not_finite
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph, get_model, model_options
from cnnengine.engine.network import Description, Network

CLASSES = 5

# network → parameters of inference, of training (with auxiliary heads), 1000 classes
PARAMETERS = {
    "alexnet": (61_100_840, 61_100_840),
    "alexnet-2012": (60_965_224, 60_965_224),
    "googlenet": (6_998_552, 13_378_280),
    "googlenet-bn": (6_624_904, 13_004_888),
    "inception-v3": (23_834_568, 27_161_264),
    "resnet18": (11_689_512, 11_689_512),
    "resnet50": (25_557_032, 25_557_032),
    "squeezenet": (1_235_496, 1_235_496),
    "vgg16": (138_357_544, 138_357_544),
}

SHAPES = {
    "alexnet": {"conv1": (55, 55, 64), "conv2": (27, 27, 192), "conv5": (13, 13, 256),
                "pool5": (6, 6, 256), "dense7": (4096,), "dense8": (1000,)},
    "alexnet-2012": {"conv1": (55, 55, 96), "lrn1": (55, 55, 96), "conv2": (27, 27, 256),
                     "conv4": (13, 13, 384), "pool5": (6, 6, 256), "dense8": (1000,)},
    "googlenet": {"conv1": (112, 112, 64), "pool2": (28, 28, 192),
                  "inception3a/concat1": (28, 28, 256), "inception3b/concat1": (28, 28, 480),
                  "inception4a/concat1": (14, 14, 512), "inception4d/concat1": (14, 14, 528),
                  "inception4e/concat1": (14, 14, 832), "inception5b/concat1": (7, 7, 1024)},
    "inception-v3": {"conv1": (149, 149, 32), "conv3": (147, 147, 64), "pool2": (35, 35, 192),
                     "mixed1/concat1": (35, 35, 256), "mixed3/concat1": (35, 35, 288),
                     "mixed4/concat1": (17, 17, 768), "mixed8/concat1": (17, 17, 768),
                     "mixed9/concat1": (8, 8, 1280), "mixed11/concat1": (8, 8, 2048)},
    "resnet18": {"conv1": (112, 112, 64), "pool1": (56, 56, 64), "block2_2/add1": (56, 56, 64),
                 "block3_1/conv_shortcut": (28, 28, 128), "block5_2/add1": (7, 7, 512)},
    "resnet50": {"block2_1/conv_shortcut": (56, 56, 256), "block3_1/conv2": (28, 28, 128),
                 "block3_4/add1": (28, 28, 512), "block4_6/add1": (14, 14, 1024),
                 "block5_3/add1": (7, 7, 2048), "dense": (1000,)},
    "squeezenet": {"conv1": (111, 111, 64), "pool1": (55, 55, 64), "fire3/concat1": (55, 55, 128),
                   "fire5/concat1": (27, 27, 256), "fire9/concat1": (13, 13, 512),
                   "conv10": (13, 13, 1000)},
}  # fmt: skip

# network → side of a small square image, width; the sides are the smallest that fit all layers
SMALL = {
    "squeezenet": (49, 0.25),
    "vgg16": (32, 0.125),
    "alexnet": (63, 0.125),
    "alexnet-2012": (67, 0.125),
    "resnet18": (40, 0.125),
    "resnet50": (40, 0.125),
    "googlenet": (80, 0.125),
    "googlenet-bn": (80, 0.125),
    "inception-v3": (299, 0.0625),
}
AUXILIARY_WEIGHTS = {"googlenet": (0.3, 0.3), "googlenet-bn": (0.3, 0.3), "inception-v3": (0.4,)}


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameter_count__is_that_of_the_literature(arch):
    model = get_model(arch)
    counts = tuple(
        build_graph(arch, 2, model.input_shape, 1000, training=training).parameter_count()
        for training in (False, True)
    )
    assert counts == PARAMETERS[arch]


@pytest.mark.parametrize("arch", SHAPES)
def test_build_graph__the_layers_have_the_shapes_of_the_literature(arch):
    graph = build_graph(arch, 1, get_model(arch).input_shape, 1000, training=False)
    shapes = {node.name: node.writes[0].shape[1:] for node in graph.nodes}
    assert {name: shapes.get(name) for name in SHAPES[arch]} == SHAPES[arch]


def _network(arch, side, width, batch):
    """A narrow network in float64 with random weights, biases and statistics; its arrays."""
    options = {name: 0.0 for name in model_options(get_model(arch)) if "dropout" in name}
    flat = (0.0,) * 3
    description = Description(
        arch, (side, side, 3), tuple(map(str, range(CLASSES))), flat, flat, "fp64",
        {**options, "width": width},
    )  # fmt: skip
    network = Network(description, open_device("cpu"), infer_batch=batch, train_batches=(batch,))
    network.initialise(1)
    rng = np.random.default_rng(2)
    arrays = network.state_dict()
    for array in arrays.values():
        if array.ndim == 1:
            array += rng.uniform(0, 0.2, array.shape)
    network.load(arrays)
    return network, arrays


def _apart(ours, theirs):
    """The largest difference as a share of the largest value."""
    theirs = theirs.detach().numpy()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("arch", SMALL)
def test_network__forward_and_gradients_are_those_of_torch(arch, torch_oracle):
    batch = 2  # batch norm in a head of one pixel needs two
    network, arrays = _network(arch, *SMALL[arch], batch)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((batch, *network.description.input_shape))
    labels = np.array([4, 0], np.int32)
    from . import torch_networks as theirs

    define = getattr(theirs, arch.replace("-", "_"))
    images = theirs.images(x)

    network.inference.feed({"x": x})
    network.inference.run()
    (expected,) = _several(define(theirs.Parts(arrays, training=False), images))
    assert _apart(network.inference.output("logits"), expected) < 1e-11

    parts = theirs.Parts(arrays, training=True)
    logits = _several(define(parts, images))
    weights = (1.0, *AUXILIARY_WEIGHTS.get(arch, ()))
    losses = [theirs.losses(y, labels) for y in logits]
    sum(w * loss.mean() for w, loss in zip(weights, losses, strict=True)).backward()
    plan = network.training[batch]
    plan.feed({"x": x, "labels": labels})
    plan.run()
    assert _apart(plan.output("logits"), logits[0]) < 1e-11
    assert _apart(plan.output("loss"), losses[0]) < 1e-11
    trained = {n: t.grad for n, t in parts.tensors.items() if t.requires_grad}
    assert {v.name for v in (p.value for p in plan.graph.params)} == set(trained)
    largest = max(float(g.abs().max()) for g in trained.values())
    for name, gradient in trained.items():
        ours = network.parameters.gradient(name)
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert np.abs(ours - gradient.numpy()).max() < 1e-8 * scale, name


def _several(logits):
    return logits if isinstance(logits, tuple) else (logits,)


@pytest.mark.parametrize("width", [0.0, -1.0, 65.0])
def test_scaled__a_width_that_no_network_has(width):
    with pytest.raises(InputError, match="option width must be above 0 and at most 64"):
        build_graph("resnet18", 1, (32, 32, 3), 5, training=False, options={"width": width})


def test_scaled__groups_divide_what_is_left():
    graph = build_graph(
        "alexnet-2012", 1, (67, 67, 3), 5, training=False, options={"width": 0.01}
    )  # fmt: skip
    assert graph.nodes[0].out.shape[3] == 2


def _two_heads(b, classes, weight):
    """A network with an auxiliary head in front of its last layer."""
    x = b.input("x", (4, 5, 5, 2))
    labels = b.input("labels", (4,), "int32")
    x = b.relu(b.conv2d(x, 3, 3, name="low"))
    head = b.dense(x, classes, name="head")
    b.auxiliary(head, weight)
    logits = b.dense(x, classes, name="top")
    loss = b.softmax_cross_entropy(logits, labels, scaled=True)
    b.softmax_cross_entropy(head, labels, scaled=True, name="loss_auxiliary1", weight=weight)
    return b.finish(logits=logits, loss=loss)


def test_auxiliary__weight_and_loss_scale_multiply_its_gradient():
    graph = _two_heads(GraphBuilder("heads"), 3, 0.25)
    main, other = (n for n in graph.nodes if n.op == "softmax_cross_entropy")
    assert (main["op"].weight, other["op"].weight) == (1.0, 0.25)
    assert main["grad_scale"] is other["grad_scale"] is not None
    assert [value.name for value in graph.inputs] == ["x", "labels", "grad_scale"]


def test_auxiliary__has_no_place_in_inference():
    b = GraphBuilder("heads", training=False)
    with pytest.raises(InputError, match="training only"):
        b.auxiliary(b.input("x", (1, 3)), 0.3)


def test_inference_dict__leaves_auxiliary_heads_out():
    network, _ = _network("googlenet", *SMALL["googlenet"], 2)
    names = set(network.inference_dict())
    assert {n for n in network.state_dict() if n not in names} == {
        f"auxiliary{module}/{layer}/{part}"
        for module in ("4a", "4d")
        for layer in ("conv", "dense1", "dense2")
        for part in "wb"
    }
    alone = Network(network.description, network.device, infer_batch=2)
    alone.load(network.inference_dict())


def test_network__rows_are_filled_up_for_answers_only():
    network = Network(
        Description("lenet", (28, 28, 1), tuple("abcde"), (0.0,), (1.0,)), open_device("cpu"),
        infer_batch=4, train_batches=(4,),
    )  # fmt: skip
    network.initialise(0)
    x = np.random.default_rng(3).standard_normal((4, 28, 28, 1)).astype(np.float32)
    np.testing.assert_array_equal(network.logits(x[:3]), network.logits(x)[:3])
    for odd in (x[0], x[..., 0], x[:, :1], np.repeat(x, 3, axis=3)):
        with pytest.raises(ValueError, match=r"x is \[.*, it must be \[4, 28, 28, 1\]"):
            network.logits(odd)
    for images, labels in ((x[:3], [1, 2, 3, 4]), (x, [1, 2, 3])):
        with pytest.raises(ValueError, match="it must be"):
            network.training[4].feed({"x": images, "labels": labels})
    with pytest.raises(ValueError, match="x is"):
        network.inference.feed({"x": np.repeat(x, 2, axis=0)})


def test_answer_not_finite__looks_with_the_running_statistics_of_the_network():
    description = Description("resnet18", (32, 32, 3), ("a", "b"), (0.0,) * 3, (1.0,) * 3)
    network = Network(description, open_device("cpu"), infer_batch=1)
    network.initialise(0)
    arrays = network.state_dict()
    name = [n for n in arrays if n.endswith("running_mean")][4]
    arrays[name][0] = np.nan
    network.load(arrays)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    assert not np.isfinite(network.logits(images)).all()
    layer = name.rpartition("/")[0]
    told = str(answer_not_finite(network, images))
    assert told.endswith(f"batch_norm_inference in layer {layer}")
