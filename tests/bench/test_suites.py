from __future__ import annotations

import pytest

from cnnengine.bench.suites import SUITES, get_suite, pick_layers
from cnnengine.engine import models
from cnnengine.engine.errors import InputError

# Multiply-adds of all convolutions of a network for one image, as published and as torchvision's
# models have them, and how often each distinct layer of the suite occurs.
PUBLISHED = {
    "vgg16": (15_346_630_656, (1, 1, 1, 1, 1, 2, 1, 2, 3)),
    "alexnet": (655_566_528, (1, 1, 1, 1, 1)),
    "resnet50": (
        4_087_136_256,
        (1, 1, 3, 4, 2, 1, 1, 4, 1, 3, 3, 1, 1, 6, 1, 5, 5, 1, 1, 3, 1, 2, 2),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_suite__adds_up_to_the_published_network(name):
    total, times = PUBLISHED[name]
    layers = SUITES[name].layers
    flops = [layer.op.flops(layer.x_shape(1), layer.w_shape) for layer in layers]
    assert sum(n * f // 2 for n, f in zip(times, flops, strict=True)) == total


def test_suite__vgg_small_is_the_models():
    graph = models.build_graph("vgg-small", 2, (28, 28, 1), 10, training=True)
    nodes = [node for node in graph.nodes if node.op == "conv2d"]
    told = [(layer.x_shape(2), layer.w_shape, layer.op) for layer in SUITES["vgg-small"].layers]
    assert told == [(n["x"].shape, n["w"].shape, n["op"]) for n in nodes]


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_suite__names_each_layer_once(suite):
    names = [str(layer) for layer in suite.layers]
    assert len(set(names)) == len(names)


def test_pick_layers__takes_numbers_and_ranges():
    suite = get_suite("odd")
    assert pick_layers(suite, "3,1-2") == (suite.layers[2], *suite.layers[:2])
    assert pick_layers(suite, None) == suite.layers


@pytest.mark.parametrize("wanted", ["0", "99", "a", "2-1", "", "1,", "1-99"])
def test_pick_layers__refuses_what_is_not_there(wanted):
    with pytest.raises(InputError, match="--layers"):
        pick_layers(get_suite("odd"), wanted)
