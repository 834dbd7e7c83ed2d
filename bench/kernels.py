"""Single kernels, layer by layer and pass by pass: ours beside torch's, checked, then timed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..engine.device import Device
from ..kernels import registry, spec
from . import machine
from . import work as works
from .suites import Layer, Suite
from .timing import Candidate, measure
from .work import Check, Work


class OurWay:
    """A pass on one backend; calls that it declines go to the other backends, as in the engine."""

    def __init__(self, work: Work, backends: Sequence[str]) -> None:
        """Choose, bind and allocate; `declined` tells which calls the first backend declined."""
        calls, self.out = works.our_calls(work)
        self.declined: list[str] = []
        self._bound: list[Callable[[], None]] = []
        self.backends: list[str] = []
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
                size = config.workspace_bytes
                workspace = np.empty(size, np.uint8) if size else None
                arguments = {**arguments, "config": config, "workspace": workspace}
            spec.CONTRACTS[function](**arguments)
            unchecked = backend.function(function).unchecked  # type: ignore[attr-defined]
            self._bound.append(functools.partial(unchecked, **arguments))
            self.backends.append(name)
            return
        raise AssertionError(f"{function} runs on no backend: {'; '.join(self.declined)}")

    def __call__(self) -> np.ndarray:
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
    work: Work, device: Device, *, seconds: float, rounds: int | None, against: bool
) -> dict[str, Any]:
    """The row of one pass: checks, and if all hold, timings of every way."""
    ours, declined = our_ways(work, device.backends)
    candidates = [Candidate(way.name, way, way.session) for way in ours]
    hosts: list[Callable[[Any], np.ndarray]] = [np.array for _ in ours]
    if against:
        from .baselines import torch_ways

        for way in torch_ways(work):
            candidates.append(Candidate(way.name, way.call, way.session))
            hosts.append(way.host)
    results = {}
    for candidate, host in zip(candidates, hosts, strict=True):
        with candidate.session():
            results[candidate.name] = host(candidate.call())
    checks = works.check(work, results, float64)
    row = _row(work, checks, declined)
    if all(told.ok for told in checks.values()):
        row |= timed(candidates, [way.name for way in ours], seconds, rounds)
        flops = work.flops
        row["gflops"] = flops / row["ours"] / 1e9 if flops else None
        row["baseline_gflops"] = flops / row["baseline"] / 1e9 if flops and against else None
    return row


def _row(work: Work, checks: dict[str, Check], declined: list[str]) -> dict[str, Any]:
    failed = [
        f"{name}: relative RMS error {told.error:.3g} to float64, allowed {told.allowed:.3g}"
        for name, told in checks.items()
        if not told.ok
    ]
    return {
        "key": f"{work.layer}/{work.name}/batch {work.batch}",
        "layer": str(work.layer),
        "pass": work.name,
        "batch": work.batch,
        "x": list(work.layer.x_shape(work.batch)),
        "w": list(work.layer.w_shape),
        "flops": work.flops,
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
    """Time all: ours (the engine's choice), baseline (the best of the rest), and their ratio.

    `sample` as in `timing.measure`.
    """
    elsewhere = machine.Elsewhere()
    timings = measure(candidates, seconds=seconds, rounds=rounds, sample=sample)
    busy = elsewhere.share()
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
        "busy_elsewhere": busy,
        "candidates": {name: asdict(timing) for name, timing in timings.items()},
    }


def run(
    suite: Suite, layers: Sequence[Layer], passes: Sequence[str], device: Device, *,
    batch: int, seconds: float, rounds: int | None, against: bool,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of a suite, one at a time; a layer without a pool has no rows for pooling."""
    for layer in layers:
        for name in passes:
            work = works.make(layer, name, batch)
            if work is not None:
                row = measure_work(
                    work, device, seconds=seconds, rounds=rounds, against=against
                )  # fmt: skip
                row["key"] = f"{suite.name}/{row['key']}"
                yield row
