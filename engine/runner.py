"""The runner: a plan is a list of bound calls; running it is a loop.

Binding happens once: every value of the graph becomes an array (a slice of the activation arena,
a view of the parameter or gradient arena, a state, an input) and every node becomes a call with
all its arguments in place. The loop then looks nothing up, checks nothing and allocates nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import philox, registry
from .arena import ParameterArena
from .device import Device, numpy_dtype
from .ir import Graph, Node, Value
from .passes.memory import MemoryPlan


@dataclass(frozen=True)
class Program:
    """A compiled graph before it has memory: nodes with their choices, and the memory plan."""

    graph: Graph
    memory: MemoryPlan


class Storage:
    """The memory that the plans of one network share.

    One activation arena as large as the largest plan (plans never run at the same time), the
    parameter arena, and the states by name.
    """

    def __init__(
        self, device: Device, parameters: ParameterArena, programs: Iterable[Program]
    ) -> None:
        """Allocate for `programs`."""
        programs = list(programs)
        self.device = device
        self.parameters = parameters
        size = max((p.memory.total_bytes for p in programs), default=0)
        self.activations = device.empty((size,), "uint8")
        self.states = {
            v.name: device.zeros(v.shape, v.dtype) for p in programs for v in p.graph.states
        }


class Plan:
    """A program bound to its arrays."""

    def __init__(self, program: Program, storage: Storage) -> None:
        """Bind `program`; the storage must have been allocated for it."""
        self.graph = program.graph
        self.memory = program.memory
        self.device = storage.device
        self._arrays = _arrays(program, storage)
        self.steps: list[tuple[Node, Callable[[], None]]] = [
            (node, self._bind(node)) for node in self.graph.nodes if node.op != "reshape"
        ]
        self._calls = [call for _, call in self.steps]
        self._keys = {v: i for i, v in enumerate(self.graph.keys)}

    def _bind(self, node: Node) -> Callable[[], None]:
        assert node.choice is not None, f"{node.name} was not selected"
        function = registry.load(node.choice.backend).function(node.op)
        arguments = {name: self._array(argument) for name, argument in node.arguments.items()}
        return functools.partial(function.unchecked, **arguments)  # type: ignore[attr-defined]

    def _array(self, argument: Any) -> Any:
        if isinstance(argument, tuple) and argument and isinstance(argument[0], Value):
            return tuple(self._arrays[value] for value in argument)
        return self._arrays[argument] if isinstance(argument, Value) else argument

    def array(self, value: Value) -> np.ndarray:
        """The memory of a value."""
        return self._arrays[value]

    def output(self, name: str) -> np.ndarray:
        """The array of the graph's output called `name`; valid until the next run of any plan."""
        return self._arrays[self.graph.outputs[name]]

    def feed(self, inputs: Mapping[str, np.ndarray], *, seed: int = 0, step: int = 0) -> None:
        """Copy the inputs in, and name the random streams of this step."""
        for value in self.graph.inputs:
            if value.name in inputs:
                self.device.copy_from_host(self._arrays[value], inputs[value.name])
        for value, stream in self._keys.items():
            self.device.copy_from_host(self._arrays[value], philox.key(seed, step, stream))

    def run(self) -> None:
        """Make every call, in order."""
        for call in self._calls:
            call()


def _arrays(program: Program, storage: Storage) -> dict[Value, np.ndarray]:
    graph, memory, device = program.graph, program.memory, storage.device
    arrays: dict[Value, np.ndarray] = {}
    for value in (*graph.inputs, *graph.keys):
        arrays[value] = device.zeros(value.shape, value.dtype)
    for parameter in graph.params:
        arrays[parameter.value] = storage.parameters.array(parameter.value)
    for value in graph.states:
        arrays[value] = storage.states[value.name]
    for name, value in graph.outputs.items():
        if name.startswith("grad/"):
            arrays[value] = storage.parameters.gradient(name.removeprefix("grad/"))
    for value, offset in memory.offsets.items():
        raw = storage.activations[offset : offset + value.nbytes]
        buffer = raw.view(numpy_dtype(value.dtype)).reshape(value.memory_shape)
        arrays[value] = buffer[tuple(map(slice, value.shape))] if any(value.border) else buffer
    for value, root in memory.aliases.items():
        assert math.prod(value.shape) == arrays[root].size
        arrays[value] = arrays[root].reshape(value.shape)
    return arrays
