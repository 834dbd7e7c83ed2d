"""Import: every opset's forms, any order of axes, nothing moved without need, and training."""

import numpy as np
import onnx
import pytest
from onnx import helper

from cnnengine.engine.compile import compile_graph
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph, get_model
from cnnengine.engine.network import Description, Network
from cnnengine.engine.onnx import exporter
from cnnengine.engine.onnx.backend import CnnengineBackend

from .onnx_models import model, outputs_of, save, small, weights

node = helper.make_node


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def _network(arch, shape, classes, *, device="cpu", options=None, infer=2, train=()):
    described = Description(
        arch, shape, tuple(map(str, range(classes))), (0.0,) * shape[2], (1.0,) * shape[2],
        options=options or {},
    )  # fmt: skip
    where = open_device(device)
    return Network(described, where, infer_batch=infer, train_batches=train)


def _close(found, wanted, rtol=2e-5):
    np.testing.assert_allclose(found, wanted, rtol, 1e-5 * np.abs(wanted).max())


def _constant(name, array):
    return node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(array)))


def test_get_model__an_onnx_file(rng, tmp_path):
    path = save(small(rng), tmp_path / "small.onnx")
    found = get_model(path)
    assert (found.input_shape, found.classes, found.summary) == ((8, 8, 3), 5, "From an ONNX file.")
    network = _network(path, (8, 8, 3), 5)
    network.initialise(0)
    assert sorted(network.state_dict()) == ["conv/b", "conv/w", "top/b", "top/w"]


def test_import__leaves_the_final_softmax_to_the_caller(rng, tmp_path):
    proto = small(rng)
    x = rng.standard_normal((2, 8, 8, 3), np.float32)
    path = save(proto, tmp_path / "small.onnx")
    network = _network(path, (8, 8, 3), 5)
    network.initialise(0)
    logits = network.logits(x)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = outputs_of(proto, x.transpose(0, 3, 1, 2))
    _close(shares, wanted)
    (kept,) = CnnengineBackend.prepare(proto, shapes={"x": (2, 3, 8, 8)}).run(
        [x.transpose(0, 3, 1, 2)]
    )
    _close(kept, wanted)
    assert [n.op for n, _ in network.inference.steps] == ["conv2d_relu_pool", "dense"]


@pytest.mark.parametrize("read", [False, True])
def test_import__a_softmax_that_is_read_again_stays(rng, read, tmp_path):
    proto = small(rng)
    proto.graph.node.append(node("Identity", ["y"], ["last"]))
    if read:
        proto.graph.node[-1].CopyFrom(node("Add", ["y", "g"], ["last"]))
    proto.graph.output[0].name = "last"
    path = save(proto, tmp_path / "softmax.onnx")
    x = rng.standard_normal((2, 8, 8, 3), np.float32)
    network = _network(path, (8, 8, 3), 5)
    network.initialise(0)
    logits = network.logits(x)
    assert network.inference is not None
    assert ("softmax" in [n.op for n, _ in network.inference.steps]) == read
    if read:
        _close(logits, outputs_of(proto, x.transpose(0, 3, 1, 2)))


def _behind_softmax(rng, opset, classes, first, *last):
    """A network that ends with a Softmax of images [N, classes, 1, 1], and then `last`."""
    arrays = weights(rng, w=(classes, 3, 8, 8), b=(classes,))
    nodes = [node("Conv", ["x", "w", "b"], ["c"]), *first, *last]
    return model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", classes]}, arrays, opset)


@pytest.mark.parametrize(
    ("opset", "last"),
    [
        (11, [node("Flatten", ["s"], ["y"])]),
        (11, [node("Squeeze", ["s"], ["i"], axes=[2, 3]), node("Identity", ["i"], ["y"])]),
        (17, [_constant("to", np.array([0, -1])), node("Reshape", ["s", "to"], ["y"])]),
        (17, [_constant("at", np.array([2, 3])), node("Squeeze", ["s", "at"], ["y"])]),
    ],
)
def test_import__a_softmax_behind_which_only_shapes_change_is_left_out(rng, opset, last, tmp_path):
    proto = _behind_softmax(rng, opset, 5, [node("Softmax", ["c"], ["s"], axis=1)], *last)
    x = rng.standard_normal((2, 8, 8, 3), np.float32)
    network = _network(save(proto, tmp_path / "softmax.onnx"), (8, 8, 3), 5)
    network.initialise(0)
    logits = network.logits(x)
    assert [n.op for n, _ in network.inference.steps] == ["conv2d"]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    _close(shares, outputs_of(proto, x.transpose(0, 3, 1, 2)))


