"""Calls of contract functions, and the machine that runs them on a backend beside the oracle.

A `Call` is one use of a contract function: its inputs as host arrays, the outputs it asks for and
the layout they lie in. `Machine.verify` runs it twice on the backend under test, first as a user
calls it, then as a compiled plan does (`unchecked`, chosen config, own workspace), and requires:
the oracle's values within tolerance, equal bits from both runs, every element of the outputs
written, nothing else touched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cnnengine.kernels
import ml_dtypes
import numpy as np
import oracle
import pytest
import tolerance
from cnnengine.kernels import registry, spec
from cnnengine.kernels.errors import UnsupportedError

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
}
EXACT = {  # functions that only select or copy, and functions that round exactly once
    "relu",
    "relu_backward",
    "concat",
    "channel_slice",
    "cast",
    "max_pool2d",
}
ACCUMULATED = {  # outputs of the type that sums have
    *("db", "dgamma", "dbeta", "mean", "invstd", "loss", "running_mean", "running_var"),
}
ACCUMULATED_OUT = {"conv2d_wgrad", "dense_wgrad", "bias_grad"}  # whose `out` is of that type, too
FOLDER = Path(next(iter(cnnengine.kernels.__path__)))
GUARD = 64  # bytes behind a workspace that nobody may touch


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
        if name == "code" or (self.function in EXACT and name == "out"):
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
    """An array of values that no function gives: NaN, or the code 113."""
    return np.full(shape, 113 if dtype == "int8" else np.nan, DTYPES[dtype])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two host arrays hold the same bytes (so NaN equals the same NaN)."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@dataclass(frozen=True)
class Adapter:
    """How arrays reach a backend's memory and come back, what it computes and what it leaves out.

    A backend need not run everything: `gap(call)` says what it may refuse. All else it must run,
    and what it refuses it must refuse by an UnsupportedError that names an alternative.
    """

    dtypes: tuple[str, ...] = ("float64", "float32", "float16", "bfloat16")
    gap: Callable[[Call], bool] = lambda call: False
    variants: Callable[[], tuple[str, ...]] = tuple  # other settings of `choose` to be tried
    has_threads: bool = True  # those of `kernels/numpy/threads.py`

    def to_device(self, host: np.ndarray) -> Any:
        """A copy of a host array where the backend can use it."""
        return host.copy()

    def from_device(self, array: Any) -> np.ndarray:
        """A copy of a backend's array on the host."""
        return np.array(array)


