"""Grad-CAM: where a network looked for a class (Selvaraju et al. 2017, arXiv 1610.02391).

With A [H,W,C] the maps of a layer and y the logit of a class:

    weight[c] = mean over h,w of dy / dA[h,w,c]        heat = max(0, sum over c of weight[c] * A)

The gradient is one backward walk of the engine's autodiff, from the logits to the layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..ir import Graph, Node, Value
from ..network import Network
from ..passes.autodiff import backward, depending, prune
from ..vjp import RULES, Emitter, Gradients, gradient_of
from .probe import bind, inference_graph, keep

SEED, GRADIENT = "seed", "gradient"


@dataclass(frozen=True, eq=False)
class Heat:
    """`heat` float64 [H,W], the maps' `weights` float64 [C], and the maps and their gradient."""

    heat: np.ndarray
    weights: np.ndarray
    activation: np.ndarray
    gradient: np.ndarray


def gradient_graph(graph: Graph, at: Value, of: str = "logits") -> Graph:
    """A forward graph with the gradient, at one value, of a weighted sum of its output `of`.

    The weights are a new input `seed`, shaped like `of`; the result is the output `gradient`.

    Raises: InputError where an op on the way has no rule in `vjp`.
    """
    rules = {**RULES, "batch_norm_inference": _batch_norm_inference}
    result, after = graph.outputs[of], depending(graph, [at])
    nodes = []
    for node in graph.nodes:
        on_the_way = any(value in after for value in node.reads)
        if on_the_way and node.op not in rules:
            raise InputError(
                f"layer {node.name}: {node.op} has no gradient, so it cannot be told where the "
                "network looked"
            )
        if on_the_way and node.op == "max_pool2d" and node["code"] is None:
            node = node.with_arguments(code=Value(f"{node.name}/code", node.out.shape, "int8"))
        nodes.append(node)
    graph = graph.with_nodes(nodes)
    seed = Value(SEED, result.shape, result.dtype, "input")
    emitted, gradients = backward(graph, [at], {result: seed}, rules)
    read = dict.fromkeys(v for node in emitted for v in node.reads if v.kind == "state")
    states = (*graph.states, *(v for v in read if v not in graph.states))
    given, outputs = (*graph.inputs, seed), {**graph.outputs, GRADIENT: gradients[at]}
    joint = graph.with_nodes((*graph.nodes, *emitted))
    return prune(replace(joint, inputs=given, states=states, outputs=outputs))


def _batch_norm_inference(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    """dx = gamma * dy / sqrt(running_var + eps): the same call with mean and beta 0.

    That zero is a state, which starts so and which nobody updates.
    """
    gamma, out = node["gamma"], gradient_of(node["x"], f"@{node.name}")
    zero = Value(f"{node.name}/zero", gamma.shape, gamma.dtype, "state")
    given = {name: node[name] for name in ("gamma", "running_var", "op")}
    emit("batch_norm_inference", node.name, out, x=dy, beta=zero, running_mean=zero, **given)
    return {"x": out}


def grad_cam(network: Network, image: np.ndarray, label: int, layer: str) -> Heat:
    """Where `network` looks in uint8 [H,W,C] for class number `label`, at the value `layer`.

    Raises: InputError as `gradient_graph`.
    """
    graph = inference_graph(network, 1)
    at = next(v for node in graph.nodes for v in node.writes if v.name == layer)
    plan = bind(network, gradient_graph(keep(graph, [at]), at))
    seed = np.zeros((1, len(network.description.classes)), np.float32)
    seed[0, label] = 1
    plan.feed({"x": network.normalise(image[None]), SEED: seed})
    plan.run()
    activation, gradient = (
        network.device.to_host(plan.output(name))[0].astype(np.float64)
        for name in (layer, GRADIENT)
    )
    weights = gradient.mean(axis=(0, 1))
    return Heat(np.maximum(activation @ weights, 0), weights, activation, gradient)
