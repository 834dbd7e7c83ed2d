"""The graph: values in static single assignment, nodes that are kernel calls, printable as text.

A `Value` (`value.py`) has a name, a shape and a dtype, and no memory. A `Node` is one call of a
contract function (`kernels/spec`): its arguments carry the contract's parameter names, arrays as
values and everything else as it is. The one other op is `reshape`, which names the same memory
anew. A `Graph` lists nodes in an order in which they can run. All three are immutable: passes build
new graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import numpy as np

from ..kernels import spec
from .value import Value


@dataclass(frozen=True, order=True)
class Pace:
    """How a parameter learns: at `rate` times the learning rate, from step `since` on (from 0)."""

    rate: float = 1.0
    since: int = 0


@dataclass(frozen=True)
class Parameter:
    """A parameter of the network: its value, how it starts, and what training may do to it.

    init is "he" (normal, variance 2 / fan_in), "zeros", "ones" or a number; fan_in counts the
    inputs of one output; `decay`: weight decay applies; `trainable`: False for a frozen one, which
    gets no gradient.
    """

    value: Value
    init: Literal["he", "zeros", "ones"] | float
    fan_in: int = 1
    decay: bool = False
    trainable: bool = True
    pace: Pace = Pace()


def paces(parameters: Iterable[Parameter]) -> list[Pace]:
    """The different paces of the trainable parameters, fastest first."""
    return sorted({p.pace for p in parameters if p.trainable}, key=lambda p: (-p.rate, p.since))


@dataclass(frozen=True)
class Derived:
    """A value that the host computes from parameters and states whenever these are loaded.

    `compute` takes the sources as float64 arrays (where not `wide`: as they are stored) and returns
    the value, which is then rounded once; `formula` says the same to people.
    """

    value: Value
    sources: tuple[Value, ...]
    formula: str
    compute: Callable[..., np.ndarray]
    wide: bool = True


@dataclass(frozen=True)
class Choice:
    """What `select` chose for a node: the backend, its configuration, and why."""

    backend: str
    config: spec.Config
    reason: str


@dataclass(frozen=True, eq=False)
class Node:
    """One call: `op` is a contract function (or "reshape"), `name` the layer it belongs to."""

    op: str
    name: str
    arguments: Mapping[str, Any]
    choice: Choice | None = None

    def __getitem__(self, argument: str) -> Any:
        """The argument called `argument`, or None."""
        return self.arguments.get(argument)

    def _values(self, *wanted: str) -> Iterator[tuple[str, Value]]:
        kinds = RESHAPE if self.op == "reshape" else spec.directions(self.op)
        for name, argument in self.arguments.items():
            if kinds[name] in wanted and argument is not None:
                for value in argument if isinstance(argument, tuple) else (argument,):
                    yield name, value

    @property
    def reads(self) -> list[Value]:
        """The values that the call reads (scratch left out)."""
        return [v for name, v in self._values("in", "inout") if name != "workspace"]

    @property
    def writes(self) -> list[Value]:
        """The values that the call writes for the first time."""
        return [v for _, v in self._values("out")]

    @property
    def scratch(self) -> list[Value]:
        """The work memory of the call."""
        return [v for name, v in self._values("in") if name == "workspace"]

    @property
    def updates(self) -> list[Value]:
        """The states that the call changes in place."""
        return [v for _, v in self._values("inout")]

    @property
    def out(self) -> Value:
        """The main result."""
        return self.arguments["out"]

    def with_arguments(self, **changes: Any) -> Node:
        """The same call with some arguments replaced or added."""
        return replace(self, arguments={**self.arguments, **changes})

    def substitute(self, old: Value, new: Value) -> Node:
        """The same call with `old` replaced by `new` wherever it stands."""

        def swap(argument: Any) -> Any:
            if isinstance(argument, tuple):
                return tuple(new if a is old else a for a in argument)
            return new if argument is old else argument

        return replace(self, arguments={k: swap(a) for k, a in self.arguments.items()})

    def flops(self) -> int:
        """Floating-point operations of the call (2 per multiply-add); 0 where it moves data."""
        if self.op == "reshape":
            return 0
        return spec.CONTRACTS[self.op].flops(**self.arguments)  # type: ignore[attr-defined]

    def __str__(self) -> str:
        """Like `y: float32[…] = conv2d(x=x, w=conv1/w, b=conv1/b, op=Conv2d(), relu=True)`."""
        written = {id(v) for v in self.writes}
        told = []
        for name, argument in self.arguments.items():
            if isinstance(argument, Value):
                if id(argument) not in written:
                    told.append(f"{name}={argument.name}")
            elif isinstance(argument, tuple):
                told.append(f"{name}=({', '.join(v.name for v in argument)})")
            elif argument is not None and argument is not False:
                told.append(f"{name}={brief(argument)}")
        return f"{', '.join(map(str, self.writes))} = {self.op}({', '.join(told)})"


def brief(parameters: Any) -> str:
    """A contract's parameters with those left out that have their default: `Conv2d(groups=2)`."""
    if not is_dataclass(parameters):
        return str(parameters)
    told = [
        f"{f.name}={getattr(parameters, f.name)}"
        for f in fields(parameters)
        if getattr(parameters, f.name) != f.default
    ]
    return f"{type(parameters).__name__}({', '.join(told)})"


