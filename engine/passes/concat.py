"""Concat: stores its inputs as slices of its output's channels, so that it copies nothing.

Whoever writes such an input writes it there, at its channel offset; whoever reads it reads it
there. The gradients of the inputs are slices of the output's gradient in the same way. A value
becomes a slice if every node that touches it takes slices (the contract's pitched arrays) and still
runs on the same backend by the same algorithm. Inputs, outputs, reshaped values and those with a
border of zeros stay as they are; of a value that several concats read, the first one gets it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..ir import Choice, Graph, Value
from .memory import aliases
from .select import possible

Places = dict[Value, tuple[Value, int]]  # value → the one that it lies within, its first channel


def concat(graph: Graph, backends: Sequence[str]) -> Graph:
    """The graph with slices of channels wherever that spares a copy."""
    places = _wanted(graph)
    while places:
        made = graph.with_values(_slices(places))
        refused = set(_refused(graph, made, places, backends))
        if not refused:
            return made
        places = {value: place for value, place in places.items() if value not in refused}
    return graph


def _wanted(graph: Graph) -> Places:
    """Where concats and their gradients want values to lie that can lie there."""
    fixed = {*graph.outputs.values()}
    for value, root in aliases(graph).items():
        fixed |= {value, root}
    places: Places = {}
    for value, whole, offset in _pairs(graph):
        free = value.kind == whole.kind == "result" and value not in places and value not in fixed
        if free and not any((*value.border, *whole.border)):
            places[value] = whole, offset
    return places


def _pairs(graph: Graph) -> Iterator[tuple[Value, Value, int]]:
    """(slice, whole, first channel) of each copy that a graph makes between the two."""
    for node in graph.nodes:
        if node.op == "concat":
            offset = 0
            for x in node["xs"]:
                yield x, node.out, offset
                offset += x.shape[-1]
        elif node.op == "channel_slice":
            yield node.out, node["x"], node["offset"]


def _slices(places: Places) -> dict[Value, Value]:
    """Value → the same as a slice; slices of slices too."""
    made: dict[Value, Value] = {}

    def sliced(value: Value) -> Value:
        if value in places and value not in made:
            whole, offset = places[value]
            made[value] = replace(value, within=sliced(whole), offset=offset)
        return made.get(value, value)

    for value in places:
        sliced(value)
    return made


def _refused(graph: Graph, made: Graph, places: Places, backends: Sequence[str]) -> Iterator[Value]:
    """The values that some node does not take as slices; `made` is the graph with them."""
    for node, changed in zip(graph.nodes, made.nodes, strict=True):
        touched = [v for v in (*node.reads, *node.writes) if v in places]
        if touched:
            before, now = possible(node, backends), possible(changed, backends)
            if before is None or now is None or _way(before) != _way(now):
                yield from touched


def _way(choice: Choice) -> tuple[str, str]:
    """How a node runs: the backend and its algorithm."""
    return choice.backend, choice.config.algorithm
