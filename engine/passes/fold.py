"""Fold: a batch norm of inference goes into the filters and the bias of the convolution before it.

    scale = gamma / sqrt(running_var + eps)
    batch_norm(conv2d(x, w) + b) = conv2d(x, w * scale) + beta + (b - running_mean) * scale

The new filters and biases are values that the graph derives from its parameters and states: the
host computes them in float64 when weights are loaded (`runner.Storage.derive`), so they are right
as long as nothing else changes the weights, and networks that train keep their batch norms.
float16 keeps them too: a small scale would push filters below its smallest normal number.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...kernels import spec
from ..ir import Derived, Graph, Node, Value
from .fuse import Rewrite, View


def fold(graph: Graph) -> Graph:
    """The graph without the batch norms that a convolution can take."""
    view = View(graph)
    derived: list[Derived] = []
    for node in graph.nodes:
        conv = _folds(view, node)
        if conv is not None:
            made = _filters(conv, node), _bias(conv, node)
            w, b = (d.value for d in made)
            folded = conv.with_arguments(w=w, b=b, out=node.out, relu=bool(node["relu"]))
            view.apply(Rewrite({conv: folded, node: None}))
            derived += made
    nodes = [node for node in view.nodes if node is not None]
    return replace(graph.with_nodes(nodes), derived=(*graph.derived, *derived))


def _folds(view: View, norm: Node) -> Node | None:
    """The convolution that takes the batch norm `norm`, if there is one."""
    if norm.op != "batch_norm_inference" or norm["x"].dtype == "float16":
        return None
    conv = view.producer.get(norm["x"])
    if conv is None or conv.op != "conv2d" or conv["relu"] or conv["residual"]:
        return None
    given = conv["w"].kind == "param" and (conv["b"] is None or conv["b"].kind == "param")
    return conv if given and view.only_user(conv.out) is norm else None


def _scale(gamma: np.ndarray, var: np.ndarray, op: spec.BatchNorm) -> np.ndarray:
    return gamma / np.sqrt(var + op.eps)


def _filters(conv: Node, norm: Node) -> Derived:
    w, op = conv["w"], norm["op"]

    def compute(w: np.ndarray, gamma: np.ndarray, var: np.ndarray) -> np.ndarray:
        return w * _scale(gamma, var, op)[:, None, None, None]

    gamma, var = norm["gamma"], norm["running_var"]
    formula = f"{w.name} * {gamma.name} / sqrt({var.name} + {op.eps:g})"
    value = Value(f"{norm.name}/folded_w", w.shape, w.dtype, "derived")
    return Derived(value, (w, gamma, var), formula, compute)


def _bias(conv: Node, norm: Node) -> Derived:
    b, op = conv["b"], norm["op"]
    gamma, beta, mean, var = (norm[n] for n in ("gamma", "beta", "running_mean", "running_var"))

    def compute(
        gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, *b: np.ndarray
    ) -> np.ndarray:
        return beta + (sum(b) - mean) * _scale(gamma, var, op)

    before = f"+ ({b.name} - {mean.name})" if b else f"- {mean.name}"
    formula = f"{beta.name} {before} * {gamma.name} / sqrt({var.name} + {op.eps:g})"
    value = Value(f"{norm.name}/folded_b", beta.shape, beta.dtype, "derived")
    sources = (gamma, beta, mean, var, *([b] if b else []))
    return Derived(value, sources, formula, compute)
