"""IR, builder, autodiff and fusion: structure, printing, and the errors that users see."""

from dataclasses import replace

import numpy as np
import pytest

from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.compile import compile_graph, stages
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.geometry import four
from cnnengine.engine.graph_rules import GraphError, verify
from cnnengine.engine.models import build_graph, get_model, list_models
from cnnengine.engine.passes.autodiff import autodiff
from cnnengine.engine.passes.fuse import fuse
from cnnengine.kernels.errors import ShapeError


def _ops(graph):
    return [node.op for node in graph.nodes]


def test_verify__a_value_read_before_it_is_made():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=True)
    with pytest.raises(GraphError, match="before it is made"):
        verify(graph.with_nodes(graph.nodes[::-1]))


def test_verify__a_value_written_twice():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=True)
    with pytest.raises(GraphError, match="written twice"):
        verify(graph.with_nodes([*graph.nodes, graph.nodes[0]]))


def test_verify__a_node_that_breaks_its_contract_is_named():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=True)
    conv = graph.nodes[0]
    broken = conv.with_arguments(out=replace(conv.out, shape=(2, 5, 5, 6)))
    with pytest.raises(ShapeError, match="conv1: conv2d: out must be"):
        verify(graph.with_nodes([broken, *graph.nodes[1:]]))


def test_verify__an_output_that_is_never_made():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=False)
    with pytest.raises(GraphError, match="is never made"):
        verify(graph.with_nodes(graph.nodes[:-1]))


def test_graph__prints_one_line_a_value_and_node():
    text = str(build_graph("lenet", 2, (28, 28, 1), 10, training=False))
    assert "param conv1/w: float32[6,5,5,1]" in text
    assert "conv1/y: float32[2,28,28,6] = conv2d(x=x, w=conv1/w, b=conv1/b" in text
    assert "return logits = dense3/y" in text


def test_fuse__vgg_small_inference_is_convs_pools_and_dense_only():
    graph = fuse(build_graph("vgg-small", 2, (28, 28, 1), 10, training=False))
    block = ["conv2d", "conv2d_relu_pool"]
    assert _ops(graph) == [*block * 3, "reshape", "dense", "dense"]
    assert graph.nodes[0]["relu"] is True
    assert graph.nodes[-2]["relu"] is True
    assert not graph.nodes[-1]["relu"]


def test_fuse__training_keeps_no_activation_in_front_of_a_pool():
    graph = verify(fuse(autodiff(build_graph("vgg-small", 2, (28, 28, 1), 10, training=True))))
    ops = _ops(graph)
    assert "relu" not in ops
    assert "max_pool2d" not in ops
    assert ops.count("conv2d_relu_pool") == ops.count("conv2d_relu_pool_backward") == 3
    masked = [n for n in graph.nodes if n.op == "conv2d_dgrad" and n["mask"] is not None]
    assert len(masked) == 3
    assert all(n["db"] is not None for n in masked)


def test_fuse__residual_and_batch_norm():
    b = GraphBuilder("block", training=True)
    x = b.input("x", (2, 8, 8, 4))
    labels = b.input("labels", (2,), "int32")
    y = b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding="same", bias=False, name="c1"), name="n1"))
    y = b.relu(b.add(b.conv2d(y, 4, 3, padding="same", name="c2"), y))
    logits = b.dense(b.global_avg_pool2d(y), 3, name="d")
    loss = b.softmax_cross_entropy(logits, labels)
    graph = verify(fuse(verify(autodiff(verify(b.finish(logits=logits, loss=loss))))))
    by_name = {(n.name, n.op): n for n in graph.nodes}
    assert by_name["n1", "batch_norm_training"]["relu"] is True
    assert by_name["n1", "batch_norm_backward"]["mask"] is not None
    assert by_name["c2", "conv2d"]["residual"] is not None
    assert by_name["c2", "conv2d"]["relu"] is True
    assert "add" in _ops(graph)  # the two gradients that meet at y


def test_autodiff__no_gradient_of_the_image_and_none_behind_a_frozen_layer():
    def network(frozen):
        b = GraphBuilder("half", training=True)
        x = b.input("x", (2, 8, 8, 1))
        labels = b.input("labels", (2,), "int32")
        with b.frozen(frozen):
            y = b.relu(b.conv2d(x, 4, 3, name="low"))
            y = b.relu(b.conv2d(y, 4, 3, name="middle"))
        logits = b.dense(y, 3, name="top")
        return autodiff(b.finish(logits=logits, loss=b.softmax_cross_entropy(logits, labels)))

    whole, half = network(frozen=False), network(frozen=True)
    assert all("grad/x" not in v.name for n in whole.nodes for v in n.writes)
    assert {n for n in whole.outputs if n.startswith("grad/")} == {
        f"grad/{layer}/{p}" for layer in ("low", "middle", "top") for p in "wb"
    }
    assert {n for n in half.outputs if n.startswith("grad/")} == {"grad/top/w", "grad/top/b"}
    backward = [n.op for n in half.nodes if "grad" in n.op]
    assert sorted(backward) == ["bias_grad", "dense_wgrad"]


