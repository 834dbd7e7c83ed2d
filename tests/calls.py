"""A call of a contract function: its inputs on the host, the outputs asked for, and their judge."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import tolerance

from cnnengine.bench.verify import oracle
from cnnengine.bench.verify.bounds import EXACT
from cnnengine.kernels import spec

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "int32": np.dtype(np.int32),
}
ACCUMULATED = {  # outputs of the type that sums have
    *("db", "dgamma", "dbeta", "mean", "invstd", "loss", "running_mean", "running_var"),
}
ACCUMULATED_OUT = {"conv2d_wgrad", "dense_wgrad", "bias_grad"}  # whose `out` is of that type, too


@dataclass(frozen=True)
class Call:
    """One use of a contract function: host arrays and parameters by the contract's names."""

    label: str
    function: str
    inputs: Mapping[str, Any]
    want: tuple[str, ...]
    dtype: str
    out_shape: tuple[int, ...] | None = None
    reduction: int = 1
    floor: Mapping[str, float] = field(default_factory=dict)
    pitch: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # channels before, after
    border: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # rows, columns of zeros
    columns: frozenset[str] = frozenset()  # images of one column that lie in images of three
    types: Mapping[str, str] = field(default_factory=dict)  # of outputs that are no one else's
    kinds: Mapping[str, str] = field(default_factory=dict)  # rows of the tolerance table
    alias: Mapping[str, str] = field(default_factory=dict)  # outputs that lie in an input's memory

    def __str__(self) -> str:
        told = [f"{self.label}: {self.function} {self.dtype}"]
        for name, value in self.inputs.items():
            shape = getattr(value, "shape", None)
            told.append(f"{name}={value if shape is None else shape}")
        told += [f"pitch={dict(self.pitch)}"] * bool(self.pitch)
        told += [f"border={dict(self.border)}"] * bool(self.border)
        told += [f"columns={sorted(self.columns)}"] * bool(self.columns)
        return ", ".join(told)

    def oracle(self, implementation: Any = oracle) -> dict[str, np.ndarray]:
        """What the call must give, from float64 copies of its inputs."""
        function = getattr(implementation, self.function)
        arguments = {name: _wide(value) for name, value in self.inputs.items()}
        if "out_shape" in inspect.signature(function).parameters:
            arguments["out_shape"] = self.out_shape
        if "out_dtype" in inspect.signature(function).parameters:
            arguments["out_dtype"] = self.types["out"]
        return function(**arguments)

    def output_dtype(self, name: str) -> str:
        """The element type in which the contract wants the output `name`."""
        if name in self.types:
            return self.types[name]
        if name == "code":
            return "int8"
        summed = name in ACCUMULATED or (name == "out" and self.function in ACCUMULATED_OUT)
        return spec.accumulator(self.dtype) if summed else self.dtype

    def compare(self, name: str, actual: np.ndarray, expected: np.ndarray) -> None:
        """Require that the output `name` is what the oracle says."""
        told = f"{self}: {name}"
        whole = np.issubdtype(actual.dtype, np.integer)
        if whole or (self.function in EXACT and name in ("out", "scale")):
            tolerance.assert_same(told, actual, expected)
            return
        kind = self.kinds.get(name, self.output_dtype(name))
        precision = getattr(self.inputs.get("op"), "precision", "ieee")
        if self.dtype == "float32" and precision != "ieee":
            kind = precision
        floor = self.floor.get(name, 0.0)
        tolerance.assert_close(told, actual, expected, kind, self.reduction, floor)


def _wide(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide(v) for v in value]
    is_float = isinstance(value, np.ndarray) and str(value.dtype) in spec.contract.FLOATS
    return value.astype(np.float64) if is_float else value


def blank(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of values that no function gives: NaN, or 113."""
    return np.full(shape, 113 if dtype.startswith("int") else np.nan, DTYPES[dtype])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two host arrays hold the same bytes (so NaN equals the same NaN)."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def with_inputs(call: Call, **inputs: Any) -> Call:
    """The same call with some inputs replaced."""
    return replace(call, inputs={**call.inputs, **inputs})


def without(call: Call, *names: str) -> Call:
    """The same call without some optional inputs."""
    return replace(call, inputs={n: v for n, v in call.inputs.items() if n not in names})


def call_of(
    function: str, *want: str, out_shape: tuple[int, ...] | None = None, **inputs: Any
) -> Call:
    """A call from host arrays, in the type of the first of them."""
    first = next(v for v in inputs.values() if isinstance(v, np.ndarray))
    return Call("by hand", function, inputs, want or ("out",), str(first.dtype), out_shape)


def compare_oracles(other: Any, calls: Iterable[Call]) -> None:
    """Require that a second oracle gives what the first one gives, to float64 rounding."""
    for call in calls:
        first, second = call.oracle(), call.oracle(other)
        for name in (n for n in call.want if n in second):
            told = f"{call}: {name} of the two oracles"
            floor = call.floor.get(name, 0.0)
            tolerance.assert_close(
                told, second[name], first[name], "float64", call.reduction, floor
            )