RESHAPE = {"x": "in", "out": "out"}


@dataclass(frozen=True)
class Graph:
    """A network, or its training step, for one batch size.

    `outputs` names what the caller reads; the gradient of parameter p is called `grad/p`.
    `constants`: name of an input that never changes → its values.
    """

    name: str
    inputs: tuple[Value, ...] = ()
    keys: tuple[Value, ...] = ()
    params: tuple[Parameter, ...] = ()
    states: tuple[Value, ...] = ()
    nodes: tuple[Node, ...] = ()
    outputs: Mapping[str, Value] = field(default_factory=dict)
    derived: tuple[Derived, ...] = ()
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def with_nodes(self, nodes: tuple[Node, ...] | list[Node]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=tuple(nodes))

    def with_values(self, changes: Mapping[Value, Value]) -> Graph:
        """The same graph with values replaced wherever nodes read or write them."""

        def swap(argument: Any) -> Any:
            if isinstance(argument, tuple):
                return tuple(swap(a) for a in argument)
            return changes.get(argument, argument) if isinstance(argument, Value) else argument

        return self.with_nodes(
            [
                node.with_arguments(**{n: swap(a) for n, a in node.arguments.items()})
                for node in self.nodes
            ]
        )

    @property
    def given(self) -> list[Value]:
        """Everything that no node writes: inputs, keys, parameters, states, derived values."""
        stored = [*(p.value for p in self.params), *self.states]
        return [*self.inputs, *self.keys, *stored, *(d.value for d in self.derived)]

    def producers(self) -> dict[Value, Node]:
        """Result → the node that writes it."""
        return {v: node for node in self.nodes for v in node.writes}

    def users(self) -> dict[Value, list[Node]]:
        """Value → the nodes that read it, in order (a node that reads it twice counts once)."""
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.reads):
                users.setdefault(value, []).append(node)
        return users

    def parameter_count(self) -> int:
        """The number of scalars in all parameters."""
        return sum(p.value.nbytes // spec.ITEMSIZE[p.value.dtype] for p in self.params)

    def flops(self) -> int:
        """Floating-point operations of one run."""
        return sum(node.flops() for node in self.nodes)

    def __str__(self) -> str:
        """The graph as text, one value or node a line."""
        lines = [f"graph {self.name}"]
        lines += [f"  {v.kind} {v}" for v in (*self.inputs, *self.keys)]
        lines += [f"  param {p.value}{'' if p.trainable else ' (frozen)'}" for p in self.params]
        lines += [f"  state {v}" for v in self.states]
        lines += [f"  derived {d.value} = {d.formula}" for d in self.derived]
        lines += [f"  {node}" for node in self.nodes]
        lines += [f"  return {name} = {v.name}" for name, v in self.outputs.items()]
        return "\n".join(lines)
