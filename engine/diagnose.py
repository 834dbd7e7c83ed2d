"""Finding where numbers go wrong: the first layer of a step whose values are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .compile import compile_graph
from .errors import InputError
from .network import Network
from .runner import Plan, Storage

LOSS = "the loss itself"


def first_non_finite(
    network: Network, inputs: Mapping[str, np.ndarray], *, seed: int, step: int,
    training: bool = True,
) -> str:  # fmt: skip
    """Run the step's forward pass unfused, every value kept, and name the first bad one.

    Looks at the input, then the parameters of each layer, then its output, in order.
    """
    graph = network.graph(len(next(iter(inputs.values()))), training=training)
    program = compile_graph(graph, network.device, training=False, fused=False, reuse=False)
    storage, device = Storage(network.device, network.parameters, [program]), network.device
    for name, state in storage.states.items():  # a copy: training updates them
        device.copy_from_host(state, device.to_host(network.storage.states[name]))
    plan = Plan(program, storage)
    plan.feed(inputs, seed=seed, step=step)
    plan.run()
    for value in (v for v in plan.graph.inputs if v.name in inputs):
        if not _finite(device.to_host(plan.array(value))):
            return f"the input {value.name}"
    for node in plan.graph.nodes:
        for value in (*node.reads, *node.writes):
            if value.kind not in ("param", "result"):
                continue
            if not _finite(device.to_host(plan.array(value))):
                what = "the parameter" if value.kind == "param" else f"{node.op} in layer"
                return f"{what} {value.name if value.kind == 'param' else node.name}"
    return LOSS


def first_non_finite_of_images(network: Network, images: np.ndarray, batch: int) -> str:
    """The same for inference on images uint8 [N,H,W,C], or features, `batch` at a time."""
    layer = LOSS
    for start in range(0, len(images), batch):
        inputs = network.inputs_of(images[start : start + batch])
        layer = first_non_finite(network, inputs, seed=0, step=0, training=False)
        if layer != LOSS:
            break
    return layer


def answer_not_finite(network: Network, images: np.ndarray, batch: int = 1) -> InputError:
    """The error for images uint8 [N,H,W,C] of which an answer is not finite."""
    layer = first_non_finite_of_images(network, images, batch)
    return InputError(f"the answer of the network is not finite; the first that is not: {layer}")


def _finite(array: np.ndarray) -> bool:
    if array.dtype.kind in "iu":
        return True
    return bool(np.isfinite(array.astype(np.float64)).all())
