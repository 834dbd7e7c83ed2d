"""Selection: gives every node a backend, an algorithm, its scratch memory, and the reason.

`backends` lists the candidates of the device, best first. The first that supports a call gets it;
the reasons of those that declined are kept, so `show --plan` can say why. Nothing else falls back:
a call that no candidate supports is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...kernels import registry, spec
from ...kernels.errors import KernelError, UnsupportedError
from ..ir import Choice, Graph, Node, Value


def select(graph: Graph, backends: Sequence[str]) -> Graph:
    """Annotate every node. Raises: UnsupportedError when no backend takes a node."""
    return graph.with_nodes([_select(node, i, backends) for i, node in enumerate(graph.nodes)])


def _select(node: Node, position: int, backends: Sequence[str]) -> Node:
    if node.op == "reshape":
        return node
    return with_choice(node, position, choose(node, backends))


def choose(node: Node, backends: Sequence[str]) -> Choice:
    """What runs a node, and why. Raises: UnsupportedError when no backend takes it."""
    declined: list[str] = []
    for name in backends:
        backend = registry.load(name)
        reason = backend.supports(node.op, node.arguments)
        if reason is not None:
            declined.append(f"{name}: {reason}")
            continue
        config = backend.choose(node.op, node.arguments)
        why = "; ".join([config.reason, *declined] if config.reason else declined)
        return Choice(name, config, why)
    raise UnsupportedError(f"{node.name}: {node.op} runs on no backend: {'; '.join(declined)}")


def possible(node: Node, backends: Sequence[str]) -> Choice | None:
    """What would run a node; None where its contract or every backend refuses it."""
    if node.op == "reshape":
        return None
    try:
        spec.CONTRACTS[node.op](**node.arguments)
        return choose(node, backends)
    except KernelError:
        return None


def with_choice(node: Node, position: int, choice: Choice) -> Node:
    """The node with its choice, and the scratch memory that it asks for."""
    if node.op in ("concat", "channel_slice"):
        choice = replace(choice, reason=_in_place(node))
    arguments = {name: a for name, a in node.arguments.items() if name != "workspace"}
    if "config" in spec.directions(node.op):
        arguments["config"] = choice.config
        if choice.config.workspace_bytes:
            shape = (choice.config.workspace_bytes,)
            name = f"{node.name}/{node.op}/workspace#{position}"
            arguments["workspace"] = Value(name, shape, "uint8", "scratch")
    return Node(node.op, node.name, arguments, choice)


def _in_place(node: Node) -> str:
    """How much of a copy between a value and slices of it is spared."""
    slices = node["xs"] if node.op == "concat" else (node.out,)
    there = sum(value.within is not None for value in slices)
    return (
        "nothing to do: stored in place"
        if there == len(slices)
        else (f"{there} of {len(slices)} stored in place, the others are copied")
    )
