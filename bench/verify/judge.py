"""The judge: one call of one backend, run twice in guarded memory, beside its float64 answer.

    verdict = judge("conv2d", arguments, registry.load("native"))

`arguments` are those of the contract function as host arrays. Outputs too: their shapes and types
count, their content does not, and one that is None is not asked for; an output that *is* one of the
inputs is computed in place. The answer comes from plain loops in float64 if the call is small,
else from the NumPy backend (`reference.py`).

The call is made as a user makes it and then as a compiled plan does: without the contract's checks
and with its own workspace, on a CPU with another number of threads. Every output must lie within
the tolerance table both times with the same bits; outputs are full of NaN before, inputs, pitch and
guard elements must be untouched after, and a border holds zeros. Where a backend takes filters
packed once (`kernels/prepared.py`), a third call has them so, held to the same table.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...engine.device import Device
from ...kernels import registry, spec
from ...kernels.errors import BackendError, UnsupportedError
from ...kernels.numpy import threads
from ...kernels.prepared import Packed, Prepared
from . import tolerance
from .bounds import bounds, row
from .guarded import GUARD, Placed, place
from .guarded import blank as blank
from .reference import reference
from .tolerance import Deviation

HOST = Device("cpu", ("numpy",))
WHOLE = 2**24  # below it, sums of whole numbers are exact in float32
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What became of one call: `state` is "passed", "failed" or "not taken"; `told` says why.

    `outputs` holds how far each output lies from float64.
    """

    state: str
    config: spec.Config | None = None
    outputs: Mapping[str, Deviation] = field(default_factory=dict)
    told: str = ""

    @property
    def ok(self) -> bool:
        """Whether the call gave what it must (a call that was not taken gave nothing)."""
        return self.state == "passed"

    @property
    def worst(self) -> tuple[str, Deviation] | None:
        """The output that uses most of what it is allowed."""
        if not self.outputs:
            return None

        def used(item: tuple[str, Deviation]) -> float:
            told = item[1]
            return told.rms / told.allowed if told.allowed else float(told.rms > 0)

        return max(self.outputs.items(), key=used)


