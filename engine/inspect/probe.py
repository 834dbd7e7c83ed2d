"""Running a network so that the values of chosen layers can be read afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..compile import compile_graph
from ..ir import Graph, Value
from ..network import Network
from ..passes.memory import plan_memory
from ..runner import Plan, Storage

LARGEST_ARENA = 256 << 20  # bytes of activations of a batch
MOST_AT_ONCE = 64  # images a batch


def inference_graph(network: Network, batch: int) -> Graph:
    """The graph of a network's inference as built."""
    return network.description.graph(batch, training=False, products=network.products)


def keep(graph: Graph, values: Sequence[Value]) -> Graph:
    """The graph with `values` as further outputs, by their names."""
    return replace(graph, outputs={**graph.outputs, **{v.name: v for v in values}})


def bind(network: Network, graph: Graph) -> Plan:
    """A plan of a graph over the parameters and running statistics of `network`."""
    program = compile_graph(graph, network.device, training=False, fused=False)
    storage = Storage(network.device, network.parameters, [program])
    storage.states.update(network.storage.states)
    return Plan(program, storage)


class Probe:
    """A network that answers with the values of chosen layers."""

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        """Compile for the values called `names`; the batch is as large as memory allows."""
        self._network, self._names = network, tuple(dict.fromkeys(names))
        single = plan_memory(self._graph(1)).total_bytes
        self.batch = max(1, min(MOST_AT_ONCE, LARGEST_ARENA // max(1, single)))
        self._plan = bind(network, self._graph(self.batch))

    def _graph(self, batch: int) -> Graph:
        graph = inference_graph(self._network, batch)
        made = {value.name: value for node in graph.nodes for value in node.writes}
        return keep(graph, [made[name] for name in self._names])

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Name → float32 [N,H,W,C] for uint8 images [N,H,W,C], N at most `batch`."""
        plan, network = self._plan, self._network
        filled = np.zeros(plan.graph.inputs[0].shape, np.float32)
        filled[: len(images)] = network.normalise(images)
        plan.feed({"x": filled})
        plan.run()
        return {
            name: network.device.to_host(plan.output(name))[: len(images)].astype(np.float32)
            for name in self._names
        }
