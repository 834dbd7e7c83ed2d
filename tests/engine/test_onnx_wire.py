"""Weights stay in the file: what is found without reading them is what onnx reads."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

from cnnengine.engine.onnx import wire
from cnnengine.engine.onnx.file import load
from cnnengine.engine.onnx.initializers import array
from cnnengine.engine.onnx.reader import read

from .onnx_models import model, save, small


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(wire, "LONG", 16)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16", "int64", "uint8"])
def test_load__numbers_are_those_of_the_file(rng, tmp_path, short, kind):
    """Two long rows, one that is short, one in another field, and one of no numbers."""
    told = {
        "a": rng.integers(0, 100, (3, 5, 7)), "b": rng.integers(0, 9, 2), "c": np.zeros((0, 4)),
        "d": rng.integers(0, 100, 9),
    }  # fmt: skip
    arrays = {name: numbers.astype(kind) for name, numbers in told.items()}
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]}, arrays)
    floats = onnx.TensorProto(name="e", data_type=1, dims=[3], float_data=[1.0, 2.0, 3.0])
    proto.graph.initializer.insert(1, floats)
    save(proto, tmp_path / "a.onnx")
    found = load(tmp_path / "a.onnx")
    tensors = found.proto.graph.initializer
    long = [tensors[at].name for at in found.numbers]
    assert long == [n for n, a in arrays.items() if a.nbytes >= 16]
    for at, tensor in enumerate(tensors):
        wanted = onnx.numpy_helper.to_array(proto.graph.initializer[at])
        read = array(tensor, "a.onnx", found.numbers.get(at))
        assert read.dtype == wanted.dtype
        np.testing.assert_array_equal(read, wanted)
    whole = found.proto
    for at, numbers in found.numbers.items():
        whole.graph.initializer[at].raw_data = bytes(numbers)
    assert whole == proto


def test_read__weights_of_a_type_that_numpy_has_not(rng, tmp_path, short):
    arrays = {"a": rng.integers(0, 100, (6, 7)).astype("bfloat16")}
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]}, arrays)
    save(proto, tmp_path / "a.onnx")
    found = read(tmp_path / "a.onnx").constants["a"]
    assert found.dtype == "bfloat16"
    np.testing.assert_array_equal(found, arrays["a"])


def test_without_numbers__leaves_what_is_unusual_to_protobuf(rng, short):
    content = small(rng).SerializeToString()
    assert len(wire.without_numbers(content)[0]) < len(content) / 2
    twice = small(rng).graph.initializer[0]
    tensor = twice.SerializeToString() + b"\x4a\x14" + bytes(20)  # raw_data again: the last counts
    again = wire._message(wire.GRAPH, wire._message(wire.INITIALIZER, tensor))
    number = bytes([wire.INITIALIZER << 3 | wire.VARINT, 1])  # protobuf knows no such initializer
    shifted = wire._message(wire.GRAPH, number + small(rng).graph.SerializeToString())
    odds = (content + content, content[:-1], again, shifted, content + b"\x3b", b"", b"\xff" * 30)
    for odd in odds:
        assert wire.without_numbers(odd) == (odd, {})


def test_without_numbers__does_not_look_at_more_fields_than_any_file_has(rng, short, monkeypatch):
    content = small(rng).SerializeToString()
    monkeypatch.setattr(wire, "MOST_FIELDS", 20)
    assert wire.without_numbers(content) == (content, {})


def test_get_model__keeps_no_weights_in_memory(tmp_path):
    """A file of 64 MB, most of it one layer's; in a process of its own, after a small file."""
    node = helper.make_node
    nodes = [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w"], ["y"], transB=1)]
    for name, rows in (("small", 4), ("large", 4096)):
        arrays = {"w": np.ones((rows, 4096), np.float32)}
        proto = model(nodes, {"x": ["N", 1, 64, 64]}, {"y": ["N", rows]}, arrays)
        save(proto, tmp_path / f"{name}.onnx")
    program = (
        "import resource, sys\nfrom cnnengine.engine.models import get_model\n"
        "for name in ('small', 'large'):\n    get_model(f'{sys.argv[1]}/{name}.onnx')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )  # fmt: skip
    before, after = map(int, told.stdout.split())
    assert after - before < 45_000, "kilobytes: parts of 16 MB, and what is found of them"
