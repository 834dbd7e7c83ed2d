"""The backends under test, and the machine that runs a call on one of them beside the oracle.

`Machine.verify` runs a call twice, first as a user calls it, then as a compiled plan does
(`unchecked`, chosen config, own workspace), and requires: the oracle's values within tolerance,
equal bits from both runs, every element of the outputs written, nothing else touched.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import Call, blank, same_bits

import cnnengine.kernels
from cnnengine.kernels import registry, spec
from cnnengine.kernels.cupy import launch
from cnnengine.kernels.errors import UnsupportedError
from cnnengine.kernels.triton import interpreted

FOLDER = Path(next(iter(cnnengine.kernels.__path__)))
Choose = Callable[[str, Mapping[str, Any]], spec.Config]
GUARD = 64  # bytes behind a workspace that nobody may touch


@dataclass(frozen=True)
class Adapter:
    """How arrays reach a backend's memory and come back, what it computes and what it leaves out.

    A backend need not run everything: `gap(call)` says what it may refuse. All else it must run,
    and what it refuses it must refuse by an UnsupportedError that names an alternative.
    """

    dtypes: tuple[str, ...] = ("float64", "float32", "float16", "bfloat16")
    gap: Callable[[Call], bool] = lambda call: False
    variants: Callable[[str | None], Mapping[str, Choose]] = lambda family: {}  # of a family
    has_threads: bool = True  # those of `kernels/numpy/threads.py`
    every: int = 1  # fuzzed cases from one that is run to the next

    def to_device(self, host: np.ndarray) -> Any:
        """A copy of a host array where the backend can use it."""
        return host.copy()

    def from_device(self, array: Any) -> np.ndarray:
        """A copy of a backend's array on the host."""
        return np.array(array)


NATIVE_LACKS = (  # of the files that it has
    *("softmax", "softmax_backward"),
    *("add", "mul", "concat", "channel_slice", "cast"),
)


