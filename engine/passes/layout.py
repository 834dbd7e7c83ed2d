"""Layout: gives activations a border of zeros where a convolution then needs no gather.

A backend may have a faster way for convolutions of stride 1 whose image lies in a buffer with zeros
beside its rows and below its images (`kernels/spec/grid.py`). A border costs work at its positions,
(H + rows) * (W + columns) / (H * W) of it, so narrow images get none. What a convolution wants is
only a proposal; a value keeps its border if

- every node that touches it takes it, on the backend that runs the node anyway, and
- some convolution that reads it changes its algorithm for it.

Inputs, outputs and reshaped values are seen by others as they are: they have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...kernels import spec
from ..ir import Choice, Graph, Node, Value
from .memory import aliases
from .select import possible

LEAST_WIDTH = 28  # of an image: a border of one costs 7 % there, 15 % at half of it
SOURCES = {"conv2d": ("x",), "conv2d_dgrad": ("dy",), "conv2d_wgrad": ("x", "dy")}
Borders = dict[Value, tuple[int, int]]


def layout(
    graph: Graph, backends: Sequence[str], least_width: int = LEAST_WIDTH, always: bool = False
) -> Graph:
    """The graph with borders on its values.

    `least_width` in pixels; `always`: also where no backend gains by it (for tests).
    """
    before = {} if always else {node: possible(node, backends) for node in graph.nodes}
    borders = _wanted(graph, least_width)
    while borders:
        made = _with_borders(graph, borders)
        kept = _taken(graph, made, borders, backends, before)
        if kept == borders:
            return made
        borders = _balanced(graph, kept)
    return graph


def _wanted(graph: Graph, least_width: int) -> Borders:
    """What the convolutions want, for values that can have a border."""
    seen = {*graph.outputs.values()}
    for value, root in aliases(graph).items():
        seen |= {value, root}
    borders: Borders = {}
    for node, value in _sources(graph):
        rows, columns = _reach(node["op"])
        h, w = value.shape[1:3]  # of a single row or column, strides do not tell the border
        fits = value.kind == "result" and h > 1 and w >= max(least_width, 2) and value not in seen
        if fits and rows + columns:
            before = borders.get(value, (0, 0))
            borders[value] = max(before[0], rows), max(before[1], columns)
    return _balanced(graph, borders)


def _sources(graph: Graph) -> Iterator[tuple[Node, Value]]:
    for node in graph.nodes:
        for name in SOURCES.get(node.op, ()):
            yield node, node[name]


def _reach(op: spec.Conv2d) -> tuple[int, int]:
    """Rows and columns of zeros that a convolution finds beside an image; none if it steps."""
    if op.stride != (1, 1) or op.padding_mode != "zeros":
        return 0, 0
    return max(op.padding[:2]), max(op.padding[2:])


def _balanced(graph: Graph, borders: Borders) -> Borders:
    """The same with equal borders for the two images of each gradient of weights."""
    borders = dict(borders)
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            pair = [node[name] for name in SOURCES.get(node.op, ())]
            if len(pair) == 2 and all(value in borders for value in pair):
                (a, b), (c, d) = (borders[value] for value in pair)
                both = max(a, c), max(b, d)
                changed = changed or (a, b) != (c, d)
                borders |= dict.fromkeys(pair, both)
    return borders


def _with_borders(graph: Graph, borders: Borders) -> Graph:
    wide = {value: replace(value, border=border) for value, border in borders.items()}
    return graph.with_values(wide)


def _taken(
    graph: Graph,
    made: Graph,
    borders: Borders,
    backends: Sequence[str],
    before: Mapping[Node, Choice | None],
) -> Borders:
    """The borders that every node takes and some node gains by; `made` is the graph with them."""
    refused: set[Value] = set()
    gained: set[Value] = set()
    for node, changed in zip(graph.nodes, made.nodes, strict=True):
        touched = [v for v in (*node.reads, *node.writes) if v in borders]
        if not touched:
            continue
        now, plain = possible(changed, backends), before.get(node)
        if now is None or (plain is not None and now.backend != plain.backend):
            refused.update(touched)
        elif plain is None or now.config.algorithm != plain.config.algorithm:
            gained.update(node[name] for name in SOURCES.get(node.op, ()))
    return {v: border for v, border in borders.items() if v in gained and v not in refused}
