"""Frozen layers: where a network may be cut, the graph whose front part is not trained, its halves.

The boundary is one value that everything behind it is made from: no other path leads from the image
to the logits. In front of it parameters get no gradient, batch norms use their running statistics,
and so nothing of the front changes from step to step: it may run once for each image, and training
goes on from what it gave (`cut`, `feature_cache.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from .errors import InputError
from .ir import Graph, Node, Pace, Parameter, Value

FEATURES = "features"  # the output of the front half


@dataclass(frozen=True)
class Freeze:
    """What of a network is not trained, and how the rest learns.

    `boundary` is the name of the value up to which all is frozen ("": nothing); `paces` tells
    parameter → pace for those that do not learn as all others; `cut`: the frozen front runs on its
    own, and plans for training and inference take what it gave.
    """

    boundary: str = ""
    paces: Mapping[str, Pace] = field(default_factory=dict)
    cut: bool = False


def boundaries(graph: Graph) -> list[Value]:
    """The values at which a forward graph can be cut in two, in order, the logits left out."""
    logits = graph.outputs["logits"]
    return [n.out for n in graph.nodes if n.out is not logits and is_boundary(graph, n.out)]


def is_boundary(graph: Graph, value: Value) -> bool:
    """Whether all that is not needed to make `value` is made from it alone."""
    front = set(_front(graph, value))
    mine = {v for node in front for v in node.writes} | {graph.inputs[0]}
    return not any(
        read in mine and read is not value
        for node in graph.nodes
        if node not in front
        for read in node.reads
    )


def find_boundary(
    graph: Graph, layer: str, told: str, dropped: frozenset[str] = frozenset()
) -> Value:
    """The boundary behind `layer`, a layer or a module ("fire9") of a forward graph.

    What follows without parameters of its own (a ReLU, a pool) is in front of it, too, but not what
    follows a dropout (`dropped`). `told` is how the user asked for it, for errors.

    Raises: InputError for an unknown layer, one inside a branch, and where nothing is left to
    train.
    """
    value = _nodes_of(graph, layer, told)[-1].out
    if not is_boundary(graph, value):
        raise _inside(graph, told, value)
    users = graph.users()
    while value.name not in dropped:
        following = _taken_along(users.get(value, []), value)
        if following is None:
            break
        value = following
    if value is graph.outputs["logits"] or not _params(_behind(graph, value)):
        raise InputError(f"{told}: it is the last layer, so nothing is left to train")
    return value


def find_start(graph: Graph, layer: str, told: str) -> Value | None:
    """The boundary in front of `layer`; None where everything is behind it.

    Raises: InputError for an unknown layer and for one inside a branch.
    """
    nodes = _nodes_of(graph, layer, told)
    images = graph.inputs[0]
    made = {v for node in nodes for v in node.writes}
    read = {v for n in nodes for v in n.reads if v.kind in ("result", "input")} - made
    sources = list(read)
    if len(sources) != 1 or not (sources[0] is images or is_boundary(graph, sources[0])):
        raise _inside(graph, told, nodes[0].out)
    return None if not _params(_front(graph, sources[0])) else sources[0]


def name_of(graph: Graph, value: Value) -> str:
    """The layer, or the whole module where it ends there, that makes a boundary."""
    node = next(n for n in graph.nodes if value in n.writes)
    scopes = node.name.split("/")
    for depth in range(1, len(scopes)):
        scope = "/".join(scopes[:depth])
        if [n for n in graph.nodes if n.name.startswith(f"{scope}/")][-1] is node:
            return scope
    return node.name


def frozen(graph: Graph, boundary: str, paces: Mapping[str, Pace] | None = None) -> Graph:
    """The graph with all that makes the value called `boundary` frozen ("": nothing).

    Auxiliary heads that branch off in front of it would train nothing but themselves: they are left
    out, with their parameters. `paces`: parameter → how it learns, if not as all others.
    """
    paces = paces or {}
    if not boundary:
        return replace(graph, params=tuple(_paced(p, paces) for p in graph.params))
    value = next(v for v in graph.producers() if v.name == boundary)
    front = set(_front(graph, value))
    strays = _strays(graph, front, value)
    kept = [n for n in graph.nodes if n not in strays]
    fixed = {p for n in front for p in n.reads}
    read = {v for n in kept for v in n.reads} | {v for n in kept for v in n.updates}
    inputs = tuple(v for v in graph.inputs if v in read)
    return replace(
        graph, nodes=tuple(_at_rest(n) if n in front else n for n in kept), inputs=inputs,
        keys=tuple(v for v in graph.keys if v in read),
        params=tuple(
            replace(p, trainable=False) if p.value in fixed else _paced(p, paces)
            for p in graph.params if p.value in read
        ),
        states=tuple(v for v in graph.states if v in read),
    )  # fmt: skip


def cut(graph: Graph, boundary: str) -> tuple[Graph, Graph]:
    """A graph's halves: images → `features`, and what follows with the features as its input x."""
    value = next(v for v in graph.producers() if v.name == boundary)
    nodes = _front(graph, value)
    front = _part(graph, nodes, inputs=graph.inputs, outputs={FEATURES: value})
    x = Value("x", value.shape, value.dtype, "input")
    rest = [n.substitute(value, x) for n in _behind(graph, value)]
    return front, _part(graph, rest, inputs=(x, *graph.inputs[1:]), outputs=graph.outputs)