def _native_gap(call: Call) -> bool:
    if call.border or call.function in NATIVE_LACKS or call.function == "bias_grad":
        return True
    if call.function.startswith("dense"):  # of more images BLAS is faster, and one gradient's
        images = len(call.inputs["x" if "dy" not in call.inputs else "dy"])
        return images > 32 or (call.function == "dense_dgrad" and images == 1)
    op, groups = call.inputs.get("op"), getattr(call.inputs.get("op"), "groups", 1)
    filters = call.out_shape if call.function == "conv2d_wgrad" else np.shape(call.inputs.get("w"))
    if groups > 1 and filters and min(filters[0] // groups, filters[3]) < 4:
        return True  # most of a register tile would be padding
    strided_edge = getattr(op, "padding_mode", "zeros") == "edge" and op.stride != (1, 1)
    return call.function == "conv2d_dgrad" and strided_edge


def _native_variants(family: str | None) -> Mapping[str, Choose]:
    """The instruction sets below the one that `choose` takes by itself.

    Pools and activations have no config that could name one: their own tests go through them.
    """
    if family in ("pool", "activation", "elementwise"):
        return {}
    from cnnengine.kernels import native
    from cnnengine.kernels.native import library

    return {v: functools.partial(native.choose, variant=v) for v in library.runnable()[:-1]}


def _numpy_variants(family: str | None) -> Mapping[str, Choose]:
    """Blocks of one or two rows of one image: the seams that small shapes do not have."""
    return {"rows": _choose_rows} if family in (None, "conv") else {}


def _choose_rows(function: str, arguments: Mapping[str, Any]) -> spec.Config:
    from cnnengine.kernels.numpy import choose, conv_plan

    config = choose(function, arguments)
    if config.algorithm != "im2col":
        return config
    tile = {**dict(config.tile), "images": 1, "rows": 2 if "pool" in function else 1}
    config = replace(config, tile=tuple(tile.items()))
    return conv_plan.plan(function, {**arguments, "config": config}).config


def _triton_gap(call: Call) -> bool:
    edge = getattr(call.inputs.get("op"), "padding_mode", "zeros") == "edge"
    return "float64" in call.types.values() or (edge and bool(call.border))


class TritonAdapter(Adapter):
    """Arrays are CuPy's, or NumPy's where the kernels run in Triton's interpreter."""

    def to_device(self, host: np.ndarray) -> Any:
        """A copy of a host array where the kernels run."""
        return host.copy() if interpreted() else importlib.import_module("cupy").asarray(host)

    def from_device(self, array: Any) -> np.ndarray:
        """A copy of a kernel's array on the host."""
        return np.array(array) if interpreted() else array.get()


class CupyAdapter(Adapter):
    """Arrays are CuPy's, or NumPy's where the kernels run in the simulator."""

    def to_device(self, host: np.ndarray) -> Any:
        """A copy of a host array where the kernels run."""
        return host.copy() if launch.simulated() else importlib.import_module("cupy").asarray(host)

    def from_device(self, array: Any) -> np.ndarray:
        """A copy of a kernel's array on the host."""
        return np.array(array) if launch.simulated() else array.get()


ADAPTERS: dict[str, Adapter] = {  # how each backend differs from one that does everything
    "numpy": Adapter(variants=_numpy_variants),
    "native": Adapter(("float32",), _native_gap, _native_variants),
    # the interpreter takes about a second for a case; on a GPU every case is run
    "triton": TritonAdapter(
        ("float32", "float16", "bfloat16"),
        gap=_triton_gap,
        has_threads=False,
        every=16 if interpreted() else 1,
    ),
    "cupy": CupyAdapter(
        ("float32", "float16", "bfloat16"),
        gap=lambda call: "float64" in call.types.values(),  # a cast to it
        has_threads=False,
        every=16 if interpreted() else 1,
    ),
}


def sample(every: int) -> None:
    """Run one fuzzed case in `every` on the GPU backends, and listed ones in one type each."""
    for name in ("triton", "cupy"):
        ADAPTERS[name] = replace(ADAPTERS[name], every=every)


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
                names += [f"{name}:{variant}" for variant in adapter(name).variants(family)]
    return names


@dataclass(frozen=True)
class _Placed:
    """An array in device memory, perhaps channels of a wider one, and what was there before."""

    whole: Any
    view: Any
    before: np.ndarray
    window: tuple[Any, ...]
    border: np.ndarray  # where `whole` has zeros after the call, whatever it had before


@dataclass(frozen=True)
class Machine:
    """A backend under test, its adapter and, for a variant, what chooses in place of `choose`."""

    backend: registry.Backend
    adapter: Adapter
    variant: Choose | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The float types that the backend computes."""
        return self.adapter.dtypes

    @property
    def fuzzing(self) -> tuple[tuple[str, ...], int]:
        """The float types of fuzzed cases and the distance between them, for `cases.*.fuzz`."""
        return self.adapter.dtypes, self.adapter.every

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
        rows, columns = call.border.get(name, (0, 0))
        if name in call.border:
            window[1:3] = slice(0, shape[1]), slice(0, shape[2])
            shape[1] += rows if shape[0] > 1 else 0  # strides tell of none below a single image
            shape[2] += columns
        wide = blank(tuple(shape), str(host.dtype)) if shape != [*host.shape] else host.copy()
        border = np.zeros(shape, bool)
        if name in call.border:
            border[(..., window[-1])] = True
            border[tuple(window)] = False
        if spec.directions(call.function)[name] == "in":
            wide[border] = 0
        wide[tuple(window)] = host
        whole = self.adapter.to_device(wide)
        return _Placed(whole, whole[tuple(window)], wide, tuple(window), border)

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
                assert (after[item.border] == 0).all(), f"{call}: the border of {name} is not zero"
                after[item.border] = item.before[item.border]
            assert same_bits(after, item.before), f"{call}: memory of {name} was overwritten"
        return results

    def _launch(self, call: Call, arguments: dict[str, Any], as_plan: bool) -> None:
        function, told = self.backend.function(call.function), dict(arguments)
        has_config = "config" in spec.directions(call.function)
        can_run = self.backend.supports(call.function, arguments) is None
        if has_config and can_run and (as_plan or self.variant):
            told["config"] = (self.variant or self.backend.choose)(call.function, arguments)
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

    def has(self, function: str) -> bool:
        """Whether the backend has this contract function at all."""
        try:
            self.backend.function(function)
        except (ImportError, UnsupportedError):
            return False
        return True

    def need(self, function: str) -> None:
        """Skip the test, by name, where the backend leaves this contract function to others."""
        if not self.has(function):
            pytest.skip(f"backend {self.backend.name} has no {function}")

    def helper(self, call: Call) -> dict[str, np.ndarray]:
        """The outputs of a call that only serves the test, on NumPy where this backend lacks it."""
        return (self if self.has(call.function) else machine("numpy")).outputs(call)

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


def share(backend: Machine, number: int, dtype: str, calls: Iterable[Call]) -> Iterator[Call]:
    """All of the calls; where they run slowly, those whose turn it is in this type.

    `number` is that of the listed case: the next case has other turns.
    """
    types = backend.dtypes
    for position, call in enumerate(calls):
        if backend.adapter.every == 1 or (position + number + types.index(dtype)) % len(types) == 0:
            yield call


def machine(name: str) -> Machine:
    """The backend under test called "backend" or "backend:variant". Raises: BackendError."""
    backend, _, variant = name.partition(":")
    choose = adapter(name).variants(None)[variant] if variant else None
    return Machine(registry.load(backend), adapter(name), choose)


def machines(family: str) -> Iterator[Machine]:
    """Each backend that has the file `family`.py and can run here, inside its session."""
    for name in machine_names(family):
        if registry.missing(name.partition(":")[0]) is None:
            tested = machine(name)
            with tested.backend.session():
                yield tested
