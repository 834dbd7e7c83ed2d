"""Pack: filters that never change are packed once, for the kernel that reads them.

Kernels want filters in an order of their own, some transformed, and would else bring them into it
at every call. In a network that does not train they are *derived* values: the host packs them when
weights are loaded (`runner.Storage.derive`), and what they are packed from is left on the host.
The backend tells how (`kernels/prepared.py`), and may choose another algorithm for such a call.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...kernels import registry
from ...kernels.prepared import Prepared
from ..ir import Derived, Graph, Node, Value
from .select import with_choice


def pack(graph: Graph) -> Graph:
    """The graph with the filters of its convolutions packed, where a backend offers it."""
    before = {d.value: d for d in graph.derived}
    users = graph.users()
    nodes: list[Node] = []
    derived: list[Derived] = []
    for i, node in enumerate(graph.nodes):
        w = node["w"]
        prepared = None if w is None or len(users[w]) > 1 else _prepared(node)
        if w is None or prepared is None:
            nodes.append(node)
            continue
        made = _packed(w, prepared, before.pop(w, None))
        derived.append(made)
        choice = replace(node.choice, config=prepared.config, reason=prepared.config.reason)  # type: ignore[type-var]
        nodes.append(with_choice(node.with_arguments(w=made.value), i, choice))
    return replace(graph.with_nodes(nodes), derived=(*before.values(), *derived))


def _prepared(node: Node) -> Prepared | None:
    if node.choice is None or node["w"].kind not in ("param", "derived"):
        return None
    return registry.load(node.choice.backend).prepare(node.op, node.arguments)


def _packed(w: Value, prepared: Prepared, folded: Derived | None) -> Derived:
    """w in the order of its kernel, from what w itself is made from, if it is derived."""
    algorithm = prepared.config.algorithm
    value = replace(
        w,
        name=f"{w.name}/packed",
        kind="derived",
        packed=(algorithm, prepared.elements),
    )

    def compute(*sources: np.ndarray) -> np.ndarray:
        filters = folded.compute(*sources) if folded else sources[0]
        packed = np.empty(prepared.elements, w.dtype)
        prepared.pack(np.ascontiguousarray(filters, w.dtype), packed)
        return packed

    sources = folded.sources if folded else (w,)
    formula = folded.formula if folded else w.name
    return Derived(value, sources, formula, compute, wide=folded is not None)
