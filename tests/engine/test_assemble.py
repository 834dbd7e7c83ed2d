"""Networks written in a line: what each word makes, and what is told when one does not fit."""

import pytest

from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph, get_model
from cnnengine.kernels import spec


def _graph(text, shape=(28, 28, 1), training=False):
    return build_graph(text, 2, shape, 10, training=training)


def _only(text, op):
    """The one call of `op`."""
    (node,) = (n for n in _graph(text, (28, 28, 4), training=True).nodes if n.op == op)
    return node


def test_network__layers_stand_in_order_and_the_classes_are_added():
    graph = _graph("C64 C64 P C128 C128 P F256")
    assert [(n.name, n.op, n.out.shape[1:]) for n in graph.nodes if n.op != "relu"] == [
        ("conv1", "conv2d", (28, 28, 64)), ("conv2", "conv2d", (28, 28, 64)),
        ("pool1", "max_pool2d", (14, 14, 64)), ("conv3", "conv2d", (14, 14, 128)),
        ("conv4", "conv2d", (14, 14, 128)), ("pool2", "max_pool2d", (7, 7, 128)),
        ("flatten1", "reshape", (6272,)), ("dense1", "dense", (256,)), ("classes", "dense", (10,)),
    ]  # fmt: skip
    assert sum(n.op == "relu" for n in graph.nodes) == 5


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("C8", spec.Conv2d(padding=(1, 1, 1, 1))),
        ("C8:k5:s2", spec.Conv2d((2, 2), (2, 2, 2, 2))),
        ("C8:k1x7:s2x1", spec.Conv2d((2, 1), (0, 0, 3, 3))),
        ("C8:p0", spec.Conv2d()),
        ("C8:p1x2:edge", spec.Conv2d(padding=(1, 1, 2, 2), padding_mode="edge")),
        ("C8:d2:g4", spec.Conv2d(padding=(2, 2, 2, 2), dilation=(2, 2), groups=4)),
    ],
)
def test_network__settings_of_a_convolution(word, expected):
    assert _only(word, "conv2d")["op"] == expected


@pytest.mark.parametrize(
    ("word", "op", "expected"),
    [
        ("P", "max_pool2d", spec.MaxPool2d((2, 2), (2, 2))),
        ("P3:s2:p1", "max_pool2d", spec.MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1))),
        ("A4", "avg_pool2d", spec.AvgPool2d((4, 4), (4, 4))),
        ("D0.25", "dropout", spec.Dropout(0.25)),
        ("L", "lrn", spec.LRN()),
    ],
)
def test_network__settings_of_other_layers(word, op, expected):
    assert _only(word, op)["op"] == expected


def test_network__norm_takes_the_bias_and_linear_the_relu():
    ops = [n.op for n in _graph("C8:norm:linear G F4:linear").nodes]
    assert ops == ["conv2d", "batch_norm_inference", "global_avg_pool2d", "dense", "dense"]
    names = {p.value.name for p in _graph("C8:norm").params}
    assert {"conv1/w", "conv1_norm/gamma"} < names
    assert "conv1/b" not in names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("C8 Q8", "layer 'Q8' begins with none of: C convolution"),
        ("C", "layer 'C': its size must be a whole number from 1, not ''"),
        ("C0", "layer 'C0': its size must be a whole number from 1, not '0'"),
        ("C8 C9999999999", "must be a whole number"),
        ("C8:z3", "a convolution has no setting 'z3'; :k :s :p"),
        ("C8:k", "layer 'C8:k': :k must be a whole number from 1, not ''"),
        ("C8:k3:k5", "sets k twice"),
        ("C8:g1x2", ":g takes one number"),
        ("P2:norm", "a max pool has no setting 'norm'"),
        ("G2", "a global average has no size"),
        ("C8 D1", "dropout takes a probability"),
        ("C8 Dnan", "dropout takes a probability"),
        ("C8 " * 1001, "may have 1000 layers"),
    ],
)
def test_network__a_word_that_says_nothing(text, told):
    with pytest.raises(InputError, match=told):
        get_model(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("C8 C8:k30:p0", r"layer conv2 of .*reaches over 30 .* only 28; x=\(2, .* w=\(8, 30, 30"),
        ("C8 P P P P P", r"layer pool5 of .*spans 2 pixels .* only 1; x=\(2, 1, 1, 8\)"),
        ("C8:g3", r"layer conv1 of .*x=\(2, 28, 28, 1\)"),
        ("C8 F3 C8", r"layer 'C8' \(conv2\) of .* needs images .* gives relu2/y \[2,3\]"),
        ("G L", r"layer 'L' of .* needs images"),
    ],
)
def test_network__a_shape_that_cannot_work_names_layer_and_shapes(text, told):
    with pytest.raises(InputError, match=told):
        _graph(text)


def test_get_model__a_name_with_a_typing_error_is_no_description():
    with pytest.raises(InputError, match="unknown architecture 'LeNet' .*lenet"):
        get_model("LeNet")


def test_get_model__a_description_has_no_options():
    with pytest.raises(InputError, match="has no options"):
        build_graph("C8 P", 1, (28, 28, 1), 10, training=False, options={"width": 0.5})