def test_import__a_softmax_over_groups_of_classes_stays(rng, tmp_path):
    """Three shares for each of two questions are not shares of six classes."""
    first = [_constant("to", np.array([0, 2, 3])), node("Reshape", ["c", "to"], ["g"])]
    last = [node("Softmax", ["g"], ["s"], axis=2), node("Flatten", ["s"], ["y"])]
    proto = _behind_softmax(rng, 17, 6, first, *last)
    x = rng.standard_normal((2, 8, 8, 3), np.float32)
    network = _network(save(proto, tmp_path / "groups.onnx"), (8, 8, 3), 6)
    network.initialise(0)
    _close(network.logits(x), outputs_of(proto, x.transpose(0, 3, 1, 2)))


def test_import__a_softmax_over_the_images_is_refused(rng, tmp_path):
    last = [node("Flatten", ["c"], ["f"]), node("Softmax", ["f"], ["y"], axis=0)]
    path = save(_behind_softmax(rng, 17, 5, [], *last), tmp_path / "batch.onnx")
    with pytest.raises(InputError, match="over axis 0 it would mix the images of a batch"):
        _network(path, (8, 8, 3), 5)


REDUCED = [  # as torch writes global pooling, and what it is here
    (20, "ReduceMean", [2, 3], True, ["conv2d", "global_avg_pool2d", "dense"]),
    (13, "ReduceMean", [-1, -2], False, ["conv2d", "global_avg_pool2d", "dense"]),
    (18, "ReduceMax", [2, 3], False, ["conv2d", "max_pool2d", "dense"]),
    (20, "ReduceSum", [2, 3], False, ["conv2d", "reduce_sum", "dense"]),
    (20, "ReduceMean", [3], True, ["conv2d", "reduce_sum", "broadcast", "mul", "dense"]),
]


@pytest.mark.parametrize(("opset", "kind", "axes", "kept", "steps"), REDUCED)
def test_import__reductions(rng, opset, kind, axes, kept, steps, tmp_path):
    """And the way out: the file that we write of it gives the same numbers."""
    features = 6 if len(axes) == 2 else 6 * 8
    arrays = weights(rng, w=(6, 3, 3, 3), top=(5, features))
    told, inputs = {"axes": axes}, ["c"]
    if opset >= 18 or kind == "ReduceSum":
        told, inputs = {}, ["c", "axes"]
        arrays["axes"] = np.array(axes)
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node(kind, inputs, ["r"], keepdims=int(kept), **told), node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "top"], ["y"], transB=1),
    ]  # fmt: skip
    proto = model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, arrays, opset)
    x = rng.standard_normal((3, 8, 8, 3), np.float32)
    network = _network(save(proto, tmp_path / "a.onnx"), (8, 8, 3), 5)
    network.initialise(0)
    logits, theirs = network.logits(x), x.transpose(0, 3, 1, 2)
    _close(logits, outputs_of(proto, theirs))
    assert [n.op for n, _ in network.inference.steps] == steps
    exporter.save(tmp_path / "b.onnx", network.description, network.state_dict())
    _close(logits, outputs_of(str(tmp_path / "b.onnx"), theirs))


def test_import__a_mean_over_the_images_is_refused(rng, tmp_path):
    nodes = [node("Flatten", ["x"], ["f"]), node("ReduceMean", ["f"], ["y"], axes=[0])]
    path = save(model(nodes, {"x": ["N", 3, 2, 2]}, {"y": [1, 12]}), tmp_path / "mean.onnx")
    with pytest.raises(InputError, match="over axis 0 it would mix the images of a batch"):
        _network(path, (2, 2, 3), 12)


