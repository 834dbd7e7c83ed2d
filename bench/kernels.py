"""Single kernels, layer by layer and pass by pass: ours beside torch's, checked, then timed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from ..engine.device import Device
from ..kernels import registry, spec
from . import machine
from . import work as works
from .roofline import Ceilings, add_shares
from .suites import Layer, Suite
from .timing import Candidate, Timing, measure
from .work import Check, Work


class OurWay:
    """A pass on one backend; calls that it declines go to the other backends, as in the engine."""

    def __init__(
        self, work: Work, backends: Sequence[str], place: works.Host | None = None
    ) -> None:
        """Choose, bind and allocate; `declined` tells which calls the first backend declined.

        `place` has the arrays; None: they stay where they are.
        """
        self._place = place or works.Host(work.given)
        calls, self.out = works.our_calls(work, self._place)
        self.declined: list[str] = []
        self._bound: list[Callable[[], None]] = []
        self.backends: list[str] = []
        self.algorithms: list[str] = []  # of the calls that have a choice
        for function, arguments in calls:
            self._bind(function, arguments, backends)
        self.name = "+".join(dict.fromkeys(self.backends))

    def _bind(self, function: str, arguments: dict[str, Any], backends: Sequence[str]) -> None:
        for name in backends:
            backend = registry.load(name)
            reason = backend.supports(function, arguments)
            if reason is not None:
                self.declined.append(f"{name}: {function}: {reason}")
                continue
            if "config" in spec.directions(function):
                config = backend.choose(function, arguments)
                self.algorithms.append(config.algorithm)
                size = config.workspace_bytes
                workspace = self._place.empty((size,), "uint8") if size else None
                arguments = {**arguments, "config": config, "workspace": workspace}
            spec.CONTRACTS[function](**arguments)
            unchecked = backend.function(function).unchecked  # type: ignore[attr-defined]
            self._bound.append(functools.partial(unchecked, **arguments))
            self.backends.append(name)
            return
        raise AssertionError(f"{function} runs on no backend: {'; '.join(self.declined)}")

    def __call__(self) -> Any:
        """Do the work once."""
        for call in self._bound:
            call()
        return self.out

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """The sessions of the backends that take part."""
        with contextlib.ExitStack() as stack:
            for name in dict.fromkeys(self.backends):
                stack.enter_context(registry.load(name).session())
            yield


def float64(work: Work) -> np.ndarray:
    """The work of a float64 part: by torch, or without it by the NumPy backend."""
    if machine.torch_missing() is not None:
        return OurWay(work, ("numpy",))()
    from .baselines import plain_way

    way = plain_way(work, channels_last=False)
    with way.session():
        return way.host(way.call())


def our_ways(work: Work, backends: Sequence[str]) -> tuple[list[OurWay], list[str]]:
    """A way for each backend, the engine's own choice first; and what was declined."""
    ways: dict[str, OurWay] = {}
    declined: list[str] = []
    for i, _ in enumerate(backends):
        way = OurWay(work, [*backends[i:], *backends[:i]])
        ways.setdefault(way.name, way)
        declined += [told for told in way.declined if told not in declined]
    return list(ways.values()), declined


