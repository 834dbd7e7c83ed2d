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

from ..kernels import philox, registry, spec
from ..kernels.prepared import Packed
from . import files
from .arena import ParameterArena
from .device import Device, numpy_dtype
from .ir import Derived, Graph, Node, Pace, Value, paces
from .passes.memory import MemoryPlan


@dataclass(frozen=True)
class Program:
    """A compiled graph before it has memory: nodes with their choices, and the memory plan."""

    graph: Graph
    memory: MemoryPlan


LR, STEP, KEYS = "update/lr", "update/step", "keys"


class Feeds:
    """What changes from run to run, side by side in one block, so that one copy brings it all.

    That is: the inputs, the keys of the random streams and, for the update after a training step,
    the learning rate and the number of the step, counted from 1; both once for each pace at which
    parameters learn.
    """

    def __init__(self, graph: Graph, dtype: str, device: Device) -> None:
        """Lay out the block of a graph; `dtype` is the learning rate's. Nothing is allocated."""
        self.device = device
        self.constants = graph.constants
        self._whole = "loss" in graph.outputs  # a row of zeros would be learnt from
        self._words = np.empty((len(graph.keys), 4), np.uint32)  # of the keys: seed, step, stream
        self._words[:, 3] = np.arange(len(graph.keys))
        self._places: dict[str, tuple[int, int, tuple[int, ...], str]] = {}
        self.size = 0
        # constants first: blocks of all batch sizes, which share memory on the host, agree on them
        for value in sorted(graph.inputs, key=lambda value: value.name not in graph.constants):
            self._place(value.name, value.shape, value.dtype)
        first = self.size
        if graph.keys:
            self._place(KEYS, self._words.shape, "uint32")
        for i, value in enumerate(graph.keys):
            self._places[value.name] = (first + 16 * i, first + 16 * i + 16, (4,), "uint32")
        learning = paces(graph.params) or [Pace()]
        self._rates = np.array([pace.rate for pace in learning])
        self._since = np.array([pace.since for pace in learning])
        self._place(LR, (len(learning),), dtype)
        self._place(STEP, (len(learning),), "int64")

    def _place(self, name: str, shape: tuple[int, ...], kind: str) -> None:
        end = self.size + math.prod(shape) * spec.ITEMSIZE[kind]
        self._places[name] = (self.size, end, shape, kind)
        self.size = self.device.aligned(end)

    def views(self, block: Any) -> dict[str, Any]:
        """The arrays in a block, uint8 [size] in any memory, by name."""
        return {
            name: block[start:end].view(numpy_dtype(kind)).reshape(shape)
            for name, (start, end, shape, kind) in self._places.items()
        }

    def views_to_write(self, block: np.ndarray) -> dict[str, np.ndarray]:
        """`views` of a block on the host, with what never changes written into it."""
        views = self.views(block)
        for name, values in self.constants.items():
            views[name][...] = values
        return views

    def write(
        self, views: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], *, seed: int,
        step: int, lr: float = 0.0,
    ) -> None:  # fmt: skip
        """Fill the views of a block on the host. An input that is left out keeps its values.

        One with fewer rows than the graph's is filled up with zeros, unless there is a loss.

        Raises: ValueError for any other shape than the graph's.
        """
        for name, values in inputs.items():
            view, shape = views[name], np.shape(values)
            rows = shape[:1] if shape[:1] < view.shape[:1] and not self._whole else view.shape[:1]
            if shape != rows + view.shape[1:]:
                raise ValueError(f"{name} is {list(shape)}, it must be {list(view.shape)}")
            if not shape:  # a number has no rows
                view[...] = values
                continue
            view[: len(values)] = values
            view[len(values) :] = 0
        if KEYS in views:
            self._words[:, :3] = philox.key(seed, step, 0)[:3]
            views[KEYS][...] = self._words
        views[LR][...] = lr * self._rates
        views[STEP][...] = step + 1 - self._since


