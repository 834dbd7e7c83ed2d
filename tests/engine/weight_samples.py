"""Small networks with random weights, and files of them, for the tests of weights."""

import numpy as np
import safetensors.numpy

from cnnengine.engine.models import get_model
from cnnengine.engine.network import Description

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