def dropped(training: Graph) -> frozenset[str]:
    """The names of the values of a training graph that a dropout changes from step to step."""
    return frozenset(n["x"].name for n in training.nodes if n.op == "dropout")


def front_of(graph: Graph, boundary: str) -> tuple[Value, set[str]]:
    """The value called `boundary`, and the names of all that it is made by way of."""
    value = next(v for v in graph.producers() if v.name == boundary)
    return value, {v.name for n in _front(graph, value) for v in n.reads}


def _part(
    graph: Graph, nodes: list[Node], *, inputs: tuple[Value, ...], outputs: Mapping[str, Value]
) -> Graph:
    read = {v for n in nodes for v in (*n.reads, *n.updates)}
    names = {v.name for v in inputs if v in read}
    return replace(
        graph, nodes=tuple(nodes), inputs=tuple(v for v in inputs if v in read),
        constants={n: c for n, c in graph.constants.items() if n in names}, outputs=dict(outputs),
        keys=tuple(v for v in graph.keys if v in read),
        params=tuple(p for p in graph.params if p.value in read),
        states=tuple(v for v in graph.states if v in read),
    )  # fmt: skip


def _front(graph: Graph, value: Value) -> list[Node]:
    """The nodes that `value` is made by, in order."""
    needed, front = {value}, []
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.writes):
            front.append(node)
            needed.update(node.reads)
    return front[::-1]


def _behind(graph: Graph, value: Value) -> list[Node]:
    front = set(_front(graph, value))
    return [node for node in graph.nodes if node not in front]


def _strays(graph: Graph, front: set[Node], value: Value) -> set[Node]:
    """The nodes outside the front that depend on something of it beside `value`."""
    tainted = {graph.inputs[0]} | {v for n in front for v in n.writes}
    tainted.discard(value)
    strays: set[Node] = set()
    for node in graph.nodes:
        if node not in front and any(v in tainted for v in node.reads):
            strays.add(node)
            tainted.update(node.writes)
    return strays


def _at_rest(node: Node) -> Node:
    """The node as it runs at inference; dropout stays, which only training graphs have."""
    if node.op == "batch_norm_training":
        rest = {k: v for k, v in node.arguments.items() if k not in ("mean", "invstd")}
        return Node("batch_norm_inference", node.name, rest)
    if node.op == "max_pool2d":
        return node.with_arguments(code=None)
    return node


def _paced(parameter: Parameter, paces: Mapping[str, Pace]) -> Parameter:
    return replace(parameter, pace=paces.get(parameter.value.name, parameter.pace))


def _params(nodes: Iterable[Node]) -> list[Value]:
    return [v for n in nodes for v in n.reads if v.kind == "param"]


def _taken_along(users: list[Node], value: Value) -> Value | None:
    """What the only user of `value` makes of it alone, without parameters."""
    return users[0].out if len(users) == 1 and set(users[0].reads) == {value} else None


def _nodes_of(graph: Graph, layer: str, told: str) -> list[Node]:
    nodes = [n for n in graph.nodes if n.name == layer or n.name.startswith(f"{layer}/")]
    if nodes:
        return nodes
    known = {n.name for n in graph.nodes}
    known |= {name.rpartition("/")[0] for name in known} - {""}
    close = difflib.get_close_matches(layer, sorted(known), n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise InputError(
        f"{told}: {graph.name} has no layer {layer!r}{hint}; `cnnengine show` lists them"
    )


def _inside(graph: Graph, told: str, value: Value) -> InputError:
    """The error for a layer that cannot be a boundary, with the nearest ones that can."""
    order = [v for n in graph.nodes for v in n.writes]
    here = order.index(value)
    found = [(order.index(v), name_of(graph, v)) for v in boundaries(graph)]
    before = [name for at, name in found if at < here][-1:]
    after = [name for at, name in found if at > here][:1]
    near = " and ".join(dict.fromkeys(before + after))
    return InputError(
        f"{told}: lies inside a branch of {graph.name}, so there is no single value to "
        f"cut at; the nearest layers behind which there is one: {near or 'none'}"
    )
