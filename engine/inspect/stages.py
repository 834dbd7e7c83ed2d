"""The stages of a network: the values that everything goes through, from the image to the answer.

A value is such a **cut** if nothing made before it is read after it. In a network without branches
every value is one; of an Inception module or a residual block only its end is. A stage shows a
cut with its norm and activation: the name is the layer's, the value is the ReLU's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, unknown_name
from ..ir import Graph, Node, Value
from ..passes.autodiff import depending

FOLLOWERS = ("batch_norm_inference", "relu", "clip", "leaky_relu", "prelu")
KINDS = {
    "conv2d": "convolution", "dense": "dense layer", "max_pool2d": "max pool",
    "avg_pool2d": "average pool", "global_avg_pool2d": "average of each channel",
    "concat": "branches side by side", "add": "sum of branches",
}  # fmt: skip
POOLS = ("max_pool2d", "avg_pool2d", "global_avg_pool2d")


@dataclass(frozen=True, eq=False)
class Stage:
    """One step from the image to the answer: its layer's name, and what comes out of it."""

    name: str
    op: str
    value: Value

    @property
    def kind(self) -> str:
        """What it does, in words."""
        return KINDS.get(self.op, self.op)

    @property
    def is_picture(self) -> bool:
        """Whether its channels are pictures: more than one pixel."""
        return is_picture(self.value)

    @property
    def is_map(self) -> bool:
        """Whether it computes pictures of its own; a pool only shrinks those before it."""
        return self.is_picture and self.op not in POOLS


def is_picture(value: Value) -> bool:
    """Whether a value [N,H,W,C] has more than one pixel."""
    return len(value.shape) == 4 and math.prod(value.shape[1:3]) > 1


def stages(graph: Graph) -> list[Stage]:
    """The stages of a forward graph as built, in order."""
    walk, told = _Walk(graph), {}
    for value in _cuts(graph):
        root = walk.root(value)
        if root is None or root.op not in KINDS or walk.end(value) is not value:
            continue
        name = _name(root)
        told[name if name not in told else root.name] = (root.op, value)
    return [Stage(name, op, value) for name, (op, value) in told.items()]


def find(graph: Graph, name: str) -> Stage:
    """The stage or layer called `name`, with the norm and activation behind it.

    Raises: InputError for an unknown name, with close matches, and for one without pictures.
    """
    listed = {stage.name: stage for stage in stages(graph)}
    nodes = {node.name: node for node in graph.nodes if node.op != "reshape"}
    if name not in listed and name not in nodes:
        raise unknown_name("layer", name, {*listed, *nodes})
    if name in listed:
        found = listed[name]
    else:
        found = Stage(name, nodes[name].op, _Walk(graph).end(nodes[name].out))
    if not found.is_picture:
        shape = "x".join(map(str, found.value.shape[1:]))
        raise InputError(
            f"layer {name} has no pictures to show, its output is {shape}; layers that have: "
            f"{', '.join(s.name for s in listed.values() if s.is_map)}"
        )
    return found


def low_middle_high(listed: Sequence[Stage]) -> list[Stage]:
    """The first, the middle and the last of the stages that compute pictures; fewer if so.

    Whole modules go before the layers in them.
    """
    maps = [stage for stage in listed if stage.is_map]
    maps = [stage for stage in maps if "/" not in stage.name] or maps
    return [maps[i] for i in sorted({0, len(maps) // 2, len(maps) - 1})] if maps else []


class _Walk:
    """Steps along a graph."""

    def __init__(self, graph: Graph) -> None:
        self.users, self.producers = graph.users(), graph.producers()
        self.outputs = set(graph.outputs.values())

    def end(self, value: Value) -> Value:
        """The value behind the norm and the activation that are alone in reading `value`."""
        users = self.users.get(value, [])
        if len(users) == 1 and users[0].op in FOLLOWERS and value not in self.outputs:
            return self.end(users[0].out)
        return value

    def root(self, value: Value) -> Node | None:
        """The node in front of the norm and activation that made `value`; None for an input."""
        node = self.producers.get(value)
        if node is not None and node.op in FOLLOWERS:
            return self.root(node["x"]) or node
        return node


def _cuts(graph: Graph) -> list[Value]:
    """The activations that are alone in being read later, in order."""
    last = {value: i for i, node in enumerate(graph.nodes) for value in node.reads}
    last |= dict.fromkeys(graph.outputs.values(), len(graph.nodes))
    seeing = depending(graph, graph.inputs)
    alive, cuts = set(graph.inputs), []
    for i, node in enumerate(graph.nodes):
        made = (*alive, *(value for value in node.writes if value in seeing))
        alive = {value for value in made if last.get(value, -1) > i}
        if alive == {node.out}:
            cuts.append(node.out)
    return cuts


def _name(root: Node) -> str:
    """The layer's name; that of the module around it for the end of branches."""
    scope = root.name.rpartition("/")[0]
    return scope if scope and root.op in ("concat", "add") else root.name
