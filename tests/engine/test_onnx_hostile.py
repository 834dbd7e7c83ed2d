"""Files that are damaged, dishonest or strange: one clear line, and nothing allocated for them."""

import os
import re
import resource
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph, get_model
from cnnengine.engine.onnx import file, initializers, wire

from .onnx_models import model, save, small, weights

node = helper.make_node


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def refused(tmp_path):
    """Holds a model, or the bytes of a file, to an error of one line that matches."""

    def hold(content, told):
        path = tmp_path / "model.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InputError) as error:
            get_model(str(path))
        assert re.search(told, str(error.value)), str(error.value)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB

    return hold


def test_get_model__a_damaged_file(rng, refused, tmp_path):
    whole = small(rng).SerializeToString()
    refused(whole[: len(whole) // 2], "is no readable ONNX file|takes 864 bytes|no valid ONNX")
    refused(b"", "is no ONNX file: it has no graph")
    refused(b"\x89PNG\r\n\x1a\n" + bytes(100), "is no readable ONNX file|is no ONNX file")
    for path, told in (
        (tmp_path / "none.onnx", "No such file"),
        (tmp_path / "d.onnx", "directory"),
    ):
        (tmp_path / "d.onnx").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=told):
            get_model(str(path))


def test_get_model__declared_sizes_are_not_believed(rng, refused):
    huge = small(rng)
    huge.graph.initializer[0].dims[0] = 2**40
    refused(huge, r"'w' of \[1099511627776, 3, 3, 3\] would take \d+ bytes; the most is 2147483647")
    less = small(rng)
    less.graph.initializer[0].dims[0] = 7
    refused(less, r"'w' of \[7, 3, 3, 3\] takes 756 bytes, not 648")
    negative = small(rng)
    negative.graph.initializer[0].dims[0] = -6
    refused(negative, "'w' has a negative size")
    typed = small(rng)
    typed.graph.initializer[0].ClearField("raw_data")
    typed.graph.initializer[0].float_data.extend([1.0, 2.0])
    refused(typed, "'w' is damaged")
    strange = small(rng)
    strange.graph.initializer[0].data_type = 77
    refused(strange, "'w' has an unknown element type 77")
    image = small(rng)
    for axis in (2, 3):
        image.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 2**20
    refused(
        image, r"Conv 'conv' makes \[1, 6, 1048576, 1048576\], \d+ bytes; the most is 17179869184"
    )


def test_get_model__constants_do_not_grow(rng, refused):
    arrays = {"a": np.ones((2**13, 1), np.float32), "b": np.ones((1, 2**13), np.float32)}
    nodes = [node("Add", ["a", "b"], ["c"]), node("GlobalAveragePool", ["x"], ["y"])]
    refused(
        model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 3, 1, 1]}, arrays),
        "Add 'c': the constants that the file computes have more than 16777216 numbers above",
    )


@pytest.mark.parametrize(
    ("size", "nodes"),
    [
        (2**25, []),
        (
            2**23,
            [node("Cast", ["k"], ["a"], to=TensorProto.DOUBLE), node("Add", ["k", "k"], ["b"])],
        ),
        (2**20, [node("Concat", ["k"] * 17, ["a"], axis=0)]),
        (2**22, [node("Unsqueeze", ["k", "zero"], ["a"]), node("Gather", ["a", "zeros"], ["b"])]),
        (4, [node("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], pads=[2**30, 0, 0, 0])]),
    ],
)
def test_get_model__what_is_computed_is_counted(refused, size, nodes):
    arrays = {
        "size": np.asarray([size]), "zero": np.zeros(1, np.int64), "zeros": np.zeros(4, np.int64)
    }  # fmt: skip
    first, last = node("ConstantOfShape", ["size"], ["k"]), node("GlobalAveragePool", ["x"], ["y"])
    refused(
        model([first, *nodes, last], {"x": [1, 3, 8, 8]}, {"y": [1, 3, 1, 1]}, arrays),
        "the constants that the file computes have more than 16777216 numbers above",
    )


def test_get_model__many_operations_take_no_long_time(rng, tmp_path):
    end = [node("Identity", [f"i{n}"], [f"i{n + 1}"], "same") for n in range(16000)]
    convs = [node("Conv", [f"c{n}", "v"], [f"c{n + 1}"], "same") for n in range(3000)]
    top = [node("Conv", ["c3000", "w"], ["c"]), node("Flatten", ["c"], ["i0"])]
    proto = model(
        [node("Identity", ["x"], ["c0"]), *convs, *top, *end], {"x": ["N", 1, 2, 2]},
        {"i16000": ["N", 5]}, weights(rng, v=(1, 1, 1, 1), w=(5, 1, 2, 2)),
    )  # fmt: skip
    begun = time.process_time()
    assert get_model(save(proto, tmp_path / "long.onnx")).classes == 5
    assert time.process_time() - begun < 6


@pytest.mark.parametrize("change", ["op_type", "name", "input", "domain"])
def test_get_model__names_that_are_no_text(rng, refused, change):
    whole = small(rng)
    first = whole.graph.node[0]
    if change == "input":
        first.input[0] = "qqqqq"
    else:
        setattr(first, change, "qqqqq")
    refused(
        whole.SerializeToString().replace(b"qqqqq", b"qq\xffqq"),
        rf"is damaged: the {change} b'qq\\xffqq' is no text",
    )


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.full((5, 96), 1e300), "weight of 'top' holds numbers that are not finite"),
        (np.ones((5, 96), np.int64), "weight of 'top' is int64: only float numbers"),
        (np.ones((5, 96), np.complex64), "weight of 'top' is complex64: only float numbers"),
        (np.full((5, 96), "1", object), "weight of 'top' is object: only float numbers"),
    ],
)
def test_get_model__weights_of_other_types(rng, refused, array, told):
    strange = small(rng)
    strange.graph.initializer[2].CopyFrom(numpy_helper.from_array(array, "top"))
    refused(strange, told)


