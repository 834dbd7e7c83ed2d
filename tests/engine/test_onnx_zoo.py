"""Networks that others made: those that ship with the onnx package, with random weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cnnengine.engine.device import open_device
from cnnengine.engine.models import build_graph, get_model
from cnnengine.engine.network import Description, Network

from .onnx_models import model, outputs_of, save, weights

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
CLOSE = 3e-6  # relative RMS of float32


def _with_weights(name, rng):
    """The network; constants made of one number become random, a softmax at the end is cut off."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    graph = proto.graph
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept, made = [], []
    for op in graph.node:
        if op.op_type == "ConstantOfShape":
            shape = tuple(sizes[op.input[0]])
            if len(shape) < 2:
                array = rng.uniform(0.5, 1.5, shape)
            else:
                array = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
            made.append(numpy_helper.from_array(array.astype(np.float32), op.output[0]))
        else:
            kept.append(op)
    if kept[-1].op_type == "Softmax":
        graph.output[0].name = kept.pop().input[0]
    used = {name for op in kept for name in op.input}
    made += [tensor for tensor in graph.initializer if tensor.name in used]
    given = [v for v in graph.input if v.name in used - {tensor.name for tensor in made}]
    for field, content in (("node", kept), ("initializer", made), ("input", given)):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    graph.output[0].type.tensor_type.shape.ClearField("dim")
    graph.output[0].type.tensor_type.shape.dim.add().dim_param = "any"
    proto.ir_version = 8  # since which weights need not be inputs
    return proto


def _logits(path, x):
    found = get_model(path)
    channels = found.input_shape[2]
    description = Description(
        path, found.input_shape, tuple(map(str, range(found.classes))), (0.0,) * channels,
        (1.0,) * channels,
    )  # fmt: skip
    network = Network(description, open_device("cpu"), infer_batch=len(x))
    network.initialise(0)
    return network, network.logits(x)


OPS = {  # how often; nothing is moved but what a channel shuffle moves
    "densenet121": {"conv2d": 121, "batch_norm_inference": 62, "concat": 58, "transpose": 0},
    "inception_v2": {"conv2d": 69, "concat": 10, "mul": 0, "transpose": 0},
    "shufflenet": {"conv2d": 49, "transpose": 16, "concat": 3},
    "squeezenet": {"conv2d": 26, "concat": 8, "transpose": 0},
}


@pytest.mark.parametrize("name", OPS)
def test_get_model__networks_of_the_model_zoo(name, tmp_path):
    rng = np.random.default_rng(0)
    proto = _with_weights(name, rng)
    path = save(proto, tmp_path / "zoo.onnx")
    x = rng.standard_normal((1, 224, 224, 3), np.float32)
    network, logits = _logits(path, x)
    wanted = outputs_of(path, x.transpose(0, 3, 1, 2)).reshape(1, -1)
    assert np.sqrt(((logits - wanted) ** 2).mean() / (wanted**2).mean()) < CLOSE
    assert network.inference is not None
    ops = [node.op for node, _ in network.inference.steps]
    assert {op: ops.count(op) for op in OPS[name]} == OPS[name]
    graph = build_graph(path, 2, (224, 224, 3), 1000, training=True)
    assert all(parameter.trainable for parameter in graph.params)


def test_import__a_scale_behind_batch_norm_is_the_norms_own(tmp_path):
    rng = np.random.default_rng(1)
    arrays = weights(rng, gamma=(4,), beta=(4,), mean=(4,), scale=(4,), shift=(1, 4, 1, 1))
    arrays["var"] = rng.uniform(0.5, 2, 4).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["n"], "norm"),
        node("Constant", [], ["axes"], value_ints=[1, 2]),
        node("Unsqueeze", ["scale", "axes"], ["wide"]),
        node("Mul", ["n", "wide"], ["m"]), node("Add", ["shift", "m"], ["a"]),
        node("GlobalMaxPool", ["a"], ["g"]), node("Flatten", ["g"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, {"x": ["N", 4, 5, 6]}, {"y": ["N", 4]}, arrays)
    x = rng.standard_normal((2, 5, 6, 4), np.float32)
    network, logits = _logits(save(proto, tmp_path / "scale.onnx"), x)
    np.testing.assert_allclose(logits, outputs_of(proto, x.transpose(0, 3, 1, 2)), 1e-5, 1e-5)
    found = network.state_dict()
    assert len(found) == 4
    np.testing.assert_allclose(found["norm/gamma"], arrays["gamma"] * arrays["scale"], 1e-6)