def measure_work(
    work: Work, device: Device, *, seconds: float, rounds: int | None, against: bool,
    compiled: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The row of one pass: checks, and if all hold, timings of every way.

    `compiled` False leaves torch.compile out, which a GPU's row has and a CPU's has not. A way of
    the other side that cannot do the work here is told in `declined`.
    """
    ours, declined = our_ways(work, device.backends)
    candidates = [Candidate(way.name, way, way.session) for way in ours]
    hosts: list[Callable[[Any], np.ndarray]] = [np.array for _ in ours]
    if against:
        from .baselines import torch_ways

        for way in torch_ways(work):
            candidates.append(Candidate(way.name, way.call, way.session))
            hosts.append(way.host)
    results, able = {}, []
    for candidate, host in zip(candidates, hosts, strict=True):
        try:
            with candidate.session():
                results[candidate.name] = host(candidate.call())
            able.append(candidate)
        except RuntimeError as error:  # torch's, for what it has not in this type
            if candidate.name in [way.name for way in ours]:
                raise
            declined.append(f"{candidate.name}: {str(error).partition(chr(10))[0]}")
    candidates = able
    checks = works.check(work, results, float64)
    row = row_of(work, checks, declined)
    if all(told.ok for told in checks.values()):
        row |= timed(candidates, [way.name for way in ours], seconds, rounds)
        add_rates(row)
    return row


def add_rates(row: dict[str, Any]) -> None:
    """Give a row its GFLOP/s on both sides; None for a pool alone and a side that is not there."""
    for time_of, name in (("ours", "gflops"), ("baseline", "baseline_gflops")):
        seconds = row.get(time_of)
        row[name] = row["flops"] / seconds / 1e9 if row["flops"] and seconds else None


def row_of(work: Work, checks: dict[str, Check], declined: list[str]) -> dict[str, Any]:
    """A row without times: what was done, how far every result is from float64, what failed."""
    failed = [
        f"{name}: relative RMS error {told.error:.3g} to float64, allowed {told.allowed:.3g}"
        for name, told in checks.items()
        if not told.ok
    ]
    precision = "" if work.precision == "fp32" else f"/{work.precision}"
    return {
        "key": f"{work.layer}/{work.name}/batch {work.batch}{precision}",
        "layer": str(work.layer),
        "pass": work.name,
        "batch": work.batch,
        "x": list(work.layer.x_shape(work.batch)),
        "w": list(work.layer.w_shape),
        "precision": work.precision,
        "flops": work.flops,
        "bytes": work.bytes,
        "errors": {name: told.error for name, told in checks.items()},
        "failed": failed,
        "declined": declined,
    }


def timed(
    candidates: Sequence[Candidate],
    ours: Sequence[str],
    seconds: float,
    rounds: int | None,
    sample: float | None = None,
) -> dict[str, Any]:
    """Time all on the CPU and compare; `sample` as in `timing.measure`."""
    elsewhere = machine.Elsewhere()
    timings = measure(candidates, seconds=seconds, rounds=rounds, sample=sample)
    return {**compared(timings, ours), "busy_elsewhere": elsewhere.share()}


def compared(timings: Mapping[str, Timing], ours: Sequence[str]) -> dict[str, Any]:
    """Ours (the engine's choice), the baseline (the best of the rest), and their ratio."""
    rest = {name: t for name, t in timings.items() if name not in ours}
    best = min(rest, key=lambda name: rest[name].median) if rest else None
    mine = timings[ours[0]].median
    return {
        "ours": mine,
        "ours_name": ours[0],
        "baseline": rest[best].median if best else None,
        "baseline_name": best,
        "ratio": rest[best].median / mine if best else None,
        "best_ratio": min(t.best for t in rest.values()) / timings[ours[0]].best if best else None,
        "candidates": {name: asdict(timing) for name, timing in timings.items()},
    }


def run(
    suite: Suite, layers: Sequence[Layer], passes: Sequence[str], device: Device, *,
    batches: Sequence[int], precisions: Sequence[str] = ("fp32",), seconds: float,
    rounds: int | None, against: bool, compiled: bool = True, ceilings: Ceilings | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of a suite, one at a time; a layer without a pool has no rows for pooling."""
    for layer, batch, name, precision in product(layers, batches, passes, precisions):
        work = works.make(layer, name, batch, precision)
        if work is None:
            continue
        yield measure_row(
            suite.name, work, device, seconds=seconds, rounds=rounds, against=against,
            compiled=compiled, ceilings=ceilings,
        )  # fmt: skip


def measure_row(
    suite: str, work: Work, device: Device, *, ceilings: Ceilings | None = None, **told: Any
) -> dict[str, Any]:
    """The row of one pass of a suite on its device, with its share of the roofline."""
    one = measure_work
    if device.name.startswith("cuda"):
        from .kernels_cuda import measure_work as one
    row = one(work, device, **told)
    row["key"] = f"{suite}/{row['key']}"
    if ceilings is not None:
        add_shares(row, ceilings, work.kind)
    return row
