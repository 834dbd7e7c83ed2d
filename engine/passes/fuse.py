"""Fusion: rewrite rules named by their equation, applied until none fits any more.

A rule looks at one node and answers with a `Rewrite` (nodes to drop, nodes to put in their place)
or None. It may swallow a value only when nobody else reads it. Results keep their values, so the
rest of the graph does not notice.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from ...kernels import spec
from ..ir import Graph, Node, Value

PAIRED = spec.MaxPool2d(kernel=(2, 2), stride=(2, 2))


@dataclass(frozen=True)
class Rewrite:
    """Old node → what takes its place, or None where it is dropped."""

    changes: dict[Node, Node | None]


class View:
    """The nodes of a graph with their producers and users, kept up to date under rewrites."""

    def __init__(self, graph: Graph) -> None:
        """Index `graph`."""
        self.nodes: list[Node | None] = list(graph.nodes)
        self.outputs = set(graph.outputs.values())
        self.producer: dict[Value, Node] = {}
        self.users: dict[Value, list[Node]] = {}
        self._position: dict[Node, int] = {}
        for i, node in enumerate(graph.nodes):
            self._enter(node, i)

    def only_user(self, value: Value) -> Node | None:
        """The one node that reads `value`, if it is the only one and the caller does not."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 and value not in self.outputs else None

    def position(self, node: Node) -> int:
        """Where a node stands."""
        return self._position[node]

    def apply(self, rewrite: Rewrite) -> None:
        """Put new nodes where the old ones stood."""
        places = {node: self._position.pop(node) for node in rewrite.changes}
        for node, i in places.items():
            self.nodes[i] = None
            for value in dict.fromkeys(node.reads):
                self.users[value].remove(node)
            for value in node.writes:
                del self.producer[value]
        for node, made in rewrite.changes.items():
            if made is not None:
                self.nodes[places[node]] = made
                self._enter(made, places[node])

    def _enter(self, node: Node, position: int) -> None:
        self._position[node] = position
        self.producer |= dict.fromkeys(node.writes, node)
        for value in dict.fromkeys(node.reads):
            users = self.users.setdefault(value, [])
            bisect.insort(users, node, key=self._position.__getitem__)


Rule = Callable[[View, Node], Rewrite | None]


def _relu_into(view: View, node: Node) -> Rewrite | None:
    """relu(f(x)) => f(x, relu=True)  for conv2d, dense, add and batch norm."""
    fusible = ("conv2d", "dense", "add", "batch_norm_training", "batch_norm_inference")
    if node.op not in fusible or node["relu"]:
        return None
    user = view.only_user(node.out)
    if user is None or user.op != "relu":
        return None
    return Rewrite({node: node.with_arguments(out=user.out, relu=True), user: None})


def _residual(view: View, node: Node) -> Rewrite | None:
    """conv2d(x, w) + b + y => conv2d(x, w, b, residual=y)."""
    if node.op != "add":
        return None
    for mine, other in (("a", "b"), ("b", "a")):
        conv = view.producer.get(node[mine])
        if conv is None or conv.op != "conv2d" or conv["relu"] or conv["residual"]:
            continue
        if node[mine] is node[other] or view.only_user(conv.out) is not node:
            continue
        fused = conv.with_arguments(out=node.out, residual=node[other], relu=bool(node["relu"]))
        return Rewrite({conv: None, node: fused})
    return None


def _conv_relu_pool(view: View, node: Node) -> Rewrite | None:
    """max_pool(relu(conv2d(x, w) + b)) => conv2d_relu_pool(x, w, b), its backward with it."""
    if node.op != "max_pool2d" or node["op"] != PAIRED:
        return None
    conv = view.producer.get(node["x"])
    if conv is None or conv.op != "conv2d" or not conv["relu"] or conv["residual"]:
        return None
    given = {name: conv[name] for name in ("x", "w", "b", "op")}
    forward = Node(
        "conv2d_relu_pool", conv.name,
        {**given, "out": node.out, "code": node["code"], "pool": PAIRED},
    )  # fmt: skip
    changes: dict[Node, Node | None] = {conv: forward, node: None}
    others = [user for user in view.users.get(conv.out, []) if user is not node]
    if conv.out in view.outputs or len(others) > 1:
        return None
    if others:  # training: the ReLU's backward, fed by nothing but the pool's
        relu = others[0]
        if relu.op != "relu_backward" or relu["y"] is not conv.out:
            return None
        pool = view.producer.get(relu["dy"])
        if pool is None or pool.op != "max_pool2d_backward" or pool["code"] is not node["code"]:
            return None
        if view.only_user(pool.out) is not relu:
            return None
        changes[pool] = None
        changes[relu] = Node(
            "conv2d_relu_pool_backward", conv.name,
            {"dy": pool["dy"], "code": node["code"], "out": relu.out, "pool": PAIRED},
        )  # fmt: skip
    return Rewrite(changes)