def _old(rng, opset):
    """What changed its form between the opsets: Pad, Clip, Squeeze, Dropout, Softmax, BatchNorm."""
    arrays = weights(rng, w=(4, 3, 3, 3), gamma=(4,), beta=(4,), mean=(4,), top=(4, 6))
    arrays["var"] = rng.uniform(0.5, 2, 4).astype(np.float32)
    first = [node("Conv", ["x", "w"], ["c"], strides=[2, 2], auto_pad="SAME_LOWER")]
    if opset < 11:
        first += [
            node("Pad", ["c"], ["pad"], pads=[0, 0, 1, 0, 0, 0, 0, 2], value=0.5),
            node("Clip", ["pad"], ["clip"], min=-1.0, max=1.5),
        ]
    else:
        first += [
            _constant("pads", np.array([0, 0, 1, 0, 0, 0, 0, 2])),
            _constant("half", np.float32(0.5)),
            _constant("low", np.float32(-1.0)),
            _constant("high", np.float32(1.5)),
            node("Pad", ["c", "pads", "half"], ["pad"]),
            node("Clip", ["pad", "low", "high"], ["clip"]),
        ]
    first += [
        node("BatchNormalization", ["clip", "gamma", "beta", "mean", "var"], ["n"], epsilon=1e-3),
        node("GlobalAveragePool", ["n"], ["g"]),
    ]
    if opset < 13:
        first += [node("Squeeze", ["g"], ["s"], axes=[2, 3])]
    else:
        first += [_constant("axes", np.array([2, -1])), node("Squeeze", ["g", "axes"], ["s"])]
    first += [node("Dropout", ["s"], ["d"])]
    first += [node("MatMul", ["d", "top"], ["m"]), _constant("b", np.ones(6, np.float32))]
    first += [node("Add", ["b", "m"], ["a"]), node("LogSoftmax", ["a"], ["y"])]
    return model(first, {"x": [2, 3, 9, 8]}, {"y": [2, 6]}, arrays, opset)


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 18, 21])
def test_import__forms_of_every_opset(rng, opset):
    proto = _old(rng, opset)
    x = rng.standard_normal((2, 3, 9, 8), np.float32)
    prepared = CnnengineBackend.prepare(proto)
    (found,) = prepared.run([x])
    _close(found, outputs_of(proto, x))
    ops = [n.op for n, _ in prepared.plan.steps]
    assert ops.count("dense") == 1
    assert "add" not in ops, "the bias behind MatMul belongs to the layer"


def test_import__a_bias_behind_a_gemm_without_one(rng):
    arrays = weights(rng, w=(6, 5), bias=(6,))
    nodes = [node("Gemm", ["x", "w"], ["m"], transB=1), node("Add", ["m", "bias"], ["y"])]
    proto = model(nodes, {"x": [2, 5]}, {"y": [2, 6]}, arrays)
    x = rng.standard_normal((2, 5), np.float32)
    prepared = CnnengineBackend.prepare(proto)
    (found,) = prepared.run([x])
    _close(found, outputs_of(proto, x))
    assert [n.op for n, _ in prepared.plan.steps] == ["dense"], "the bias belongs to the layer"