def _native_gap(call: Call) -> bool:
    op, groups = call.inputs.get("op"), getattr(call.inputs.get("op"), "groups", 1)
    filters = call.out_shape if call.function == "conv2d_wgrad" else np.shape(call.inputs.get("w"))
    if groups > 1 and filters and min(filters[0] // groups, filters[3]) < 4:
        return True  # most of a register tile would be padding
    strided_edge = getattr(op, "padding_mode", "zeros") == "edge" and op.stride != (1, 1)
    return call.function == "conv2d_dgrad" and strided_edge


def _native_variants() -> tuple[str, ...]:
    from cnnengine.kernels.native import library

    return library.runnable()[:-1]  # the last one is what `choose` takes by itself


ADAPTERS: dict[str, Adapter] = {  # of backends that are not in every way like NumPy's
    "native": Adapter(("float32",), _native_gap, _native_variants),
}


def adapter(name: str) -> Adapter:
    """The adapter of the backend `name` (a variant's name is "backend:variant")."""
    return ADAPTERS.get(name.partition(":")[0], Adapter())


def machine_names(family: str | None = None) -> list[str]:
    """Backends that have a file `family`.py (None: any), each followed by its variants."""
    names = []
    for name in registry.BACKENDS:
        if family is None or (FOLDER / name / f"{family}.py").exists():
            names.append(name)
            if registry.missing(name) is None:
                names += [f"{name}:{variant}" for variant in adapter(name).variants()]
    return names


@dataclass(frozen=True)
class _Placed:
    """An array in device memory, perhaps channels of a wider one, and what was there before."""

    whole: Any
    view: Any
    before: np.ndarray
    window: tuple[Any, ...]


@dataclass(frozen=True)
class Machine:
    """A backend under test together with its adapter and the variant that `choose` shall take."""

    backend: registry.Backend
    adapter: Adapter
    variant: str | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The float types that the backend computes."""
        return self.adapter.dtypes

    @property
    def widest(self) -> str:
        """Its most precise type: float64 or float32."""
        return self.dtypes[0]

    def _place(self, host: np.ndarray, name: str, call: Call) -> _Placed:
        shape, window = [*host.shape], [slice(None)] * host.ndim
        if name in call.pitch:
            before, after = call.pitch[name]
            window[-1] = slice(before, before + shape[-1])
            shape[-1] += before + after
        if name in call.columns:
            window[2] = slice(1, 2)
            shape[2] = 3
        wide = blank(tuple(shape), str(host.dtype)) if shape != [*host.shape] else host.copy()
        wide[tuple(window)] = host
        whole = self.adapter.to_device(wide)
        return _Placed(whole, whole[tuple(window)], wide, tuple(window))

    def run(
        self, call: Call, shapes: Mapping[str, tuple[int, ...]], *, as_plan: bool = False
    ) -> dict[str, np.ndarray]:
        """The call's outputs, of these shapes; requires untouched inputs and surroundings.

        Raises: UnsupportedError.
        """
        placed: dict[str, _Placed] = {}
        arguments: dict[str, Any] = {}
        directions = spec.directions(call.function)
        for name, kind in directions.items():
            value = call.inputs.get(name)
            if isinstance(value, list):
                items = [self._place(v, name, call) for v in value]
                placed.update({f"{name}[{i}]": item for i, item in enumerate(items)})
                arguments[name] = [item.view for item in items]
                continue
            if name in call.alias:
                arguments[name] = arguments[call.alias[name]]
                continue
            if kind == "out":
                dtype = call.output_dtype(name)
                value = blank(shapes[name], dtype) if name in call.want else None
            if isinstance(value, np.ndarray):
                placed[name] = self._place(value, name, call)
                value = placed[name].view
            if name in call.inputs or kind == "out":
                arguments[name] = value
        self._launch(call, arguments, as_plan)
        results = {}
        written_to = {place: name for name, place in call.alias.items()}
        for name, item in placed.items():
            after = self.adapter.from_device(item.whole)
            if name in written_to or directions.get(name) in ("out", "inout"):
                results[written_to.get(name, name)] = after[item.window].copy()
                after[item.window] = item.before[item.window]
            assert same_bits(after, item.before), f"{call}: memory of {name} was overwritten"
        return results

    def _launch(self, call: Call, arguments: dict[str, Any], as_plan: bool) -> None:
        function, told = self.backend.function(call.function), dict(arguments)
        has_config = "config" in spec.directions(call.function)
        if self.backend.supports(call.function, arguments) is None and has_config:
            variant = {} if self.variant is None else {"variant": self.variant}
            choose = self.backend.package.choose
            if as_plan or variant:
                told["config"] = choose(call.function, arguments, **variant)
        if not as_plan:
            function(**told)
            return
        guard = None
        if has_config:
            size = told["config"].workspace_bytes
            guard = self.adapter.to_device(np.full(size + GUARD, 0xFF, np.uint8))
            told["workspace"] = guard[:size]
        function.unchecked(**told)  # type: ignore[attr-defined]
        if guard is not None:
            rest = self.adapter.from_device(guard)[-GUARD:]
            assert (rest == 0xFF).all(), f"{call}: wrote behind its workspace"

    def outputs(self, call: Call) -> dict[str, np.ndarray]:
        """The outputs of one call, their shapes taken from the oracle.

        A call that the backend may refuse and does skips the test, by name.
        """
        shapes = {name: value.shape for name, value in call.oracle().items()}
        try:
            return self.run(call, shapes)
        except UnsupportedError as error:
            if not self.adapter.gap(call):
                raise
            pytest.skip(str(error))

    def _look_at_refusal(self, call: Call, told: str) -> None:
        assert self.adapter.gap(call), f"{call}: must run here, but {told}"
        assert told.startswith(f"{call.function}: backend {self.backend.name} "), told
        assert "use backend" in told, f"{told!r} names no alternative"

    def helper(self, call: Call) -> dict[str, np.ndarray]:
        """The outputs of a call that only serves the test, on NumPy where this backend lacks it."""
        here = (FOLDER / self.backend.name / f"{spec.CONTRACTS[call.function].module}.py").exists()  # type: ignore[attr-defined]
        return (self if here else machine("numpy")).outputs(call)

    def verify(self, call: Call) -> dict[str, np.ndarray]:
        """Run the call both ways, require the oracle's answer and return it as host arrays.

        A call that the backend may refuse and does gives no arrays; the refusal is looked at.
        """
        expected = call.oracle()
        shapes = {name: value.shape for name, value in expected.items()}
        try:
            actual = self.run(call, shapes)
        except UnsupportedError as error:
            self._look_at_refusal(call, str(error))
            return {}
        for name in call.want:
            call.compare(name, actual[name], expected[name])
        again = self.run(call, shapes, as_plan=True)
        for name in call.want:
            assert same_bits(actual[name], again[name]), f"{call}: {name} differs between two runs"
        return actual


def machine(name: str) -> Machine:
    """The backend under test called "backend" or "backend:variant". Raises: BackendError."""
    backend, _, variant = name.partition(":")
    return Machine(registry.load(backend), adapter(name), variant or None)


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


def machines(family: str) -> Iterator[Machine]:
    """Each backend that has the file `family`.py and can run here, inside its session."""
    for name in machine_names(family):
        if registry.missing(name.partition(":")[0]) is None:
            tested = machine(name)
            with tested.backend.session():
                yield tested
