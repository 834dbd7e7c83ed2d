"""Weights of other programs: the same answers as theirs, back to the bit, and who tells what."""

import numpy as np
import pytest

from cnnengine.engine.checkpoint import load_model, save_model
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.exchange import Wish, export_weights, import_weights
from cnnengine.engine.model_meta import Source
from cnnengine.engine.models import get_model, list_models
from cnnengine.engine.naming import head, torch_naming
from cnnengine.engine.network import Network
from cnnengine.engine.tensorfiles import open_tensors
from cnnengine.engine.weights import count_classes, read_weights

from .weight_samples import CLASSES, SIDES, TORCHVISION, described, drawn, saved, small


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
    with pytest.raises(InputError, match="no.* cnnengine model .* cnnengine import makes one"):
        load_model(other)
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
    with pytest.raises(InputError, match="--mean must be one number, not 3: images have 1"):
        import_weights(tmp_path / "w", Wish("lenet", mean=[0.5] * 3, std=[1]))


def test_read_weights__other_classes_leave_the_last_layer_out(tmp_path):
    saved("safetensors", tmp_path / "w", drawn(small("squeezenet")))
    other = described("squeezenet", 7, side=49, width=0.25)
    with open_tensors(tmp_path / "w") as file:
        assert count_classes(file, other) == CLASSES
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
