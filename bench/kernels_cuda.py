"""Single kernels on a GPU: ours beside cuDNN's best way, checked, then timed by `gpu.py`."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from ..engine import nvml
from ..engine.device import Device
from . import work as works
from .gpu import GpuTimer, OnDevice, Ring, release
from .kernels import OurWay, add_rates, compared, float64, row_of
from .tune_tasks import border_of
from .work import Work

BORDERED = "halo"  # the algorithm that needs a border


def measure_work(
    work: Work, device: Device, *, seconds: float, rounds: int | None, against: bool,
    compiled: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The row of one pass; as `kernels.measure_work`, with launch times, clocks and power."""
    release()  # what the rows before have left: both sides find the same room
    if against:
        from . import baselines_cuda, torch_terms

        baselines_cuda.release()
    gpu: Any = device.gpu  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        stack.enter_context(device.session())
        timer = GpuTimer(gpu)
        count = timer.sets_for(work.bytes)
        rings, results, declined = _ours(work, device, timer, count)
        ours = [ring.name for ring in rings]
        if against:
            stack.enter_context(torch_terms.same_terms(work.precision))
            stream = stack.enter_context(baselines_cuda.on_stream(gpu.compute.ptr, gpu.index))
            ways, told = baselines_cuda.cuda_ways(work, count, compiled=compiled)
            declined += told
            for way in ways:
                results[way.name] = way.host(way.calls[0]())
                capture = functools.partial(baselines_cuda.capture, stream)
                rings.append(Ring(way.name, way.calls, capture))
        checks = works.check(work, results, baselines_cuda.float64 if against else float64)
        row = row_of(work, checks, declined)
        if against:
            row["torch_terms"] = torch_terms.terms(work.precision)
        if not all(told.ok for told in checks.values()):
            return row
        watch = nvml.Watch(gpu.bus())
        timings, told = timer.measure(rings, seconds=seconds, rounds=rounds)
        row |= {**compared(timings, ours), **told, "buffers": count, "gpu": watch.told()}
    add_rates(row)
    return row


def _ours(
    work: Work, device: Device, timer: GpuTimer, count: int
) -> tuple[list[Ring], dict[str, Any], list[str]]:
    """A ring for each backend, the engine's own choice first; first results; what was declined.

    Where images in a border of zeros have kernels of their own, that is how the layout pass lays
    them out, and how the first ring does.
    """
    rings: dict[str, Ring] = {}
    results, declined = {}, []
    border = (0, 0) if work.name.endswith("pool") else border_of(work.layer)
    for around in dict.fromkeys((border, (0, 0))):
        for i, _ in enumerate(device.backends):
            order = (*device.backends[i:], *device.backends[:i])
            place = OnDevice(work, device, around)
            first = OurWay(work, order, place)
            name = f"{first.name} in a border" if any(around) else first.name
            if any(around) and BORDERED not in first.algorithms:
                continue
            declined += [told for told in first.declined if told not in declined]
            if name in rings:
                continue
            others = (OurWay(work, order, OnDevice(work, device, around)) for _ in range(1, count))
            rings[name] = Ring(name, [first, *others], timer.capture)
            results[name] = place.to_host(first())
    return list(rings.values()), results, declined
