"""What the tensors of a network are called and how they lie, here and in torchvision.

Here `conv1/w` is [K,R,S,C], and a dense layer behind an image reads H,W,C; there it is called
`features.0.weight`, is [K,C,R,S], and the image is flattened as C,H,W. The table of a network's
layers stands beside it in `models/`; a network that torchvision does not have goes by its own names
with dots, `conv1.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .errors import InputError
from .ir import Graph, Value
from .models import Torchvision

PARTS = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}  # others keep their names
KEEPS_ORDER = ("relu", "dropout")  # what may stand between a flattened image and a dense layer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Naming:
    """Names and layouts of one network's tensors in one kind of file, "own" or "torchvision".

    names: our name → the file's; shapes: our name → the shape in the file; `to_ours` and `to_file`
    take our name and an array, and return a view of it in the other layout.
    """

    kind: str
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]
    to_ours: Callable[[str, np.ndarray], np.ndarray]
    to_file: Callable[[str, np.ndarray], np.ndarray]


def find_naming(names: Iterable[str], graph: Graph, table: Torchvision | None) -> Naming:
    """The naming that most of `names` follow; where none is known, the one that looks like them.

    Raises: InputError as `check_distinct`.
    """
    own, torch = own_naming(graph), torch_naming(graph, table)
    names = set(names)
    own_hits, torch_hits = (len(names & set(n.names.values())) for n in (own, torch))
    if own_hits > torch_hits or (own_hits == torch_hits and any("/" in name for name in names)):
        return own
    return check_distinct(torch)


def own_naming(graph: Graph) -> Naming:
    """Names and layouts as everywhere in this project."""
    shapes = {value.name: value.shape for value in _tensors(graph)}
    return Naming("own", {n: n for n in shapes}, shapes, lambda _, a: a, lambda _, a: a)


def torch_naming(graph: Graph, table: Torchvision | None) -> Naming:
    """Torchvision's names by its table, or our own with dots; torch's layouts."""
    layers = table.layers if table is not None else {}
    images = _flattened_images(graph)

    def name(value: Value) -> str:
        layer, _, part = value.name.rpartition("/")
        return f"{layers.get(layer, layer.replace('/', '.'))}.{PARTS.get(part, part)}"

    def to_ours(name: str, array: np.ndarray) -> np.ndarray:
        if name in images:  # [K, C*H*W] → [K, H*W*C]
            h, w, c = images[name]
            array = array.reshape(len(array), c, h, w).transpose(0, 2, 3, 1)
            return array.reshape(len(array), -1)
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

    def to_file(name: str, array: np.ndarray) -> np.ndarray:
        if name in images:
            array = array.reshape(len(array), *images[name]).transpose(0, 3, 1, 2)
            return array.reshape(len(array), -1)
        return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array

    names = {value.name: name(value) for value in _tensors(graph)}
    shapes = {value.name: _torch_shape(value.shape) for value in _tensors(graph)}
    return Naming("torchvision", names, shapes, to_ours, to_file)


def check_distinct(naming: Naming) -> Naming:
    """The naming itself. Raises: InputError when two tensors have one name in it."""
    ours: dict[str, str] = {}
    for name, theirs in naming.names.items():
        if theirs in ours:
            raise InputError(
                f"by {naming.kind}'s names {ours[theirs]} and {name} are both {theirs}; "
                "rename a layer, or use our own names"
            )
        ours[theirs] = name
    return naming


def head(graph: Graph) -> str:
    """The layer that makes the logits: the last convolution or dense layer in front of them.

    Raises: InputError when they come from several layers.
    """
    producers = graph.producers()
    value = graph.outputs["logits"]
    while (node := producers.get(value)) is not None:
        if node.op in ("conv2d", "dense"):
            return node.name
        results = [v for v in node.reads if v.kind == "result"]
        if len(results) != 1:
            raise InputError(f"the logits of {graph.name} come from several layers ({node.name})")
        value = results[0]
    raise InputError(f"{graph.name} has no layer that makes its logits")


def _tensors(graph: Graph) -> list[Value]:
    return [*(parameter.value for parameter in graph.params), *graph.states]


def _torch_shape(shape: Shape) -> Shape:
    """KRSC → KCRS; other ranks stay."""
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _flattened_images(graph: Graph) -> dict[str, Shape]:
    """Name of the weights of a dense layer that reads a flattened image → its (H, W, C)."""
    images: dict[Value, Shape] = {}
    found: dict[str, Shape] = {}
    for node in graph.nodes:
        x = node["x"]
        if node.op == "reshape" and len(x.shape) == 4:
            images[node.out] = x.shape[1:]
        elif node.op in KEEPS_ORDER and x in images:
            images[node.out] = images[x]
        elif node.op == "dense" and x in images:
            found[node["w"].name] = images[x]
    return found