class Question:
    """One call and its float64 answer, to which backends and their configs are held."""

    def __init__(self, function: str, arguments: Arguments) -> None:
        """Keep the call. Raises: ShapeError, DTypeError where the contract does not allow it."""
        spec.CONTRACTS[function](**arguments)
        self.function = function
        self.arguments = {n: v for n, v in arguments.items() if n not in ("workspace", "config")}

    @functools.cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """The float64 answer."""
        return reference(self.function, self.arguments)

    def judge(
        self,
        backend: registry.Backend,
        config: spec.Config | None = None,
        device: Device | None = None,
    ) -> Verdict:
        """The verdict on one backend; `config` None: its own choice. `device` None: the host.

        Raises: BackendError when the device can do no more after this call.
        """
        fixed = config is not None
        try:
            reason = backend.supports(self.function, self.arguments)
            if reason is not None:
                return Verdict("not taken", config, told=reason)
            config = config or self._choose(backend)
            return self._judge(backend, config, device or HOST, fixed)
        except UnsupportedError as error:
            return Verdict("not taken", config, told=str(error))
        except Exception as error:  # a kernel that raises has failed; the others go on
            first = str(error).strip().partition("\n")[0]
            if device is not None and not device.works():
                how = f" [{config.algorithm}, {dict(config.tile)}]" if config else ""
                raise BackendError(
                    f"{self.function}{how} left {device.name} doing nothing more: {first}"
                ) from error
            return Verdict("failed", config, told=f"raised {type(error).__name__}: {first}")

    def _judge(
        self, backend: registry.Backend, config: spec.Config | None, device: Device, fixed: bool
    ) -> Verdict:
        """The verdict on one config; unless it is `fixed`, the second run has one chosen anew."""
        with backend.session():
            first, touched = self._run(backend, config, device, as_plan=False)
            with _other_threads(device):
                other = config if fixed else self._choose(backend)
                again, more = self._run(backend, other, device, as_plan=True)
        outputs = self.compare(first)
        wrong = [f"{n}: {told.wrong}" for n, told in outputs.items() if told.wrong]
        wrong += [f"{n}: two runs differ" for n in first if not _same_bits(first[n], again[n])]
        prepared = None if fixed else backend.prepare(self.function, self.arguments)
        if prepared is not None:
            with backend.session():
                packed, more_touched = self._run(backend, prepared.config, device, True, prepared)
            more += more_touched
            told = self.compare(packed).items()
            wrong += [f"{n}, filters packed once: {d.wrong}" for n, d in told if d.wrong]
        wrong += [f"wrote outside its outputs: {n}" for n in dict.fromkeys(touched + more)]
        return Verdict("failed" if wrong else "passed", config, outputs, "; ".join(wrong))

    def _choose(self, backend: registry.Backend) -> spec.Config | None:
        """The backend's own choice for the call, where it has one."""
        has_choice = "config" in spec.directions(self.function)
        return backend.choose(self.function, self.arguments) if has_choice else None

    def _run(
        self,
        backend: registry.Backend,
        config: spec.Config | None,
        device: Device,
        as_plan: bool,
        prepared: Prepared | None = None,
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """The outputs on the host, and the names of the memory that was touched and must not be."""
        directions = spec.directions(self.function)
        placed: dict[int, tuple[str, Placed]] = {}
        told: dict[str, Any] = {}

        def put(name: str, host: np.ndarray, written: bool) -> Any:
            if id(host) not in placed:
                placed[id(host)] = name, place(host, device, written=written)
            return placed[id(host)][1].view

        ordered = sorted(self.arguments.items(), key=lambda item: directions[item[0]] == "out")
        for name, value in ordered:  # inputs first: an output that is one of them is in place
            if name == "w" and prepared is not None:
                data = device.empty((prepared.elements,), str(value.dtype))
                prepared.pack(value, data)
                value = Packed(data, value.shape, prepared.config.algorithm)
            elif isinstance(value, np.ndarray):
                value = put(name, value, directions[name] == "out")
            elif directions[name] == "in" and isinstance(value, Sequence):
                value = [put(f"{name}[{i}]", v, False) for i, v in enumerate(value)]
            told[name] = value
        function = backend.function(self.function)
        guard = None
        if config is not None:
            told["config"] = config
        if as_plan:
            function = function.unchecked  # type: ignore[attr-defined]
            if config is not None:
                size = config.workspace_bytes
                guard = device.empty((size + GUARD,), "uint8")
                device.copy_from_host(guard, np.full(size + GUARD, 0xFF, np.uint8))
                told["workspace"] = guard[:size]
        function(**told)
        results, touched = {}, []
        outputs = {id(v): n for n, v in ordered if directions[n] in ("out", "inout")}
        for key, (name, item) in placed.items():
            after = device.to_host(item.memory)
            whole, before = item.whole(after), item.whole(item.before)
            if key in outputs:
                results[outputs[key]] = whole[item.window].copy()
                whole[item.window] = before[item.window]
            if item.border is not None:
                if whole[item.border].any():
                    touched.append(f"{name}, whose border must be zero")
                whole[item.border] = before[item.border]
            if not _same_bits(after, item.before):
                touched.append(name)
        if guard is not None and not (device.to_host(guard)[-GUARD:] == 0xFF).all():
            touched.append("the end of its workspace")
        return results, touched

    def compare(self, results: Mapping[str, np.ndarray]) -> dict[str, Deviation]:
        """How far each output of a run lies from float64."""
        found = {}
        for name, bound in bounds(self.function, self.arguments).items():
            actual, expected = results[name], self.expected[name]
            if self.function == "conv2d_relu_pool" and name == "code" and not self._is_whole:
                found[name] = self._codes(actual)
            elif bound.exact:
                with np.errstate(over="ignore"):  # a cast to a smaller type may become infinite
                    found[name] = tolerance.exact(actual, expected.astype(actual.dtype))
            else:
                kind = row(self.function, self.arguments, name, bound)
                found[name] = tolerance.deviation(
                    actual, expected, kind, bound.reduction, bound.floor
                )
        return found

    @functools.cached_property
    def _is_whole(self) -> bool:
        """Whether all numbers of a convolution are whole and so small that its sums are exact."""
        given = [self.arguments[n] for n in ("x", "w", "b") if self.arguments.get(n) is not None]
        wide = [np.asarray(a, np.float64) for a in given]
        if not all((a == np.round(a)).all() for a in wide):
            return False
        largest = [float(np.abs(a).max(initial=0.0)) for a in wide]
        terms = int(np.prod(self.arguments["w"].shape[1:]))
        return terms * largest[0] * largest[1] + sum(largest[2:]) < WHOLE

    def _codes(self, code: np.ndarray) -> Deviation:
        """Judge codes of sums that were rounded by the values that they point at.

        Two values of a window may differ by less than their rounding; then either may be chosen.
        """
        if code.size and not (code.min() >= 0 and code.max() <= spec.DEAD):
            return tolerance.exact(code, self.expected["code"])
        a, op = self.arguments, self.arguments["op"]
        y = np.zeros(op.output_shape(a["x"].shape, a["w"].shape))
        given = {n: a.get(n) for n in ("x", "w", "b")}
        y = reference("conv2d", {**given, "out": y, "op": op, "relu": True})["out"]
        n, p, q, k = code.shape
        windows = y[:, : 2 * p, : 2 * q].reshape(n, p, 2, q, 2, k).transpose(0, 1, 3, 5, 2, 4)
        at = np.minimum(code, 3).astype(np.intp)[..., None]
        chosen = np.take_along_axis(windows.reshape(n, p, q, k, 4), at, -1)[..., 0]
        bound = bounds(self.function, a)["out"]
        return tolerance.deviation(
            np.where(code == spec.DEAD, 0.0, chosen), self.expected["out"],
            row(self.function, a, "out", bound), bound.reduction, bound.floor,
        )  # fmt: skip


@contextlib.contextmanager
def _other_threads(device: Device) -> Iterator[None]:
    """On a CPU: one thread in place of many, or two in place of one."""
    before = threads.get_threads()
    if device.name == "cpu":
        threads.set_threads(1 if before > 1 else 2)
    try:
        yield
    finally:
        threads.set_threads(before)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def judge(
    function: str,
    arguments: Arguments,
    backend: registry.Backend,
    config: spec.Config | None = None,
    device: Device | None = None,
) -> Verdict:
    """The verdict on one call; to judge several configs of it, keep a `Question`.

    Raises: ShapeError, DTypeError where the contract does not allow the call.
    """
    return Question(function, arguments).judge(backend, config, device)
