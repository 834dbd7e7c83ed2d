"""Tuning: measure which tile this GPU likes best for each problem, and keep it in the user's table.

For each call, once: the candidates (`tiles.candidates`, the rule's tile first) are judged against
float64 on arrays full of NaN and guards (`verify.judge`), and only those that pass are timed, turn
by turn, so that all see the same machine. The least median enters the table, with its provenance,
as soon as it is known: a run that is stopped goes on where it was.
"""

from __future__ import annotations

import datetime
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.device import Device, numpy_dtype
from ..engine.errors import InputError
from ..kernels import registry, spec, tiling
from ..kernels.spec import grid
from ..kernels.tiling import Asked, Entry, Machine
from . import tile_tables
from .tune_tasks import PASSES as PASSES
from .tune_tasks import Shape, Task
from .tune_tasks import layer_tasks as layer_tasks
from .tune_tasks import network_steps as network_steps
from .tune_tasks import network_tasks as network_tasks
from .verify.judge import Question

ROUNDS = 9  # of timed turns; the first is not counted

Watch = Callable[[Callable[[], object]], float]  # a call → microseconds


@dataclass
class Row:
    """What became of one task.

    `state`: "measured", "kept" (it was in the table), "refused" (the rule's own tile is wrong) or
    "untiled" (what computes it here asks for no tile). Times are microseconds.
    """

    label: str
    state: str
    tile: Mapping[str, int] | None = None
    median_us: float | None = None
    rule_us: float | None = None
    timed: int = 0
    wrong: list[str] = field(default_factory=list)  # candidates that gave wrong results
    failed: list[str] = field(default_factory=list)  # candidates that could not run


@dataclass(frozen=True)
class Bench:
    """Where and how a run measures."""

    device: Device
    backend: registry.Backend
    machine: Machine
    facts: Mapping[str, str]  # driver, cuda, commit
    watch: Watch
    clock: Callable[[], float] = time.monotonic

    @functools.cached_property
    def impossible(self) -> tiling.Impossible:
        """Why a tile cannot be, on this architecture."""
        return functools.partial(self._tiles.impossible, self.machine.architecture)

    def candidates(self, asked: Asked) -> list[dict[str, int]]:
        """The tiles to measure, the rule's first."""
        found = self._tiles.candidates(asked, self.machine.architecture)
        return [dict(tile.items()) for tile in found]

    @property
    def _tiles(self) -> Any:
        from ..kernels.triton import tiles

        return tiles


def run(tasks: Sequence[Task], bench: Bench, minutes: float) -> Iterator[Row]:
    """Tune one task after the other; ends when the time is over. Raises: InputError."""
    deadline = bench.clock() + 60 * minutes
    done = tile_tables.known(bench.machine, bench.backend.name, bench.impossible)
    for task in tasks:
        asked = _question(task, bench)
        if asked is None:
            yield Row(task.label, "untiled")
        elif asked.problem in done:
            entry = done[asked.problem]
            times = entry.provenance["median_us"], entry.provenance["rule_us"]
            yield Row(task.label, "kept", entry.tile, *times)
        else:
            row = _tune(task, asked, bench, deadline)
            if row is None:
                return
            if row.state == "measured":
                entry = _entry(asked, row, bench)
                tile_tables.keep(entry, bench.machine)
                done[asked.problem] = entry
            yield row


def _question(task: Task, bench: Bench) -> Asked | None:
    """The question for a tile that the backend asks about a call; None if it asks none."""
    if bench.backend.supports(task.function, task.arguments) is not None:
        return None
    with tiling.listening() as asked:
        bench.backend.choose(task.function, task.arguments)
    return asked[0] if asked else None


def _tune(task: Task, asked: Asked, bench: Bench, deadline: float) -> Row | None:
    """Judge and time the candidates; None when the time is over."""
    arguments = _arrays(task)
    question, row = Question(task.function, arguments), Row(task.label, "measured")
    calls: list[tuple[dict[str, int], Callable[[], object]]] = []
    placed: dict[str, Any] = {}
    with bench.backend.session():
        for tile in bench.candidates(asked):
            if bench.clock() > deadline:
                return None
            with tiling.trying(tile):
                config = bench.backend.choose(task.function, task.arguments)
            verdict = question.judge(bench.backend, config, bench.device)
            if verdict.ok:
                placed = placed or _placed(arguments, bench.device)
                calls.append((tile, _bound(task.function, placed, config, bench)))
                continue
            told = f"{_told(tile)}: {verdict.told}"
            ran = verdict.state == "failed" and not verdict.told.startswith("raised ")
            (row.wrong if ran else row.failed).append(told)
            if tile == asked.rule:
                row.state = "refused"
                return row
        return None if bench.clock() > deadline else _timed(calls, row, bench)