def test_import__a_chain_of_moves_in_any_order(rng):
    """Random Reshape, Transpose, Concat, Add, Mul and Pad: as onnxruntime has it."""
    for _ in range(25):
        shape, nodes, last = [2, 3, 4, 5], [], "x"
        for step in range(6):
            out = f"t{step}"
            kind = rng.choice(["Reshape", "Transpose", "Concat", "Add", "Mul", "Relu", "Pad"])
            if kind == "Reshape":
                shape = _other_shape(rng, shape)
                nodes += [
                    _constant(f"s{step}", np.array(shape)),
                    node(kind, [last, f"s{step}"], [out]),
                ]
            elif kind == "Transpose":
                perm = [int(p) for p in rng.permutation(len(shape))]
                shape = [shape[p] for p in perm]
                nodes += [node(kind, [last], [out], perm=perm)]
            elif kind == "Concat":
                axis = int(rng.integers(len(shape)))
                shape = [size * 2 if i == axis else size for i, size in enumerate(shape)]
                nodes += [node("Relu", [last], [f"r{step}"])]
                nodes += [node(kind, [last, f"r{step}"], [out], axis=axis)]
            elif kind in ("Add", "Mul"):
                keep = rng.random(len(shape)) < 0.5
                sizes = [size if k else 1 for size, k in zip(shape, keep, strict=True)]
                array = rng.standard_normal(sizes[int(rng.integers(2)) :]).astype(np.float32)
                sizes = list(array.shape)
                if sizes != shape[len(shape) - len(sizes) :] and rng.random() < 0.3:
                    array = array.reshape(-1)[:1]
                nodes += [_constant(f"a{step}", array), node(kind, [last, f"a{step}"], [out])]
            elif kind == "Pad":
                pads = rng.integers(0, 2, 2 * len(shape))
                shape = [int(s + a + b) for s, a, b in zip(
                    shape, pads[: len(shape)], pads[len(shape) :], strict=True)]  # fmt: skip
                nodes += [_constant(f"p{step}", pads), node(kind, [last, f"p{step}"], [out])]
            else:
                nodes += [node(kind, [last], [out])]
            last = out
        proto = model(nodes, {"x": [2, 3, 4, 5]}, {last: shape})
        x = rng.standard_normal((2, 3, 4, 5), np.float32)
        (found,) = CnnengineBackend.prepare(proto).run([x])
        wanted = outputs_of(proto, x)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, 1e-6, 1e-6)


def _other_shape(rng, shape):
    """As many elements in other axes: merged, split, or cut across."""
    count = int(np.prod(shape))
    sizes = []
    while count > 1 and len(sizes) < 4:
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        sizes.append(int(rng.choice(divisors)))
        count //= sizes[-1]
    return [*sizes, count] if count > 1 or not sizes else sizes


@pytest.mark.parametrize("kind", ["Flatten", "Reshape", "Transpose"])
def test_import__flattening_moves_the_weights_not_the_image(rng, kind):
    arrays = weights(rng, w=(6, 3, 3, 3), top=(6 * 6 * 6, 4))
    nodes = [node("Conv", ["x", "w"], ["c"])]
    if kind == "Flatten":
        nodes += [node("Flatten", ["c"], ["f"])]
    elif kind == "Reshape":
        nodes += [_constant("s", np.array([0, -1])), node("Reshape", ["c", "s"], ["f"])]
    else:  # as a converter from NHWC frameworks does
        nodes += [node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]), node("Flatten", ["t"], ["f"])]
    nodes += [node("Relu", ["f"], ["r"]), node("Gemm", ["r", "top"], ["y"])]
    proto = model(nodes, {"x": [3, 3, 8, 8]}, {"y": [3, 4]}, arrays)
    x = rng.standard_normal((3, 3, 8, 8), np.float32)
    prepared = CnnengineBackend.prepare(proto)
    (found,) = prepared.run([x])
    _close(found, outputs_of(proto, x))
    assert [n.op for n, _ in prepared.plan.steps] == ["transpose", "conv2d", "dense"]


