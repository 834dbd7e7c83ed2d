"""Verifies backends: makes the calls of a suite, one after the other, and judges them.

`run` yields a row a call; `summary` adds rows up. The quick suite tries every nasty shape in one
type and some real layers (another choice with every seed); the full one tries all in all types.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.device import Device
from ...engine.errors import InputError, unknown_name
from ...kernels import registry, spec
from . import shapes
from .calls import BUILDERS
from .draw import PRECISIONS, Draw
from .judge import Question, Verdict

KINDS = ("float32", "float16", "bfloat16")
PRODUCTS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad", "conv2d_relu_pool")  # have a precision
UPDATES = ("sgd_update", "adamw_update", "loss_scale")
Row = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """How much is tried: None is all.

    `nasty` and `real` are numbers of geometries for each function, `pixels` the largest image of a
    real layer, `cost` the most multiply-adds of one call. `aimed_first`: of few nasty geometries,
    those that are aimed at one way of a kernel.
    """

    name: str
    nasty: int | None
    real: int | None
    pixels: int
    cost: float
    every_kind: bool
    aimed_first: bool = False


SUITES = {
    "quick": Suite("quick", None, 6, 28, 3e7, False),
    "full": Suite("full", None, None, 224, 4e9, True),
}
INTERPRETED = {  # a launch takes a million times as long
    "quick": Suite("quick", None, 2, 6, 2e6, False),
    "full": Suite("full", None, 6, 9, 2e7, False),
}
FULL_BATCH, QUICK_BATCH = 2, 1


def get_suite(name: str, device: str) -> Suite:
    """The suite called `name` for a kind of device. Raises: InputError."""
    suites = INTERPRETED if device == "interpreter" else SUITES
    if name not in suites:
        raise unknown_name("suite", name, suites)
    return suites[name]


def pick_functions(wanted: str | None) -> tuple[str, ...]:
    """The contract functions of "conv,max_pool2d": by name, else by file. Raises: InputError."""
    if wanted is None:
        return tuple(spec.CONTRACTS)
    modules = {f.module for f in spec.CONTRACTS.values()}  # type: ignore[attr-defined]
    picked: list[str] = []
    for word in map(str.strip, wanted.split(",")):
        if not word:
            raise InputError(f"--ops {wanted!r}: a name is missing; write them like conv2d,pool")
        if word in spec.CONTRACTS:
            picked.append(word)
        elif word in modules:
            picked += [n for n, f in spec.CONTRACTS.items() if f.module == word]  # type: ignore[attr-defined]
        else:
            raise unknown_name("op", word, sorted({*spec.CONTRACTS, *modules}))
    return tuple(dict.fromkeys(picked))


def kinds_of(function: str, device: str) -> tuple[str, ...]:
    """The types and precisions in which a function is tried on a kind of device."""
    if function in UPDATES:
        return ("float32",)
    if device != "cpu" and function in PRODUCTS:
        return (*KINDS, *PRECISIONS)
    return KINDS


def geometries(function: str, suite: Suite, seed: int) -> list[tuple[str, shapes.Geometry]]:
    """(label, geometry) of every call of a function, nasty ones first; random where not all."""
    kind = shapes.family(function)
    batch = FULL_BATCH if suite.every_kind else QUICK_BATCH
    rng = np.random.default_rng([seed, *function.encode()])
    found: list[tuple[str, shapes.Geometry]] = []
    for made, count in (
        (shapes.NASTY[kind], suite.nasty),
        (shapes.real(kind, batch, suite.pixels), suite.real),
    ):
        fitting = [
            (name, geometry) for name, geometry in made.items()
            if geometry.cost <= suite.cost
            and function in (shapes.aim(geometry).functions or (function,))
        ]  # fmt: skip
        if count is not None:
            fitting = [fitting[i] for i in rng.permutation(len(fitting))]
            if suite.aimed_first:
                fitting.sort(key=lambda item: not shapes.aim(item[1]).functions)
        found += fitting[:count]
    return found


def calls(
    function: str, suite: Suite, seed: int, device: str
) -> Iterator[tuple[str, shapes.Geometry, tuple[str, ...]]]:
    """(label, geometry, types) of every call of a function on a kind of device.

    The types and precisions that are fit for it come in another order with each call and seed.
    """
    all_kinds = kinds_of(function, device)
    for number, (label, geometry) in enumerate(geometries(function, suite, seed)):
        wanted = shapes.aim(geometry).kinds
        kinds = tuple(kind for kind in all_kinds if kind in wanted) or all_kinds
        first = (number + seed) % len(kinds)
        yield label, geometry, (*kinds[first:], *kinds[:first])


def run(
    device: Device,
    functions: Sequence[str],
    suite: Suite,
    seed: int,
    *,
    until: Callable[[], float] = lambda: float("inf"),
) -> Iterator[Row]:
    """Judge every call on every backend of the device; a row each.

    What `until` (seconds left) does not allow any more is told as "not reached", once a function.
    """
    for function in functions:
        if function not in BUILDERS:
            yield _no_call(function, "failed", "-", "verify knows no call of it")
            continue
        for label, geometry, kinds in calls(function, suite, seed, device.name):
            if until() <= 0:
                yield _no_call(function, "not reached", label, "the time is over")
                break
            yield from _judge(device, function, label, geometry, kinds, seed, suite.every_kind)


def _judge(
    device: Device, function: str, label: str, geometry: shapes.Geometry, kinds: Sequence[str],
    seed: int, every_kind: bool,
) -> Iterator[Row]:  # fmt: skip
    """Each backend in the first type that it takes, or in every type.

    Where there is no GPU, it chooses as for one of the size that the geometry is aimed at.
    """
    done: set[str] = set()
    for kind in kinds:
        waiting = [name for name in device.backends if name not in done]
        if not waiting:
            return
        arguments = BUILDERS[function](Draw(seed, f"{function}/{label}", kind), geometry)
        if arguments is None:
            return
        question = Question(function, arguments)
        for name in waiting:
            begun, backend = time.perf_counter(), registry.load(name)
            with backend.pretended(shapes.aim(geometry).processors):
                verdict = question.judge(backend, device=device)
            if verdict.state != "not taken" and not every_kind:
                done.add(name)
            took = time.perf_counter() - begun
            yield _row(function, label, kind, name, arguments, verdict, took)


def _no_call(function: str, state: str, case: str, told: str) -> Row:
    nothing = dict.fromkeys(("algorithm", "output", "rms", "allowed", "ulps"))
    row = {"function": function, "case": case, "kind": "-", "backend": "-", "state": state}
    return {**row, "told": told, "tile": {}, "shapes": {}, "seconds": 0.0, **nothing}


def _row(
    function: str, label: str, kind: str, backend: str, arguments: dict[str, Any],
    verdict: Verdict, seconds: float,
) -> Row:  # fmt: skip
    worst, config = verdict.worst, verdict.config
    shapes_of = {n: list(v.shape) for n, v in arguments.items() if isinstance(v, np.ndarray)}
    output, told = worst or (None, None)
    return {
        "function": function, "case": label, "kind": kind, "backend": backend,
        "state": verdict.state, "told": verdict.told,
        "algorithm": config.algorithm if config else None,
        "tile": dict(config.tile) if config else {},
        "shapes": shapes_of, "output": output,
        "rms": told.rms if told else None,
        "allowed": told.allowed if told else None,
        "ulps": told.ulps if told else None,
        "seconds": seconds,
    }  # fmt: skip


def used(row: Row) -> float:
    """Which share of what is allowed a row uses; 0 for one without figures."""
    if row.get("rms") is None:
        return 0.0
    return row["rms"] / row["allowed"] if row["allowed"] else float(row["rms"] > 0)


def worst_rows(rows: Iterable[Row]) -> list[tuple[Row, int, int]]:
    """One row for each function and backend: a failed one, else the nearest to its limit.

    With it stand how many calls it speaks for and how many of them failed. Calls that were not
    taken are not among them.
    """
    key: Callable[[Row], tuple[str, str]] = lambda r: (r["function"], r["backend"])  # noqa: E731
    taken = sorted((r for r in rows if r["state"] in ("passed", "failed")), key=key)
    found = []
    for _, group in itertools.groupby(taken, key):
        members = list(group)
        worst = max(members, key=lambda r: (r["state"] == "failed", used(r)))
        failed = sum(row["state"] == "failed" for row in members)
        found.append((worst, len(members), failed))
    return found


def refusals(rows: Iterable[Row]) -> list[tuple[str, str, list[str], int]]:
    """(backend, reason, functions, calls) of all that was not taken or not reached."""
    found: dict[tuple[str, str], tuple[dict[str, None], list[None]]] = {}
    for row in rows:
        if row["state"] in ("not taken", "not reached"):
            reason = row["told"].replace(f"has no {row['function']}", "has none")
            functions, calls = found.setdefault((row["backend"], reason), ({}, []))
            functions[row["function"]] = None
            calls.append(None)
    return [(*key, list(functions), len(calls)) for key, (functions, calls) in found.items()]


def summary(rows: Sequence[Row]) -> dict[str, int]:
    """How many calls passed, failed, were not taken, and were not reached."""
    states = ("passed", "failed", "not taken", "not reached")
    return {state: sum(row["state"] == state for row in rows) for state in states}
