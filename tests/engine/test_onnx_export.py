"""Export: onnxruntime computes what we do, and what is imported again is the same network."""

import numpy as np
import onnx
import pytest
from onnx import helper

from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import list_models
from cnnengine.engine.network import Description, Network
from cnnengine.engine.onnx import exporter

from .onnx_models import model, outputs_of, save, weights

CLOSE = 3e-6  # relative RMS of float32; 7e-7 was the largest seen

NARROW = {"width": 0.125}
NETWORKS = {
    "alexnet": ((96, 96, 3), NARROW),
    "alexnet-2012": ((96, 96, 3), NARROW),
    "googlenet": ((64, 64, 3), NARROW),
    "googlenet-bn": ((64, 64, 3), NARROW),
    "inception-v3": ((96, 96, 3), NARROW),
    "lenet": ((28, 28, 1), {}),
    "resnet18": ((64, 64, 3), NARROW),
    "resnet50": ((64, 64, 3), NARROW),
    "squeezenet": ((64, 64, 3), NARROW),
    "vgg-small": ((28, 28, 1), NARROW),
    "vgg16": ((32, 32, 3), {}),
}
DESCRIBED = "C8:edge:k5 P C8:norm:s2 A3:s1:p1 C6:k1x7:d2 L F12 D0.5"


def _network(arch, shape, options, classes=7):
    """A network with random weights, biases and statistics, ready for 3 images."""
    channels = shape[2]
    description = Description(
        arch, shape, tuple(map(str, range(classes))), (0.0,) * channels, (1.0,) * channels,
        options=options,
    )  # fmt: skip
    network = Network(description, open_device("cpu"), infer_batch=3)
    network.initialise(0)
    if not arch.endswith(".onnx"):
        rng = np.random.default_rng(1)
        arrays = network.state_dict()
        for array in arrays.values():
            if array.ndim == 1:
                array += rng.uniform(0, 0.3, array.shape).astype(np.float32)
        network.load(arrays)
    return network


def _error(found, wanted):
    return np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())


def test_networks__all_but_vgg16_are_here():
    assert {model.name for model in list_models()} == set(NETWORKS)


@pytest.mark.parametrize("arch", [*(n for n in NETWORKS if n != "vgg16"), DESCRIBED])
def test_save__onnxruntime_agrees_and_import_gives_the_network_back(arch, tmp_path):
    shape, options = NETWORKS.get(arch, ((20, 20, 3), {}))
    network = _network(arch, shape, options)
    images = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    ours = network.logits(images)
    file = tmp_path / "network.onnx"
    exporter.save(file, network.description, network.state_dict())
    assert _error(ours, outputs_of(str(file), images.transpose(0, 3, 1, 2))) < CLOSE
    back = _network(str(file), shape, {})
    before, after = network.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert np.array_equal(back.logits(images), ours)
    steps = [node.op for node, _ in back.inference.steps]
    assert steps == [node.op for node, _ in network.inference.steps]


def test_save__every_op_that_an_imported_network_may_have(tmp_path):
    rng = np.random.default_rng(5)
    node = helper.make_node
    arrays = weights(rng, w=(6, 3, 3, 3), slope=(6, 1, 1), one=(1,), each=(6, 1, 1), top=(96, 4))
    arrays |= {"groups": np.array([0, 2, 3, 7, 8]), "back": np.array([0, 6, 7, 8])}
    arrays |= {"pads": np.array([0, 0, -1, 2, 0, 0, -1, -1])}
    arrays |= {"low": np.float32(-0.5), "high": np.float32(6)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[0, 1, 0, 1]), node("PRelu", ["c", "slope"], ["p"]),
        node("Reshape", ["p", "groups"], ["g"]),
        node("Transpose", ["g"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "back"], ["s"]), node("LeakyRelu", ["s"], ["l"], alpha=0.2),
        node("Mul", ["l", "each"], ["m"]), node("Add", ["m", "one"], ["a"]),
        node("Clip", ["a", "low", "high"], ["clip"]), node("Pad", ["clip", "pads", "low"], ["pad"]),
        node("MaxPool", ["pad"], ["d"], kernel_shape=[2, 2], dilations=[1, 2], strides=[1, 2]),
        node("Softmax", ["d"], ["soft"], axis=1),
        node("Transpose", ["soft"], ["u"], perm=[0, 3, 1, 2]),
        node("Relu", ["u"], ["r"]), node("Flatten", ["r"], ["f"]),
        node("MatMul", ["f", "top"], ["k"]), node("LogSoftmax", ["k"], ["logs"], axis=1),
        node("Mul", ["logs", "one"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, {"x": ["N", 3, 9, 8]}, {"y": ["N", 4]}, arrays)
    network = _network(save(proto, tmp_path / "a.onnx"), (9, 8, 3), {}, classes=4)
    images = rng.standard_normal((3, 9, 8, 3), np.float32)
    exporter.save(tmp_path / "b.onnx", network.description, network.state_dict())
    theirs = images.transpose(0, 3, 1, 2)
    wanted = outputs_of(proto, theirs)
    assert _error(network.logits(images), wanted) < CLOSE
    assert _error(outputs_of(str(tmp_path / "b.onnx"), theirs), wanted) < CLOSE


def test_save__says_how_images_are_normalised(tmp_path):
    network = _network("lenet", (28, 28, 1), {})
    exporter.save(tmp_path / "a.onnx", network.description, network.state_dict())
    made = onnx.load(tmp_path / "a.onnx")
    told = {entry.key: entry.value for entry in made.metadata_props}
    assert told == {
        "classes": '["0", "1", "2", "3", "4", "5", "6"]', "mean": "[0.0]", "std": "[1.0]"
    }  # fmt: skip
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    exporter.save(tmp_path / "b.onnx", network.description, network.state_dict())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_convert__an_op_without_an_onnx_form_is_named():
    description = Description("C4 L", (8, 8, 1), ("a", "b"), (0.0,), (1.0,))
    graph = description.graph(2, training=True)
    with pytest.raises(InputError, match="loss: softmax_cross_entropy cannot be written as ONNX"):
        exporter.convert(graph, {p.value.name: np.zeros(p.value.shape) for p in graph.params})