def test_autodiff__values_that_are_added_and_read_elsewhere():
    b = GraphBuilder("both")
    x = b.input("x", (2, 4, 4, 2))
    one, two = b.conv2d(x, 3, 1, name="one"), b.conv2d(x, 3, 1, name="two")
    y = b.add(b.add(one, two), b.add(b.add(one, one), two))
    logits = b.dense(b.global_avg_pool2d(y), 3)
    loss = b.softmax_cross_entropy(logits, b.input("labels", (2,), "int32"))
    graph = verify(autodiff(b.finish(loss=loss, logits=logits)))
    assert [v.name for node in graph.nodes for v in node.writes if "+" in v.name] == [
        "grad/one/y+1", "grad/one/y+2", "grad/two/y+1"
    ]  # fmt: skip


def test_stages__every_pass_is_listed_in_order():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=True)
    names = [name for name, _ in stages(graph, open_device("cpu"), training=True)]
    assert names == ["build", "autodiff", "fuse", "concat", "select"]


def test_select__every_node_says_which_backend_and_why():
    graph = build_graph("vgg-small", 2, (28, 28, 1), 10, training=True)
    program = compile_graph(graph, open_device("cpu"), training=True)
    for node in program.graph.nodes:
        if node.op != "reshape":
            assert node.choice is not None
            assert node.choice.backend in open_device("cpu").backends
    only = compile_graph(graph, open_device("cpu", "numpy"), training=True)
    assert {n.choice.backend for n in only.graph.nodes if n.choice} == {"numpy"}


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("same", (1, 1, 1, 1)), ("valid", (0, 0, 0, 0)), (2, (2,) * 4), ((1, 2), (1, 1, 2, 2))],
)
def test_four__padding_in_every_form(padding, expected):
    assert four(padding, (3, 3)) == expected


def test_four__same_of_an_even_filter_puts_the_extra_pixel_behind():
    assert four("same", (4, 2)) == (1, 2, 0, 1)
    with pytest.raises(InputError, match="padding must be"):
        four("some")


def test_build__an_image_that_is_too_small_names_the_layer():
    with pytest.raises(InputError, match=r"layer conv2 of lenet: .* padded H has only 4"):
        build_graph("lenet", 2, (8, 8, 1), 10, training=True)


def test_build__two_layers_of_one_name():
    b = GraphBuilder("twice")
    x = b.input("x", (1, 8, 8, 3))
    b.conv2d(x, 4, 3, name="c")
    with pytest.raises(InputError, match="two layers are called 'c'"):
        b.conv2d(x, 4, 3, name="c")


def test_get_model__unknown_name_suggests_close_ones():
    with pytest.raises(InputError, match=r"unknown architecture 'vgg-smal' .*vgg-small"):
        get_model("vgg-smal")


def test_build_graph__unknown_option_lists_the_known_ones():
    told = "unknown option of vgg-small 'depth'.*known: dropout, width"
    with pytest.raises(InputError, match=told):
        build_graph("vgg-small", 1, (28, 28, 1), 10, training=True, options={"depth": 3})


def test_models__are_listed_with_a_summary():
    assert [m.name for m in list_models()] == [
        "alexnet", "alexnet-2012", "googlenet", "googlenet-bn", "inception-v3", "lenet", "resnet18",
        "resnet50", "squeezenet", "vgg-small", "vgg16",
    ]  # fmt: skip
    assert all(m.summary.endswith(".") for m in list_models())


def test_parameter_count__vgg_small():
    graph = build_graph("vgg-small", 1, (28, 28, 1), 10, training=True)
    expected = sum(
        k * c * 9 + k for c, k in [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    )
    expected += 1152 * 256 + 256 + 256 * 10 + 10
    assert graph.parameter_count() == expected
    assert np.isclose(graph.flops(), 58.85e6, rtol=1e-3)


def test_parameter_count__vgg16_is_the_papers():
    graph = build_graph("vgg16", 1, (224, 224, 3), 1000, training=False)
    assert graph.parameter_count() == 138_357_544
    convolutions = [n for n in graph.nodes if n.op == "conv2d"]
    assert np.isclose(sum(n.flops() for n in convolutions), 30.69e9, rtol=1e-3)
