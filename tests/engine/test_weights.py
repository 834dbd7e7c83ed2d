"""Weights of other programs: the same answers as theirs, back to the bit, and what is refused."""

import io
import json
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from cnnengine.engine.checkpoint import Source, load_model, save_model
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.exchange import Wish, export_weights, import_weights
from cnnengine.engine.models import get_model, list_models
from cnnengine.engine.naming import head, torch_naming
from cnnengine.engine.network import Description, Network
from cnnengine.engine.weights import count_classes, read_weights

CLASSES = 5

# network → its number of parameters in torchvision (with auxiliary heads), a small image, a width
TORCHVISION = {
    "alexnet": (61_100_840, 63, 0.125),
    "vgg16": (138_357_544, 64, 0.0625),
    "squeezenet": (1_235_496, 49, 0.25),
    "resnet18": (11_689_512, 40, 0.125),
    "resnet50": (25_557_032, 40, 0.125),
    "googlenet-bn": (13_004_888, 64, 0.125),
    "inception-v3": (27_161_264, 75, 0.0625),
}
SIDES = {"alexnet-2012": 67, "googlenet": 64, "lenet": 28, "vgg-small": 28}


def described(arch, classes=CLASSES, *, side=None, precision="fp64", **options):
    model = get_model(arch)
    shape = (side, side, model.input_shape[2]) if side else model.input_shape
    flat = (0.5,) * shape[2]
    return Description(
        arch, shape, tuple(map(str, range(classes))), flat, flat, precision, options
    )  # fmt: skip


def small(arch, **more):
    if arch in TORCHVISION:
        _, side, width = TORCHVISION[arch]
        return described(arch, side=side, width=width, **more)
    options = {} if arch == "lenet" else {"width": 0.125}
    return described(arch, side=SIDES[arch], **options, **more)


def drawn(description, seed=1):
    """Random arrays for every parameter and state of inference."""
    rng = np.random.default_rng(seed)
    graph = description.graph(1, training=False)
    values = [*(p.value for p in graph.params), *graph.states]
    return {v.name: rng.uniform(0.1, 1, v.shape).astype(np.float32) for v in values}


@pytest.fixture
def theirs(torch_oracle):
    """The networks in torch, by torchvision's names."""
    from . import torchvision_networks

    return torchvision_networks.NETWORKS


def shaken(module):
    """The module in float64, with random statistics in its batch norms."""
    import torch

    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.uniform_(-0.2, 0.2)
    return module.double().eval()


def test_networks__all_that_torchvision_names_are_tried():
    assert {model.name for model in list_models() if model.torchvision} == set(TORCHVISION)
    assert {model.name for model in list_models() if not model.torchvision} == set(SIDES)


@pytest.mark.parametrize("arch", TORCHVISION)
def test_torch_naming__names_and_shapes_at_full_size_are_torchvisions(arch, theirs):
    import torch

    count, *_ = TORCHVISION[arch]
    with torch.device("meta"):
        module = theirs[arch](1000, 1.0, 224)
    assert sum(p.numel() for p in module.parameters()) == count
    graph = described(arch, 1000).graph(2, training=True)
    naming = torch_naming(graph, get_model(arch).torchvision)
    expected = {n: tuple(t.shape) for n, t in module.state_dict().items() if t.ndim}
    assert {naming.names[ours]: shape for ours, shape in naming.shapes.items()} == expected