def test_import__edge_and_zero_padding_go_into_the_convolution(rng):
    arrays = weights(rng, w=(4, 3, 3, 3))
    for mode, pads in (("edge", [1, 2]), ("constant", [2, 0])):
        counts = np.array([0, 0, *pads, 0, 0, 1, 1])
        nodes = [_constant("p", counts), node("Pad", ["x", "p"], ["padded"], mode=mode)]
        nodes += [
            node("Conv", ["padded", "w"], ["y"], pads=[0, 1, 0, 0] if mode != "edge" else None)
        ]
        proto = model(nodes, {"x": [1, 3, 6, 6]}, {"y": [1, 4, "P", "Q"]}, arrays)
        x = rng.standard_normal((1, 3, 6, 6), np.float32)
        prepared = CnnengineBackend.prepare(proto)
        (found,) = prepared.run([x])
        _close(found, outputs_of(proto, x))
        assert "pad" not in [n.op for n, _ in prepared.plan.steps]


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "wanted"),
    [
        ([0, 1], [2, 9], [1, 2], np.s_[0:2, 1:9:2]),
        ([-1], [-(2**31)], [-1], np.s_[::-1]),
        ([3, -2], [0, -5], [-2, -1], np.s_[3:0:-2, -2:-5:-1]),
    ],
)
def test_import__slices_of_constants(starts, ends, steps, wanted):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    nodes = [_constant("a", array)]
    for name, numbers in (("starts", starts), ("ends", ends), ("steps", steps)):
        nodes += [_constant(name, np.array(numbers))]
    nodes += [node("Slice", ["a", "starts", "ends", "", "steps"], ["s"])]
    nodes += [node("Add", ["x", "s"], ["y"])]
    expected = array[wanted]
    proto = model(nodes, {"x": expected.shape}, {"y": expected.shape})
    (found,) = CnnengineBackend.prepare(proto).run([np.zeros(expected.shape, np.float32)])
    assert np.array_equal(found, expected)


def test_import__shapes_that_the_file_computes(rng, tmp_path):
    """x.view(x.size(0), -1) as PyTorch wrote it, and a batch of one that is meant as any."""
    arrays = weights(rng, w=(4, 1, 3, 3), top=(3, 4 * 6 * 6))
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Shape", ["c"], ["shape"]),
        _constant("zero", np.array(0)), node("Gather", ["shape", "zero"], ["n"], axis=0),
        _constant("front", np.array([0])), node("Unsqueeze", ["n", "front"], ["n1"]),
        _constant("rest", np.array([-1])), node("Concat", ["n1", "rest"], ["sizes"], axis=0),
        node("Reshape", ["c", "sizes"], ["f"]), _constant("own", np.array([1, 144])),
        node("Reshape", ["f", "own"], ["g"]), node("Gemm", ["g", "top"], ["y"], transB=1),
    ]  # fmt: skip
    proto = model(nodes, {"x": [1, 1, 8, 8]}, {"y": [1, 3]}, arrays)
    path = save(proto, tmp_path / "view.onnx")
    network = _network(path, (8, 8, 1), 3, infer=4)
    network.initialise(0)
    x = rng.standard_normal((4, 8, 8, 1), np.float32)
    wanted = [outputs_of(proto, one[None].transpose(0, 3, 1, 2))[0] for one in x]
    _close(network.logits(x), np.array(wanted))


def test_import__a_fixed_batch_size_and_a_softmax_over_it(rng, tmp_path):
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Softmax", ["c"], ["s"], "mixed", axis=0),
        node("Flatten", ["s"], ["y"]),
    ]
    arrays = weights(rng, w=(4, 1, 3, 3))
    proto = model(nodes, {"x": [1, 1, 3, 3]}, {"y": [1, 4]}, arrays)
    with pytest.raises(InputError, match="'mixed': over axis 0 it would mix the images of a batch"):
        get_model(save(proto, tmp_path / "a.onnx"))


def test_import__a_fixed_batch_size_is_none_of_a_constant(rng, tmp_path):
    arrays = weights(rng, w=(4, 1, 3, 3), bias=(2, 2)) | {"flat": np.array([1, -1])}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Flatten", ["c"], ["f"]),
        node("Reshape", ["bias", "flat"], ["row"]),
        node("Add", ["f", "row"], ["y"]),
    ]
    proto = model(nodes, {"x": [1, 1, 3, 3]}, {"y": [1, 4]}, arrays)
    graph = build_graph(save(proto, tmp_path / "a.onnx"), 2, (3, 3, 1), 4, training=False)
    assert graph.outputs["logits"].shape == (2, 4)


