"""What every graph keeps to: single assignment, order, unique names, and each node's contract."""

from __future__ import annotations

from collections import Counter

from ..kernels import spec
from .ir import Graph


class GraphError(Exception):
    """A graph breaks its own rules: a bug in a builder or a pass."""


def verify(graph: Graph) -> Graph:
    """Check single assignment, order, unique names and every node's contract; returns `graph`.

    Raises: GraphError, or the contract's ShapeError or DTypeError with the node's name in front.
    """
    defined = set(graph.given)
    if len(defined) != len(graph.given):
        raise GraphError(f"{graph.name}: a value is given twice")
    for node in graph.nodes:
        for value in node.reads:
            if value not in defined:
                raise GraphError(f"{graph.name}: {node.name} reads {value.name} before it is made")
        for value in node.updates:
            if value.kind != "state":
                raise GraphError(f"{graph.name}: {node.name} updates {value.name}, no state")
        for value in node.writes:
            if value in defined:
                raise GraphError(f"{graph.name}: {value.name} is written twice")
            defined.add(value)
        if node.op != "reshape":
            try:
                spec.CONTRACTS[node.op](**node.arguments)
            except Exception as error:
                raise type(error)(f"{node.name}: {error}") from None
    for name, value in graph.outputs.items():
        if value not in defined:
            raise GraphError(f"{graph.name}: output {name} ({value.name}) is never made")
    repeated = [n for n, count in Counter(v.name for v in defined).items() if count > 1]
    if repeated:
        raise GraphError(f"{graph.name}: several values are called {repeated[0]}")
    return graph