def test_get_model__variances_below_zero(rng, refused):
    arrays = {"one": np.ones(3, np.float32), "var": np.array([1, 1, -2], np.float32)}
    nodes = [
        node("BatchNormalization", ["x", "one", "one", "one", "var"], ["n"], "norm"),
        node("GlobalAveragePool", ["n"], ["y"]),
    ]
    refused(
        model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 3, 1, 1]}, arrays),
        "'norm': its variances and epsilon 1e-05 make -1.99999, not above 0",
    )


def test_get_model__operations_in_a_circle_or_without_source(rng, refused):
    circle = small(rng)
    circle.graph.node[1].input[0] = "g"
    refused(circle, "Relu 'relu' reads 'g', which only a later one makes: its operations go in a")
    missing = small(rng)
    del missing.graph.initializer[2]
    refused(missing, "Gemm 'top' reads 'top', which is neither an input nor a weight")
    itself = small(rng)
    itself.graph.node[1].input[0] = "r"
    refused(itself, "Relu 'relu' reads 'r', which only a later one makes")
    twice = small(rng)
    twice.graph.node[1].output[0] = "c"
    refused(twice, "no valid ONNX model|'r', which is neither")


def test_get_model__unknown_operations_are_all_named(rng, refused):
    strange = small(rng)
    strange.graph.node.extend([
        node("Loop", ["x"], ["l"]), node("Einsum", ["x"], ["e"]),
        node("Relu", ["x"], ["m"], domain="com.microsoft"),
    ])  # fmt: skip
    refused(strange, "operations that are not known here: Einsum, Loop, com.microsoft.Relu")
    refused(small(rng, opset=8), "must be of one opset from 9 to .*, not 8")
    refused(small(rng, opset=999), "must be of one opset from 9 to .*, not 999")


def test_get_model__weights_that_are_not_finite(rng, refused):
    for index, told in ((0, "weight 'w'"), (1, "bias of 'conv'"), (2, "weight of 'top'")):
        broken = small(rng)
        array = numpy_helper.to_array(broken.graph.initializer[index]).copy()
        array.flat[3] = np.nan if index else np.inf
        broken.graph.initializer[index].CopyFrom(
            numpy_helper.from_array(array, broken.graph.initializer[index].name)
        )
        refused(broken, f"{told} holds numbers that are not finite")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"strides": [0, 1]}, "stride must be 2 integers >= 1"),
        ({"strides": [1]}, "strides must be 2 numbers"),
        ({"pads": [1, 1, 1]}, "pads must be 4 numbers"),
        ({"pads": [-1, 0, 0, 0]}, "pads must be 4 numbers of at least 0"),
        ({"dilations": [9, 9]}, "the filter reaches over 19 pixels but padded H has only 8"),
        ({"group": 2}, "2 groups of 3 channels do not make the 3"),
        ({"group": 0}, "0 groups of 3 channels"),
        ({"kernel_shape": [5, 5]}, "kernel_shape is"),
        ({"auto_pad": "SAME"}, "auto_pad must be NOTSET"),
    ],
)
def test_get_model__a_convolution_that_cannot_be(rng, refused, change, told):
    arrays = weights(rng, w=(6, 3, 3, 3))
    nodes = [node("Conv", ["x", "w"], ["c"], "conv", **change), node("GlobalMaxPool", ["c"], ["y"])]
    refused(
        model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 6, 1, 1]}, arrays), f"Conv 'conv': .*{told}"
    )


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([node("ConvTranspose", ["x", "w"], ["y"])], "transposed convolutions are not supported"),
        ([node("Conv", ["x", "x"], ["y"])], "its input 'x' must be a constant of the file"),
        (
            [node("Relu", ["x"], ["y"])],
            r"one number for each image and class, .* not \[1, 3, 8, 8\]",
        ),
        ([node("Reshape", ["x", "s"], ["y"])], r"\[1, 3, 8, 8\] cannot be seen as \[5, -1\]"),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[9, 9])], "window spans 9 pixels"),
        ([node("Transpose", ["x"], ["y"], perm=[0, 0, 1, 2])], "must name each of 4 axes once"),
        ([node("Squeeze", ["x", "s"], ["y"])], "axis 5 does not exist"),
        ([node("Pad", ["x", "s"], ["y"])], "2 pads for 4 axes"),
        ([node("LRN", ["x"], ["y"], size=4)], "size must be odd, not 4"),
        ([node("Concat", ["x", "w"], ["y"], axis=1)], "differ in more than axis 1"),
        ([node("Gather", ["x", "s"], ["y"])], "'x' must be a constant of the file"),
        ([node("Dropout", ["x", "r"], ["y"])], "p must be in|makes no sense"),
    ],
)
def test_get_model__operations_that_cannot_be_done(rng, refused, nodes, told):
    arrays = weights(rng, w=(3, 3, 3, 3))
    arrays |= {"s": np.array([5, -1]), "r": np.float32(-0.5)}
    name = "" if "one number" in told else f"{nodes[0].op_type} 'y'.*"
    refused(model(nodes, {"x": [1, 3, 8, 8]}, {"y": ["any"]}, arrays), f"{name}{told}")


