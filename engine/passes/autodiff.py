"""Autodiff: appends the backward nodes to a forward graph, in reverse order, by the table `vjp`.

Work is emitted only along paths from a trainable parameter to the loss: behind the last frozen
layer nothing is computed. `backward` is the same from any value to any other. Where a value feeds
several layers, its gradients are added in the order in which the backward nodes run, so the sum is
the same every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .. import vjp
from ..ir import Graph, Node, Value


def depending(graph: Graph, sources: Iterable[Value]) -> set[Value]:
    """The values `sources` and all that depend on one of them."""
    needing = set(sources)
    for node in graph.nodes:
        if any(value in needing for value in node.reads):
            needing.update(node.writes)
    return needing


def autodiff(graph: Graph) -> Graph:
    """The joint graph: forward, backward, and one output `grad/p` for every trainable parameter.

    The gradient starts at the `dlogits` of every softmax_cross_entropy.
    """
    trainable = [p.value for p in graph.params if p.trainable]
    nodes, gradients = backward(graph, trainable, {})
    outputs = dict(graph.outputs)
    shared = {node.out for node in nodes if node.op == "reshape"}
    for value in trainable:
        if value in gradients:
            gradient = gradients[value]
            if gradient in shared:  # it needs memory of its own, in the gradient arena
                out = vjp.gradient_of(value, "@copy")
                nodes.append(Node("cast", value.name, {"x": gradient, "out": out}))
                gradient = out
            shared.add(gradient)
            outputs[f"grad/{value.name}"] = gradient
    return prune(replace(graph, nodes=(*graph.nodes, *nodes), outputs=outputs))


def backward(
    graph: Graph, sources: Iterable[Value], seeds: Mapping[Value, Value],
    rules: Mapping[str, vjp.Rule] = vjp.RULES,
) -> tuple[list[Node], dict[Value, Value]]:  # fmt: skip
    """The backward nodes towards `sources`, and the gradient of every value that they pass.

    The gradient starts at the values in `seeds` (value → its gradient) and at the `dlogits` of
    every softmax_cross_entropy. `rules` is the gradient table.
    """
    needing = depending(graph, sources)
    emit = vjp.Emitter()
    gradients = dict(seeds)
    sums: Counter[str] = Counter()

    def collect(value: Value, gradient: Value, node: Node) -> None:
        if gradient.dtype != vjp.gradient_of(value).dtype:  # a 16-bit parameter's
            out = vjp.gradient_of(value, f"@{node.name}/wide{len(emit.nodes)}")
            gradient = emit("cast", node.name, out, x=gradient)
        if value not in gradients:
            gradients[value] = gradient
            return
        sums[value.name] += 1
        total = Value(f"grad/{value.name}+{sums[value.name]}", gradient.shape, gradient.dtype)
        gradients[value] = emit("add", node.name, total, a=gradients[value], b=gradient)

    for node in reversed(graph.nodes):
        if node.op == "softmax_cross_entropy":
            if node["logits"] in needing:
                collect(node["logits"], node["dlogits"], node)
            continue
        dy = gradients.get(node.out)
        if dy is None or node.out not in needing:
            continue
        carried = vjp.differentiable(node)
        wanted = {
            name
            for name, argument in carried.items()
            for value in (argument if isinstance(argument, tuple) else (argument,))
            if value in needing
        }
        if not wanted:  # a source itself
            continue
        for name, gradient in rules[node.op](emit, node, dy, wanted).items():
            arguments = carried[name] if isinstance(carried[name], tuple) else (carried[name],)
            parts = gradient if isinstance(gradient, tuple) else (gradient,)
            for value, part in zip(arguments, parts, strict=True):
                if part is not None and value in needing:
                    collect(value, part, node)
    return emit.nodes, gradients


def prune(graph: Graph) -> Graph:
    """Leave out nodes whose results nobody reads (states that a node updates count as read)."""
    needed = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.updates or any(value in needed for value in node.writes):
            kept.append(node)
            needed.update(node.reads)
    return graph.with_nodes(kept[::-1])