def _relu_of_slices(view: View, node: Node) -> Rewrite | None:
    """relu_backward(slice(dy, i), x_i), all i of y = concat(x) => slice(relu_backward(dy, y), i).

    One call over the whole, which may join its producer; the slices are then stored nowhere.
    """
    if node.op != "concat":
        return None
    relus = [_relu_of_slice(view, x) for x in node["xs"]]
    parts = [view.producer[relu["dy"]] for relu in relus if relu]
    if len(parts) != len(relus) or len({part["x"] for part in parts}) != 1:
        return None
    offsets = itertools.accumulate((x.shape[-1] for x in node["xs"]), initial=0)
    if any(part["offset"] != offset for part, offset in zip(parts, offsets, strict=False)):
        return None
    dy, y = parts[0]["x"], node.out
    whole = Value(f"grad/{y.name}@{node.name}/relu", y.shape, y.dtype)
    changes: dict[Node, Node | None] = dict.fromkeys(parts)
    first = min(parts, key=view.position)
    changes[first] = Node("relu_backward", node.name, {"dy": dy, "y": y, "out": whole})
    for part, relu in zip(parts, relus, strict=True):
        assert relu is not None
        changes[relu] = part.with_arguments(x=whole, out=relu.out)
    return Rewrite(changes)


def _relu_of_slice(view: View, x: Value) -> Node | None:
    """The backward of the ReLU that made `x`, if it is fed by a slice and feeds no batch norm."""
    for relu in view.users.get(x, []):
        if relu.op != "relu_backward" or relu["y"] is not x:
            continue
        part, user = view.producer.get(relu["dy"]), view.only_user(relu.out)
        normed = user is not None and user.op == "batch_norm_backward"  # takes the mask itself
        if part is not None and part.op == "channel_slice" and not normed:
            return relu if view.only_user(part.out) is relu else None
    return None


def _mask(view: View, node: Node) -> Rewrite | None:
    """relu_backward(dgrad(dy, w), y) => dgrad(dy, w, mask=y)."""
    if node.op not in ("conv2d_dgrad", "dense_dgrad") or node["mask"] or node["db"]:
        return None
    user = view.only_user(node.out)
    if user is None or user.op != "relu_backward" or user["dy"] is not node.out:
        return None
    return Rewrite({node: None, user: node.with_arguments(out=user.out, mask=user["y"])})


def _norm_mask(view: View, node: Node) -> Rewrite | None:
    """batch_norm_backward(x, relu_backward(dy, y)) => batch_norm_backward(x, dy, mask=y)."""
    if node.op != "batch_norm_backward" or node["mask"]:
        return None
    relu = view.producer.get(node["dy"])
    if relu is None or relu.op != "relu_backward" or view.only_user(relu.out) is not node:
        return None
    return Rewrite({relu: None, node: node.with_arguments(dy=relu["dy"], mask=relu["y"])})


def _bias_grad(view: View, node: Node) -> Rewrite | None:
    """bias_grad(f(dy)) => f(dy, db=…)  for the dgrads and conv2d_relu_pool_backward."""
    if node.op != "bias_grad":
        return None
    source = view.producer.get(node["dy"])
    fusible = ("conv2d_dgrad", "dense_dgrad", "conv2d_relu_pool_backward")
    if source is None or source.op not in fusible or source["db"]:
        return None
    return Rewrite({source: source.with_arguments(db=node.out), node: None})


RULES: tuple[Rule, ...] = (
    _relu_into, _residual, _relu_of_slices, _mask, _norm_mask, _conv_relu_pool, _bias_grad,
)  # fmt: skip


def fuse(graph: Graph) -> Graph:
    """Apply every rule wherever it fits, in the order of the list, until nothing changes."""
    view = View(graph)
    for rule in RULES:
        while _sweep(rule, view):
            pass
    return graph.with_nodes([node for node in view.nodes if node is not None])


def _sweep(rule: Rule, view: View) -> bool:
    """Apply `rule` along the nodes, once; whether it fitted anywhere."""
    fitted = False
    for i in range(len(view.nodes)):
        while (node := view.nodes[i]) is not None and (rewrite := rule(view, node)) is not None:
            view.apply(rewrite)
            fitted = True
    return fitted