@pytest.mark.parametrize(
    ("arch", "shape", "options"),
    [
        ("vgg-small", (12, 12, 1), {"width": 0.125, "dropout": 0.0}),  # the file has none
        ("resnet18", (32, 32, 3), {"width": 0.125}),
    ],
)
def test_import__trains_as_the_network_that_was_exported(rng, arch, shape, options, tmp_path):
    native = _network(arch, shape, 4, options=options, train=(6,))
    native.initialise(3)
    exporter.save(tmp_path / "a.onnx", native.description, native.inference_dict())
    imported = _network(str(tmp_path / "a.onnx"), shape, 4, train=(6,))
    imported.initialise(0)
    x = rng.standard_normal((6, *shape), np.float32)
    labels = rng.integers(0, 4, 6).astype(np.int32)
    found = []
    for network in (native, imported):
        plan = network.training[6]
        plan.feed({"x": x, "labels": labels}, seed=1, step=2)
        plan.run()
        names = [name for name, _ in network.parameters]
        gradients = {name: network.parameters.gradient(name).copy() for name in names}
        found.append((plan.output("loss").copy(), gradients, network.state_dict()))
    (loss, gradients, states), (other_loss, others, other_states) = found
    assert np.array_equal(loss, other_loss)
    assert gradients.keys() == others.keys()
    assert all(np.array_equal(gradients[n], others[n]) for n in gradients)
    assert all(np.allclose(states[n], other_states[n], 1e-6) for n in states)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_import__trains_in_other_precisions(rng, dtype, tmp_path):
    """Every kind of constant and weight has the type that its kernels want."""
    arrays = weights(rng, w=(4, 3, 3, 3), slope=(4, 1, 1), each=(4, 6, 6), top=(4, 3), m=(1, 3))
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("PRelu", ["c", "slope"], ["p"]),
        node("PRelu", ["p", "each"], ["q"]), node("Mul", ["q", "slope"], ["s"]),
        node("Add", ["s", "q"], ["a"]), node("GlobalAveragePool", ["a"], ["g"]),
        node("Flatten", ["g"], ["f"]), node("MatMul", ["f", "top"], ["t"]),
        node("Mul", ["t", "m"], ["y"]),
    ]  # fmt: skip
    path = save(model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 3]}, arrays), tmp_path / "p.onnx")
    graph = build_graph(path, 2, (8, 8, 3), 3, training=True, dtype=dtype)
    program = compile_graph(graph, open_device("cpu"), training=True)
    found = {name for name in program.graph.outputs if name.startswith("grad/")}
    assert found == {"grad/c/w", "grad/p/slope", "grad/t/w"}


def test_import__runs_in_the_interpreter(rng, tmp_path):
    pytest.importorskip("triton")
    path = save(small(rng), tmp_path / "small.onnx")
    x = rng.standard_normal((1, 8, 8, 3), np.float32)
    logits = []
    for device in ("cpu", "interpreter"):
        network = _network(path, (8, 8, 3), 5, device=device, infer=1)
        network.initialise(0)
        with network.device.session():
            logits.append(network.logits(x))
    _close(logits[1], logits[0])


def test_import__one_weight_of_two_layers_becomes_two(rng, tmp_path):
    arrays = weights(rng, w=(3, 3, 1, 1))
    nodes = [node("Conv", ["x", "w"], ["a"], "c"), node("Conv", ["a", "w"], ["b"], "c")]
    nodes += [node("GlobalMaxPool", ["b"], ["g"]), node("Flatten", ["g"], ["y"])]
    path = save(model(nodes, {"x": ["N", 3, 5, 5]}, {"y": ["N", 3]}, arrays), tmp_path / "t.onnx")
    network = _network(path, (5, 5, 3), 3)
    network.initialise(0)
    assert sorted(network.state_dict()) == ["c/w", "c_2/w"]


@pytest.mark.parametrize(
    ("shape", "classes", "told"),
    [((9, 8, 3), 5, "takes images of 8x8x3, not 9x8x3"), ((8, 8, 3), 4, "5 classes apart, not 4")],
)
def test_import__another_image_or_class_count_is_refused(rng, shape, classes, told, tmp_path):
    path = save(small(rng), tmp_path / "small.onnx")
    with pytest.raises(InputError, match=told):
        _network(path, shape, classes)