def _timed(
    calls: Sequence[tuple[dict[str, int], Callable[[], object]]], row: Row, bench: Bench
) -> Row:
    """Time all, turn by turn, every round beginning with another; the rule's tile is the first."""
    samples: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS):
        for i in range(len(calls)):
            at = (i + turn) % len(calls)
            taken = bench.watch(calls[at][1])
            if turn:
                samples[at].append(taken)
    medians = [statistics.median(s) for s in samples]
    best = min(range(len(calls)), key=medians.__getitem__)
    row.tile, row.median_us, row.rule_us = calls[best][0], medians[best], medians[0]
    row.timed = len(calls)
    return row


def _told(tile: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in tile.items())


def _arrays(task: Task) -> dict[str, Any]:
    """The call's arrays on the host, with random numbers."""
    rng = np.random.default_rng(0)

    def fill(value: Any) -> Any:
        if not isinstance(value, Shape):
            return value
        kind = numpy_dtype(value.dtype)
        if value.dtype not in spec.contract.FLOATS:
            return np.zeros(value.shape, kind)
        numbers = rng.standard_normal(value.shape, np.float32).astype(kind)
        return _images(_buffer(numbers, value.border), value.shape)

    return {name: fill(value) for name, value in task.arguments.items()}


def _placed(arguments: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """The arrays on the device; all candidates share them."""
    placed: dict[str, Any] = {}
    for name, value in arguments.items():
        placed[name] = value
        if isinstance(value, np.ndarray):
            whole = _buffer(value, grid.border(value) if value.ndim == 4 else (0, 0))
            buffer = device.empty(whole.shape, str(whole.dtype))
            device.copy_from_host(buffer, whole)
            placed[name] = _images(buffer, value.shape)
    return placed


def _buffer(images: np.ndarray, border: tuple[int, int]) -> np.ndarray:
    """Images, or any other array, and a border of zeros to the right and below."""
    if not any(border):
        return images
    return np.pad(images, ((0, 0), (0, border[0]), (0, border[1]), (0, 0)))


def _images(buffer: Any, shape: tuple[int, ...]) -> Any:
    """What a buffer has but its border."""
    return buffer[:, : shape[1], : shape[2]] if tuple(buffer.shape) != shape else buffer


def _bound(
    function: str, placed: Mapping[str, Any], config: spec.Config, bench: Bench
) -> Callable[[], object]:
    size = config.workspace_bytes
    workspace = bench.device.empty((size,), "uint8") if size else None
    unchecked = bench.backend.function(function).unchecked  # type: ignore[attr-defined]
    return functools.partial(unchecked, **placed, config=config, workspace=workspace)


def _entry(asked: Asked, row: Row, bench: Bench) -> Entry:
    assert row.tile is not None
    assert row.median_us is not None
    assert row.rule_us is not None
    provenance = {
        "kind": "measured",
        "device": bench.machine.device,
        "compiler": bench.machine.compiler,
        **bench.facts,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "median_us": round(row.median_us, 3),
        "rule_us": round(row.rule_us, 3),
    }
    return Entry(asked.problem, row.tile, provenance)


def facts() -> dict[str, str]:
    """What a measurement's provenance tells of this machine beside the GPU."""
    from ..engine import hardware
    from . import machine

    driver = hardware.nvidia_driver()
    if isinstance(driver, str):
        raise InputError(f"--device cuda: {driver}; use a machine with an NVIDIA GPU")
    cuda = ".".join(map(str, driver.cuda))
    return {"driver": driver.version, "cuda": cuda, "commit": machine.revision() or "released"}


def on_cuda(device: Device) -> Bench:
    """A run on a GPU. Raises: InputError, BackendError."""
    told = facts()
    from ..kernels.stopwatch import Stopwatch
    from ..kernels.triton import tiles

    backend = registry.load("triton")
    with backend.session():
        return Bench(device, backend, tiles.machine(), told, Stopwatch())
