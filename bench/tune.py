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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..engine.device import Device, numpy_dtype
from ..engine.errors import InputError, unknown_name
from ..engine.models import get_model
from ..engine.network import Description
from ..engine.passes.autodiff import autodiff
from ..engine.passes.fuse import fuse
from ..engine.precision import PRECISIONS
from ..kernels import registry, spec, tiling
from ..kernels.tiling import Asked, Entry, Machine
from . import compile_cases, tile_tables
from .suites import Layer
from .verify.judge import Question

PASSES = {
    "forward": "conv2d",
    "forward+pool": "conv2d_relu_pool",
    "dgrad": "conv2d_dgrad",
    "wgrad": "conv2d_wgrad",
}
TYPES = {  # name → element type and precision
    "bf16": ("bfloat16", "ieee"),
    "fp16": ("float16", "ieee"),
    "fp32": ("float32", "ieee"),
    "tf32x3": ("float32", "tf32x3"),
    "tf32": ("float32", "tf32"),
}
ROUNDS = 9  # of timed turns; the first is not counted

Watch = Callable[[Callable[[], object]], float]  # a call → microseconds


@dataclass(frozen=True)
class Task:
    """One call to tune; arrays in `arguments` have a shape and a dtype, and no memory."""

    label: str
    function: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class _Shape:
    """An array without memory."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def make(cls, dtype: str, *shape: int) -> _Shape:
        return cls(dtype, shape)


def layer_tasks(
    layers: Sequence[Layer], passes: Sequence[str], types: Sequence[str], batch: int
) -> Iterator[Task]:
    """The passes of some layers, type by type. Raises: InputError for an unknown pass or type."""
    for name in passes:
        if name not in PASSES:
            raise unknown_name("pass", name, PASSES)
    wanted = {PASSES[name] for name in passes}
    for name in types:
        dtype, precision = _type(name)
        for layer in layers:
            made = replace(layer, op=replace(layer.op, precision=precision))
            for label, function, arguments in compile_cases.layer_calls(
                _Shape.make, made, dtype, batch
            ):
                if function in wanted:
                    yield Task(f"{label}: {function}", function, arguments)


def network_tasks(arch: str, batch: int, types: Sequence[str]) -> Iterator[Task]:
    """The calls of a network's training step that have tiles, each once. Raises: InputError."""
    model = get_model(arch)
    flat = (0.0,) * model.input_shape[2]
    classes = tuple(map(str, range(model.classes)))
    description = Description(arch, model.input_shape, classes, flat, flat)
    seen: set[str] = set()
    for name in types:
        dtype, products = _type(name)
        precision = next(p for p, kind in PRECISIONS.items() if kind == dtype)
        graph = replace(description, precision=precision).graph(
            batch, training=True, products=products
        )
        for node in fuse(autodiff(graph)).nodes:
            told = {n: v for n, v in node.arguments.items() if n not in ("config", "workspace")}
            shapes = {n: _shape_of(v) for n, v in told.items()}
            if node.op in tiling.FUNCTIONS and (key := f"{node.op} {shapes}") not in seen:
                seen.add(key)
                yield Task(f"{node.name} {name}: {node.op}", node.op, shapes)


def _type(name: str) -> tuple[str, str]:
    if name not in TYPES:
        raise unknown_name("type", name, TYPES)
    return TYPES[name]


def _shape_of(value: Any) -> Any:
    return _Shape(str(value.dtype), tuple(value.shape)) if hasattr(value, "shape") else value


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
        if not isinstance(value, _Shape):
            return value
        kind = numpy_dtype(value.dtype)
        if value.dtype not in spec.contract.FLOATS:
            return np.zeros(value.shape, kind)
        return rng.standard_normal(value.shape, np.float32).astype(kind)

    return {name: fill(value) for name, value in task.arguments.items()}


def _placed(arguments: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """The arrays on the device; all candidates share them."""
    placed: dict[str, Any] = {}
    for name, value in arguments.items():
        placed[name] = value
        if isinstance(value, np.ndarray):
            placed[name] = device.empty(value.shape, str(value.dtype))
            device.copy_from_host(placed[name], value)
    return placed


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
