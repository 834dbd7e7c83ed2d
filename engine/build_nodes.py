"""What every method of GraphBuilder stands on: values that a graph is given, names, and nodes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from ..kernels import spec
from ..kernels.errors import KernelError
from .errors import InputError
from .ir import Node, Parameter, Value


class Nodes:
    """Collects the inputs, parameters, states and nodes of one network.

    `dtype`, `products` and `training` are those of `GraphBuilder`.
    """

    def __init__(
        self, name: str, *, dtype: str = "float32", products: str = "ieee", training: bool = True
    ) -> None:
        """Start an empty graph."""
        self.products = products
        self.name = name
        self.dtype = dtype
        self.training = training
        self._trainable = True
        self._scope: list[str] = []
        self._count: Counter[str] = Counter()
        self._inputs: list[Value] = []
        self._keys: list[Value] = []
        self._params: dict[str, Parameter] = {}
        self._states: list[Value] = []
        self._nodes: list[Node] = []
        self.auxiliaries: list[tuple[Value, float]] = []
        self._constants: dict[str, tuple[float, ...]] = {}

    def input(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Value:
        """An array that the caller fills before each run."""
        value = Value(name, tuple(shape), dtype or self.dtype, "input")
        self._inputs.append(value)
        return value

    def constant(self, name: str, values: Iterable[float]) -> Value:
        """A vector that is the same in every run, in the accumulator's type."""
        self._constants[name] = kept = tuple(map(float, values))
        return self.input(name, (len(kept),), spec.accumulator(self.dtype))

    def pictures(
        self, shape: tuple[int, ...], mean: Iterable[float], scale: Iterable[float]
    ) -> Value:
        """uint8 pictures [N,H,W,C], normalised, in training by way of their moves.

        See `spec.normalise`.
        """
        arguments = {
            "images": self.input("images", shape, "uint8"),
            "moves": self.input("moves", (shape[0], 3), "int32") if self.training else None,
            "mean": self.constant("images/mean", mean),
            "scale": self.constant("images/scale", scale),
        }
        return self._emit("normalise", "images", shape, **arguments)

    def parameter(
        self, name: str, shape: tuple[int, ...], init: Any, *, fan_in: int = 1, decay: bool = False
    ) -> Value:
        """A parameter; weights (`decay`) have the graph's dtype, the others the accumulator's."""
        if name in self._params:
            raise InputError(f"two layers are called {name.rpartition('/')[0]!r}; rename one")
        dtype = self.dtype if decay else spec.accumulator(self.dtype)
        value = Value(name, tuple(shape), dtype, "param")
        self._params[name] = Parameter(value, init, fan_in, decay, self._trainable)
        return value

    def state(self, name: str, shape: tuple[int, ...]) -> Value:
        """An array kept between steps; `…/running_var` starts at one, all others at zero."""
        value = Value(name, tuple(shape), spec.accumulator(self.dtype), "state")
        self._states.append(value)
        return value

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name/` in front of the names of the layers made inside."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    @contextlib.contextmanager
    def frozen(self, frozen: bool = True) -> Iterator[None]:
        """Parameters made inside get no gradient (and no work is done for one)."""
        before, self._trainable = self._trainable, not frozen
        try:
            yield
        finally:
            self._trainable = before

    def _layer(self, op: str, name: str | None = None) -> str:
        scope = "/".join(self._scope)
        if name is None:
            self._count[f"{scope}/{op}"] += 1
            name = f"{op}{self._count[f'{scope}/{op}']}"
        return f"{scope}/{name}" if scope else name

    def _emit(
        self,
        function: str,
        layer: str,
        shape: tuple[int, ...],
        dtype: str = "",
        /,
        **arguments: Any,
    ) -> Value:
        out = Value(f"{layer}/y", tuple(shape), dtype or self.dtype)
        node = Node(function, layer, {**arguments, "out": out})
        if function != "reshape":
            with self._told(layer):
                spec.CONTRACTS[function](**node.arguments)
        self._nodes.append(node)
        return out

    @contextlib.contextmanager
    def _told(self, layer: str) -> Iterator[None]:
        try:
            yield
        except KernelError as error:
            raise InputError(f"layer {layer} of {self.name}: {error}") from None