@pytest.mark.parametrize("arch", TORCHVISION)
def test_read_weights__logits_are_those_of_torch(arch, theirs, tmp_path):
    import torch

    description = small(arch)
    module = shaken(theirs[arch](CLASSES, description.options["width"], TORCHVISION[arch][1]))
    torch.save(module.state_dict(), tmp_path / "w.pth")
    weights = read_weights(tmp_path / "w.pth", description)
    network = Network(description, open_device("cpu"), infer_batch=2)
    network.load(weights.arrays)
    x = np.random.default_rng(0).standard_normal((2, *description.input_shape))
    with torch.no_grad():
        expected = module(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    network.inference.feed({"x": x})
    network.inference.run()
    found = network.inference.output("logits")
    assert np.abs(found - expected).max() < 1e-11 * np.abs(expected).max()
    assert expected.std(axis=1).min() > 0
    norms = sum("running_mean" in name for name in module.state_dict())
    told = " ".join(weights.notes)
    assert bool(norms) == (f"left out {norms} *.num_batches_tracked" in told)
    has_heads = hasattr(module, "aux1") or hasattr(module, "AuxLogits")
    assert has_heads == ("auxiliary heads" in told)


def test_read_weights__own_names_with_dots_in_torchs_layouts(torch_oracle, tmp_path):
    """A network that torchvision does not have, flattened as torch does."""
    import torch
    from torch import nn

    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
            self.dense1, self.dense2 = nn.Linear(400, 120), nn.Linear(120, 84)
            self.dense3 = nn.Linear(84, CLASSES)

        def forward(self, x):
            for layer in (self.conv1, self.conv2):
                x = torch.max_pool2d(torch.relu(layer(x)), 2)
            x = torch.relu(self.dense1(torch.flatten(x, 1)))
            return self.dense3(torch.relu(self.dense2(x)))

    module = LeNet()
    torch.save({"model": module.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    description = small("lenet", precision="fp32")
    weights = read_weights(tmp_path / "w.pth", description)
    network = Network(description, open_device("cpu"), infer_batch=1)
    network.load(weights.arrays)
    x = np.random.default_rng(0).standard_normal((1, 28, 28, 1)).astype(np.float32)
    expected = module(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(network.logits(x), expected, rtol=1e-4, atol=1e-5)


def saved(kind, path, arrays):
    """Arrays in a file of that kind."""
    if kind == "safetensors":
        path.write_bytes(safetensors.numpy.save(arrays))
    elif kind == "npz":
        np.savez_compressed(path, **arrays)
        path.with_name(f"{path.name}.npz").rename(path)
    else:
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "pth")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth", "old pth"])
@pytest.mark.parametrize("names", ["own", "torchvision"])
def test_read_weights__every_kind_of_file(kind, names, request, tmp_path):
    if "pth" in kind:
        request.getfixturevalue("torch_oracle")
    description = small("resnet18", precision="fp32")
    arrays = drawn(description)
    naming = torch_naming(description.graph(1, training=False), get_model("resnet18").torchvision)
    told = arrays
    if names == "torchvision":
        told = {
            f"module.{naming.names[n]}": np.ascontiguousarray(naming.to_file(n, array), np.float64)
            for n, array in arrays.items()
        }
    weights = read_weights(saved(kind, tmp_path / "weights", told), description)
    assert weights.kind == names
    assert {n: a.dtype for n, a in weights.arrays.items()} == dict.fromkeys(arrays, np.float32)
    assert all(np.array_equal(weights.arrays[name], arrays[name]) for name in arrays)
    changed = ["took 'module.' off the front of every name", "float64 became float32"]
    assert list(weights.notes) == (changed if names == "torchvision" else [])


@pytest.mark.parametrize("arch", [*TORCHVISION, *SIDES])
def test_export_weights__comes_back_to_the_bit(arch, tmp_path):
    description, source = small(arch, precision="fp32"), Source("mnist", 3, "28", True)
    first, other, last = (tmp_path / f"{n}.safetensors" for n in ("first", "other", "last"))
    save_model(first, description, drawn(description), source)
    export_weights(other, *load_model(first), "torchvision")
    back, told, weights = import_weights(other, Wish())
    assert weights.kind == "torchvision"
    save_model(last, back, weights.arrays, told)
    assert first.read_bytes() == last.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    export_weights(last, *load_model(first), "own")
    assert first.read_bytes() == last.read_bytes()


@pytest.mark.parametrize("arch", ["alexnet", "resnet50"])
def test_export_weights__torch_takes_it(arch, theirs, tmp_path):
    import torch
    from safetensors.torch import load_file

    description = small(arch, precision="fp32")
    arrays = drawn(description)
    network = Network(description, open_device("cpu"), infer_batch=1)
    network.load(arrays)
    export_weights(tmp_path / "w", description, arrays, Source("mnist"), "torchvision")
    module = theirs[arch](CLASSES, description.options["width"], TORCHVISION[arch][1]).eval()
    module.load_state_dict(load_file(tmp_path / "w"), strict=True)
    x = np.random.default_rng(0).standard_normal((1, *description.input_shape)).astype(np.float32)
    expected = module(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(network.logits(x), expected, rtol=1e-4)


def test_import_weights__what_the_file_does_not_tell(tmp_path):
    path = tmp_path / "w"
    arrays = drawn(small("squeezenet"))
    naming = torch_naming(
        small("squeezenet").graph(1, training=False), get_model("squeezenet").torchvision
    )
    saved("npz", path, {naming.names[n]: naming.to_file(n, a) for n, a in arrays.items()})
    wish = Wish("squeezenet", {"width": 0.25}, (49, 60))
    description, source, weights = import_weights(path, wish)
    assert description.input_shape == (49, 60, 3)
    assert description.classes == ("0", "1", "2", "3", "4")
    assert (description.mean, description.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source.name == "unknown data (weights from w)"
    assert set(weights.arrays) == set(arrays)
    named, *_ = import_weights(path, Wish("squeezenet", {"width": 0.25}, None, "abcde", [0.5], [1]))
    assert named.classes == ("a", "b", "c", "d", "e")
    assert (named.mean, named.std) == ((0.5,) * 3, (1.0,) * 3)
    with pytest.raises(InputError, match=r"tells 6 classes, the last layer in .*w has 5"):
        import_weights(path, Wish("squeezenet", {"width": 0.25}, None, 6))


def test_import_weights__own_names_without_a_normalisation(tmp_path):
    saved("npz", tmp_path / "w", drawn(small("lenet")))
    with pytest.raises(InputError, match="does not tell how images are normalised; give --mean"):
        import_weights(tmp_path / "w", Wish("lenet"))
    with pytest.raises(InputError, match="--mean must be one number or 1, not 3"):
        import_weights(tmp_path / "w", Wish("lenet", mean=[0.5] * 3, std=[1]))


def test_read_weights__other_classes_leave_the_last_layer_out(tmp_path):
    saved("safetensors", tmp_path / "w", drawn(small("squeezenet")))
    other = described("squeezenet", 7, side=49, width=0.25)
    assert count_classes(tmp_path / "w", other) == CLASSES
    weights = read_weights(tmp_path / "w", other, other_classes=True)
    assert weights.missing == ("conv10/w", "conv10/b")
    assert set(weights.arrays) | set(weights.missing) == set(drawn(other))
    same = read_weights(tmp_path / "w", small("squeezenet"), other_classes=True)
    assert same.missing == ()
    with pytest.raises(InputError, match=r"2 of another shape: conv10/w is \(5, 1, 1, 128\), not"):
        read_weights(tmp_path / "w", other)


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        ("squeezenet", "conv10"),
        ("resnet18", "dense"),
        ("inception-v3", "dense"),
        ("lenet", "dense3"),
    ],
)
def test_head__is_the_layer_that_makes_the_logits(arch, layer):
    assert head(described(arch).graph(1, training=False)) == layer


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
    rule = {"compressed": "is compressed", "cut": "damaged"}.get(damage, "would run code")
    with pytest.raises(InputError, match=rule):
        read_weights(path, small("lenet"))
    assert not (tmp_path / "evil").exists()


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
