"""Weights that are not taken: what does not fit, what is no number, damaged and hostile files."""

import io
import json
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest

from cnnengine.engine import files
from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.checkpoint import load_model, save_model
from cnnengine.engine.errors import InputError
from cnnengine.engine.exchange import Wish, import_weights
from cnnengine.engine.model_meta import Source
from cnnengine.engine.models import get_model
from cnnengine.engine.naming import find_naming, torch_naming
from cnnengine.engine.weights import read_weights

from .weight_samples import described, drawn, saved, small


def test_read_weights__every_misfit_is_listed(tmp_path):
    arrays = drawn(small("lenet"))
    arrays["conv1/b"] = np.zeros(7, np.float32)
    arrays["conv3/w"] = arrays.pop("conv2/w")
    del arrays["dense1/b"]
    arrays["two\nlines\x1b[31m"] = np.zeros(1, np.float32)
    saved("safetensors", tmp_path / "w", arrays)
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "w", small("lenet"))
    told = str(error.value)
    assert told.isprintable()
    assert "does not fit lenet: 2 missing: conv2/w, dense1/b; 2 unknown: " in told
    assert "conv3/w" in told
    assert r"'two\nlines\x1b[31m'" in told
    assert told.endswith("1 of another shape: conv1/b is (7,), not (6,)")


@pytest.mark.parametrize(
    ("arch", "other", "names"),
    [("squeezenet", "resnet18", "torchvision"), ("resnet50", "vgg16", "own"),
     ("googlenet-bn", "googlenet", "torchvision"), ("alexnet", "alexnet-2012", "own")],
)  # fmt: skip
def test_read_weights__names_the_network_that_they_fit(arch, other, names, tmp_path):
    """At full size, with arrays of no memory."""
    naming = torch_naming(described(arch).graph(1, training=False), get_model(arch).torchvision)
    shapes = described(arch).graph(1, training=False)
    told = {p.value.name: p.value.shape for p in shapes.params}
    told |= {v.name: v.shape for v in shapes.states}
    if names == "torchvision":
        told = {naming.names[ours]: shape for ours, shape in naming.shapes.items()}
    sparse(tmp_path / "w", told)
    rule = f"w does not fit {other}: it holds the weights of {arch}$"
    with pytest.raises(InputError, match=rule):
        read_weights(tmp_path / "w", described(other))


