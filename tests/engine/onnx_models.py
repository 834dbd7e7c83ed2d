"""Small ONNX models, written by hand, and what onnxruntime makes of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def model(nodes, inputs, outputs, weights=None, opset=17, **more):
    """A model of float32 images; sizes may be names."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more
    )


def weights(rng, **shapes):
    """Random float32 arrays of these shapes."""
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def outputs_of(proto, *inputs):
    """The first output by onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto if isinstance(proto, str) else proto.SerializeToString(), options
    )
    names = [given.name for given in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def save(proto, path):
    """The path, as an architecture, of the model written there."""
    onnx.save(proto, path)
    return str(path)


def small(rng, *, opset=17, batch="N", classes=5):
    """A network of 3x8x8 images that ends with a softmax."""
    arrays = weights(rng, w=(6, 3, 3, 3), b=(6,), top=(classes, 6 * 4 * 4), bias=(classes,))
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "top", "bias"], ["g"], "top", transB=1),
        helper.make_node("Softmax", ["g"], ["y"], "softmax", axis=1),
    ]
    return model(nodes, {"x": [batch, 3, 8, 8]}, {"y": [batch, classes]}, arrays, opset)
