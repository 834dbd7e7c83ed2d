"""The official node cases of the operations that are known: each passes, or is listed with why.

A case hands a layer's weights in as inputs. All inputs but the first are taken as constants of the
file; of operations on two activations every case runs a second time with all of them at run time.
"""

import warnings
from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases

from cnnengine.engine.errors import InputError
from cnnengine.engine.onnx.backend import CnnengineBackend

OPS = (
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "Relu", "LeakyRelu", "PRelu", "Clip", "BatchNormalization", "LRN", "Gemm", "MatMul", "Add",
    "Sum", "Mul", "Concat", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Pad",
    "Dropout", "Softmax", "LogSoftmax", "Identity", "Constant", "ReduceMean", "ReduceSum",
    "ReduceMax",
)  # fmt: skip
ALL_AT_RUN_TIME = {"Add", "Sum", "Mul", "Concat", "MatMul", "Gemm"}
INTEGERS = ("int8", "int16", "uint8", "uint16", "uint32", "uint64")

SKIPPED = {
    "integers: activations are float32": [
        *(f"test_add_{kind}" for kind in INTEGERS),
        *(f"test_mul_{kind}" for kind in INTEGERS),
        "test_clip_default_int8_min",
        "test_clip_default_int8_max",
        "test_clip_default_int8_inbounds",
        "test_clip_default_int8_inbounds_expanded",
        "test_maxpool_2d_uint8",
        "test_reduce_max_bool_inputs",
        "test_reduce_max_empty_set_bool",
        "test_edge_pad",
        "test_reflect_pad",
        "test_wrap_pad",
    ],
    "images of one or three dimensions": [
        "test_averagepool_1d_default",
        "test_averagepool_3d_default",
        "test_averagepool_3d_dilations_small",
        *(
            "test_averagepool_3d_dilations_large_count_include_pad_is_"
            f"{counted}_ceil_mode_is_{ceil}"
            for counted in (0, 1)
            for ceil in (False, True)
        ),
        "test_maxpool_1d_default",
        "test_maxpool_3d_default",
        "test_maxpool_3d_dilations",
        "test_maxpool_3d_dilations_use_ref_impl",
        "test_maxpool_3d_dilations_use_ref_impl_large",
    ],
    "transposed convolution is refused: no kernel runs it forward": [
        "test_convtranspose",
        *(
            f"test_convtranspose_{name}"
            for name in (
                "1d",
                "3d",
                "output_shape",
                "pad",
                "kernel_shape",
                "pads",
                "dilations",
                "autopad_same",
                "group_2",
                "group_2_image_3",
            )
        ),
    ],
    "the maximum of nothing": ["test_reduce_max_empty_set"],
    "the places of the maxima as an output": [
        "test_maxpool_with_argmax_2d_precomputed_pads",
        "test_maxpool_with_argmax_2d_precomputed_strides",
    ],
    "a batch's statistics as outputs": [
        "test_batchnorm_example_training_mode",
        "test_batchnorm_epsilon_training_mode",
    ],
    "dropout by another program's random numbers": [
        "test_training_dropout",
        "test_training_dropout_default",
        "test_training_dropout_default_mask",
        "test_training_dropout_mask",
    ],
    "sequences and optional values": ["test_identity_sequence", "test_identity_opt"],
}


def _cases():
    """The cases whose models use nothing but OPS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases' own arithmetic
        cases = collect_testcases(None)
    return [c for c in cases if _kinds(c) and _kinds(c) <= set(OPS)]


def _kinds(case):
    return {node.op_type for node in case.model.graph.node}


def _compare(case, run_time):
    """Raises: AssertionError when the outputs are not those of the case."""
    names = [value.name for value in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        given = len(names) if run_time else 1
        constants = dict(zip(names[given:], inputs[given:], strict=True))
        prepared = CnnengineBackend.prepare(case.model, "CPU", constants=constants)
        found = prepared.run(inputs[:given])
        assert len(found) == len(outputs)
        for ours, theirs in zip(found, outputs, strict=True):
            assert (ours.shape, ours.dtype) == (np.shape(theirs), theirs.dtype)
            np.testing.assert_allclose(ours, theirs, case.rtol, case.atol)


def test_node_cases__each_passes_or_is_listed_with_a_reason():
    cases = _cases()
    listed = {name for names in SKIPPED.values() for name in names}
    assert listed <= {case.name for case in cases}, "a listed case does not exist any more"
    passed, failed, runs = Counter(), [], 0
    for case in cases:
        if case.name in listed:
            with pytest.raises(InputError):
                _compare(case, False)
            continue
        for run_time in (False, True) if _kinds(case) <= ALL_AT_RUN_TIME else (False,):
            try:
                _compare(case, run_time)
                runs += 1
            except Exception as error:
                failed.append(f"{case.name}{' at run time' * run_time}: {error}")
        passed.update(_kinds(case))
    assert not failed, "\n".join(failed)
    refused = {"ConvTranspose"}
    assert set(passed) == set(OPS) - refused
    assert runs > len(cases) - len(listed)


@pytest.mark.parametrize("name", ["test_training_dropout", "test_add_int8"])
def test_prepare__a_skipped_case_says_why(name):
    kind, node, more = {
        "test_add_int8": (TensorProto.INT8, helper.make_node("Add", ["x", "x"], ["y"]), {}),
        "test_training_dropout": (
            TensorProto.FLOAT,
            helper.make_node("Dropout", ["x", "r", "t"], ["y"]),
            {"r": np.float32(0.5), "t": np.bool_(True)},
        ),
    }[name]
    values = [helper.make_tensor_value_info(n, kind, [3]) for n in "xy"]
    for n, kind in (("r", TensorProto.FLOAT), ("t", TensorProto.BOOL)):
        values += [helper.make_tensor_value_info(n, kind, [])] if n in more else []
    graph = helper.make_graph([node], "test", [values[0], *values[2:]], values[1:2])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(InputError, match="only float32 runs here|random numbers"):
        CnnengineBackend.prepare(made, constants=more)