def sparse(path, shapes, dtype="F32", size=4):
    """A safetensors file of zeros that take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        file.truncate(8 + len(told) + end)


@pytest.mark.parametrize(
    ("value", "told"),
    [(np.nan, "conv2/w holds 2 NaN of 2,400"), (-np.inf, "conv2/w holds 2 infinite of 2,400"),
     (1e39, "conv2/w holds 2 infinite of 2,400")],
)  # fmt: skip
def test_read_weights__numbers_that_are_not_finite(value, told, tmp_path):
    arrays = {name: array.astype(np.float64) for name, array in drawn(small("lenet")).items()}
    arrays["conv2/w"][0, 0, 0, :2] = value
    saved("npz", tmp_path / "w", arrays)
    with pytest.raises(InputError, match=re.escape(f"w: {told}")):
        read_weights(tmp_path / "w", small("lenet", precision="fp32"))


def test_find_naming__two_tensors_of_one_name():
    b = GraphBuilder("alike", training=False)
    with b.scope("a"):
        x = b.dense(b.input("x", (1, 4)), 4, name="b")
    graph = b.finish(logits=b.dense(x, 4, name="a.b"))
    assert find_naming(["a/b/w", "a/b/b", "a.b/w", "a.b/b"], graph, None).kind == "own"
    told = "by torchvision's names a/b/w and a.b/w are both a.b.weight; rename a layer"
    with pytest.raises(InputError, match=told):
        find_naming(["a.b.weight"], graph, None)


def test_read_weights__variances_below_zero(tmp_path):
    arrays = drawn(small("resnet18"))
    arrays["norm1/running_var"][0] = -1
    saved("safetensors", tmp_path / "w", arrays)
    with pytest.raises(InputError, match="norm1/running_var holds variances below zero"):
        read_weights(tmp_path / "w", small("resnet18"))


def test_read_weights__types_that_are_no_weights(tmp_path):
    arrays = drawn(small("lenet"))
    arrays["conv1/w"] = arrays["conv1/w"].astype(np.int64)
    saved("safetensors", tmp_path / "w", arrays)
    with pytest.raises(InputError, match="must be float64, .* or bfloat16, but conv1/w is I64"):
        read_weights(tmp_path / "w", small("lenet"))


def test_read_weights__damaged_numbers_of_our_own_file(tmp_path):
    save_model(tmp_path / "w", small("lenet"), drawn(small("lenet")), Source("mnist"))
    content = bytearray((tmp_path / "w").read_bytes())
    content[-2] ^= 1
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(InputError, match=r"w is damaged: its CRC-32 is \d+, it was written as"):
        read_weights(tmp_path / "w", small("lenet"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("input_shape", [28.0, 28, 1]), ("input_shape", [10**9, 28, 1]), ("classes", [1, 2]),
     ("mean", [float("inf")]), ("std", "a"), ("std", [0.0]), ("precision", ["fp32"]),
     ("options", None), ("data", {"name": 3})],
)  # fmt: skip
def test_load_model__metadata_that_make_no_sense(name, value, tmp_path):
    """Of our own file with a right checksum: it covers the numbers alone."""
    description = small("lenet")
    meta = {"format": 1, "data": {"name": "mnist"}, **description.to_json(), name: value}
    files.save_tensors(tmp_path / "w", drawn(description), meta)
    wrong = "name" if name == "data" else name
    for read in (load_model, lambda path: import_weights(path, Wish())):
        with pytest.raises(InputError, match=f"w is damaged: {wrong} in its metadata is"):
            read(tmp_path / "w")


def _safetensors(header, numbers=b"", length=None):
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(told) if length is None else length).to_bytes(8, "little") + told + numbers


def _entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _zipped(members, **how):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def _npy(shape, numbers=b"", dtype="<f4"):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + numbers


class Evil:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (open, ("evil", "w"))


HOSTILE = {
    "nothing": (b"", "no file of weights"),
    "text": (b"hello, this is text", "no file of weights"),
    "a huge header": (_safetensors(b"{}", length=1 << 62), "no readable safetensors"),
    "a header cut short": (_safetensors(b'{"a": {"dty', length=4000), "no readable safetensors"),
    "numbers cut short": (_safetensors({"a": _entry([4], 0, 16)}, b"1234"),
                          "no readable safetensors"),
    "a huge shape": (_safetensors({"a": _entry([1 << 40, 1 << 40], 0, 16)}, bytes(16)),
                     "no readable safetensors"),
    "numbers that overlap": (
        _safetensors({"a": _entry([4], 0, 16), "b": _entry([4], 8, 24)}, bytes(24)),
        "no readable safetensors",
    ),
    "a type of its own": (_safetensors({"a": _entry([4], 0, 16, "P32")}, bytes(16)),
                          "no readable safetensors"),
    "an archive cut short": (_zipped({"a.npy": _npy((2,), bytes(8))})[:-30], "damaged archive"),
    "an archive of texts": (_zipped({"a.txt": b"a"}), "a.txt in it is no .npy file"),
    "an array that says more than it has": (
        _zipped({"a.npy": _npy((1 << 40,), bytes(64))}), "says it is"),
    "a bomb": (_zipped({"a.npy": _npy((1 << 24,), bytes(1 << 26))},
                       compression=zipfile.ZIP_DEFLATED), "unknown: a"),
    "an array of objects": (
        _zipped({"a.npy": _npy((1,), pickle.dumps([Evil()]), "|O")}), "never unpickled"),
    "an array of no shape": (_zipped({"a.npy": b"\x93NUMPY\x01\x00\x10\x00{1: 2"}),
                             "'?a'? cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_read_weights__hostile_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, told = HOSTILE[name]
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(InputError, match=told) as error:
        read_weights(tmp_path / "w", small("lenet"))
    assert str(tmp_path / "w") in str(error.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("damage", ["a pickle", "a pickle in torch's archive", "compressed", "cut"])
def test_read_weights__hostile_files_of_torch(damage, torch_oracle, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w"
    if damage == "a pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": Evil()}, protocol=2))
    elif damage == "a pickle in torch's archive":
        torch.save({"conv1.weight": Evil()}, path)
    else:
        content = io.BytesIO()
        torch.save({"conv1.weight": torch.zeros(1000)}, content)
        path.write_bytes(content.getvalue()[:-700])
        if damage == "compressed":
            with zipfile.ZipFile(content) as archive:
                members = {m: archive.read(m) for m in archive.namelist()}
            path.write_bytes(_zipped(members, compression=zipfile.ZIP_DEFLATED))
    rule = {"compressed": "is compressed", "cut": "is a damaged archive"}.get(
        damage, "would run code"
    )
    with pytest.raises(InputError, match=rule):
        read_weights(path, small("lenet"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth", "old pth"])
def test_read_weights__random_damage_is_told_in_one_line(kind, request, tmp_path):
    """Whatever the readers of each kind stumble over, and numbers that are still whole."""
    if "pth" in kind:
        request.getfixturevalue("torch_oracle")
    description = described("C2 P F3", 2)
    path = saved(kind, tmp_path / "w", drawn(description))
    whole, rng, refused = path.read_bytes(), np.random.default_rng(5), 0
    for _ in range(100):
        content = bytearray(whole)
        place = int(rng.integers(min(len(content), rng.choice([64, 500, len(content)]))))
        match rng.integers(4):
            case 0:
                content[place] = rng.integers(256)
            case 1:
                content[place] ^= 1 << int(rng.integers(8))
            case 2:
                del content[place:]
            case _:
                content[place : place + 8] = rng.bytes(5)
        path.write_bytes(content)
        try:
            read_weights(path, description)
        except InputError as error:
            assert str(error).isprintable()  # noqa: PT017
            refused += 1
    assert 50 < refused < 100


def test_read_weights__says_what_to_install_where_torch_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match="w is a file of torch's; to read it: pip install torch"):
        read_weights(tmp_path / "w", small("lenet"))


def test_read_weights__what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path, "is a folder without model.safetensors"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "pipe", "is not a file"),
    ):
        with pytest.raises(InputError, match=told):
            read_weights(path, small("lenet"))