class Storage:
    """The memory that the plans of one network share.

    One activation arena as large as the largest plan (plans never run at the same time), the
    parameter arena, the states by name, and what the programs derive from both.
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
            name: device.zeros(v.shape, v.dtype) for name, v in _states(programs).items()
        }
        self._derived = _derived(programs)
        self.derived = {
            name: device.zeros(d.value.memory_shape, d.value.dtype)
            for name, d in self._derived.items()
        }

    @np.errstate(all="ignore")
    def derive(self) -> None:
        """Compute what the programs derive from parameters and states; due when these change."""
        for name, derived in self._derived.items():
            sources = [self._source(value, derived.wide) for value in derived.sources]
            self.device.copy_from_host(self.derived[name], derived.compute(*sources))
            for source in sources:
                files.forget(source)

    def _source(self, value: Value, wide: bool) -> np.ndarray:
        """A parameter (the master's) or state on the host, in float64 if `wide`."""
        stored, name = self.states.get(value.name), value.name
        array = self.parameters.host(name) if stored is None else self.device.to_host(stored)
        if not wide:
            return array
        source = array.astype(np.float64)
        files.forget(array)
        return source

    @staticmethod
    def bytes(device: Device, programs: Iterable[Program]) -> int:
        """Bytes that the storage of `programs` takes on the device, parameters left out."""
        programs = list(programs)
        sizes = [max((p.memory.total_bytes for p in programs), default=0)]
        sizes += [v.nbytes for v in _states(programs).values()]
        sizes += [d.value.nbytes for d in _derived(programs).values()]
        return sum(map(device.aligned, sizes))


def _states(programs: Iterable[Program]) -> dict[str, Value]:
    return {v.name: v for p in programs for v in p.graph.states}


def _derived(programs: Iterable[Program]) -> dict[str, Derived]:
    return {d.value.name: d for p in programs for d in p.graph.derived}


def sources_only(programs: Iterable[Program]) -> frozenset[str]:
    """The parameters that no node reads, only what is derived from them."""
    graphs = [program.graph for program in programs]
    sources = {v.name for g in graphs for d in g.derived for v in d.sources if v.kind == "param"}
    return frozenset(sources - {v.name for g in graphs for n in g.nodes for v in n.reads})


class Plan:
    """A program bound to its arrays."""

    def __init__(self, program: Program, storage: Storage) -> None:
        """Bind `program`; the storage must have been allocated for it."""
        self.graph = program.graph
        self.memory = program.memory
        self.device = storage.device
        self.feeds = Feeds(program.graph, storage.parameters.dtype, storage.device)
        self.block = storage.device.zeros((self.feeds.size,), "uint8")  # what feeds are copied to
        self.fed = self.feeds.views(self.block)
        self._staged = storage.device.stage(self.block)
        self._views = self.feeds.views_to_write(self._staged)
        self._arrays = _arrays(program, storage, self.fed)
        self.steps: list[tuple[Node, Callable[[], None]]] = [
            (node, self._bind(node)) for node in self.graph.nodes if node.op != "reshape"
        ]
        self._calls = [call for _, call in self.steps]

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

    def feed(
        self, inputs: Mapping[str, np.ndarray], *, seed: int = 0, step: int = 0, lr: float = 0.0
    ) -> None:
        """Copy the inputs in, and what else belongs to this step; see `Feeds`."""
        self.feeds.write(self._views, inputs, seed=seed, step=step, lr=lr)
        self.device.upload(self.block, self._staged)

    def run(self) -> None:
        """Make every call, in order."""
        for call in self._calls:
            call()


def _arrays(program: Program, storage: Storage, fed: Mapping[str, Any]) -> dict[Value, Any]:
    graph, memory = program.graph, program.memory
    arrays: dict[Value, Any] = {v: fed[v.name] for v in (*graph.inputs, *graph.keys)}
    for value in (p.value for p in graph.params if p.value.name not in sources_only([program])):
        arrays[value] = storage.parameters.array(value)
    for value in graph.states:
        arrays[value] = storage.states[value.name]
    for derived in graph.derived:
        value, array = derived.value, storage.derived[derived.value.name]
        packed = value.packed and Packed(array, value.shape, value.packed[0])
        arrays[value] = packed or array
    for name, value in graph.outputs.items():
        if name.startswith("grad/"):
            arrays[value] = storage.parameters.gradient(name.removeprefix("grad/"))
    for value, offset in memory.offsets.items():
        raw = storage.activations[offset : offset + value.nbytes]
        buffer = raw.view(numpy_dtype(value.dtype)).reshape(value.memory_shape)
        arrays[value] = buffer[tuple(map(slice, value.shape))] if any(value.border) else buffer
    for value, root in memory.aliases.items():
        if value.within is None:
            assert math.prod(value.shape) == arrays[root].size
            arrays[value] = arrays[root].reshape(value.shape)
    for value in memory.aliases:
        if value.within is not None:
            arrays[value] = arrays[value.root][..., value.channel : value.channel + value.shape[-1]]
    return arrays