def test_get_model__no_network_of_images(rng, refused):
    two = small(rng)
    two.graph.output.extend([helper.make_tensor_value_info("r", TensorProto.FLOAT, ["any"])])
    refused(two, "inputs x and the outputs y, r; a network of images has one of each")
    flat = model([node("Relu", ["x"], ["y"])], {"x": [1, 3]}, {"y": [1, 3]})
    refused(flat, r"input 'x' must be images \[N,C,H,W\] with a known C, not \['?1")
    whole = small(rng)
    whole.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    refused(whole, "input 'x' is uint8; images must be float numbers")


def _outside(rng, tmp_path, location):
    """A model whose first weight lies in the file `location`."""
    proto = small(rng)
    external_data_helper.set_external_data(proto.graph.initializer[0], location)
    raw = proto.graph.initializer[0].raw_data
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    path = tmp_path / "folder" / "outside.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path, raw


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", "link/secret", "w\0"])
def test_load__weights_outside_the_folder_are_refused(rng, tmp_path, location):
    path, raw = _outside(rng, tmp_path, location)
    (tmp_path / "secret").write_bytes(raw)
    (path.parent / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="outside the folder|cannot read"):
        file.load(path, external=True)


def test_load__pipes_and_devices_are_no_files(rng, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros.onnx").symlink_to("/dev/zero")
    for name in ("pipe", "zeros.onnx"):
        with pytest.raises(InputError, match=f"{name} is a pipe or a device, no file"):
            file.load(tmp_path / name)
    beside = small(rng)
    external_data_helper.set_external_data(beside.graph.initializer[0], "pipe")
    path = tmp_path / "model.onnx"
    path.write_bytes(beside.SerializeToString())
    with pytest.raises(InputError, match="pipe is a pipe or a device, no file"):
        file.load(path, external=True)


def test_load__weights_in_a_file_beside(rng, tmp_path):
    path, raw = _outside(rng, tmp_path, "weights.bin")
    with pytest.raises(InputError, match="keeps its weights in other files; cnnengine import"):
        get_model(str(path))
    with pytest.raises(InputError, match=r"cannot read .*weights.bin: No such file"):
        file.load(path, external=True)
    (path.parent / "weights.bin").write_bytes(raw[:-1])
    with pytest.raises(InputError, match="too short: 'w' takes the bytes 0 to 648"):
        file.load(path, external=True)
    (path.parent / "weights.bin").write_bytes(raw)
    proto = file.load(path, external=True).proto
    assert proto.graph.initializer[0].raw_data == raw


def test_get_model__random_damage_never_escapes(rng, tmp_path, monkeypatch):
    """Bytes changed, cut out and doubled: an InputError, or a network that can be built."""
    monkeypatch.setattr(wire, "LONG", 16)
    whole = np.frombuffer(small(rng).SerializeToString(), np.uint8)
    weight = slice(60, len(whole) - 2800)  # most bytes are weights; the rest is what matters
    built, told = 0, []
    for number in range(150):
        content = whole.copy()
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(content)))
            if weight.start < place < weight.stop and rng.random() < 0.9:
                place = int(rng.integers(weight.stop, len(content)))
            content[place] = rng.integers(256)
        if number % 5 == 0:
            cut = int(rng.integers(len(content)))
            content = np.delete(content, slice(cut, cut + int(rng.integers(1, 30))))
        path = tmp_path / f"damaged{number}.onnx"
        path.write_bytes(content.tobytes())
        try:
            found = get_model(str(path))
            build_graph(str(path), 2, found.input_shape, found.classes, training=True)
            built += 1
        except InputError as error:
            told.append(str(error))
    assert 0 < built < 150
    assert not [line for line in told if "\n" in line]


def test_require__without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'cnnengine\[onnx\]'"):
        initializers.require()


def test_open_network__reads_the_same_content_once(rng, tmp_path, monkeypatch):
    path = save(small(rng), tmp_path / "a.onnx")
    read = []
    monkeypatch.setattr(
        "cnnengine.engine.onnx.network.load",
        lambda path: (read.append(path), file.load(path))[1],
    )
    for _ in range(3):
        get_model(path)
    assert len(read) == 1
    onnx.save(small(rng, classes=4), path)
    assert get_model(path).classes == 4
