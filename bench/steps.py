"""Where the time of a step goes: each call of a plan timed by itself, in the order of the plan.

For the CPU: on a GPU calls return before they are done. Each call finds the caches as in a step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.ir import Node
from ..engine.runner import LR, STEP
from .our_side import LR as RATE
from .our_side import OurSide

FEWEST_PASSES = 5
Row = dict[str, Any]


def measure(side: OurSide, mode: str, seconds: float) -> list[Row]:
    """A row for each call of a step, after at least FEWEST_PASSES of them in about `seconds`.

    layer, op, backend, algorithm, output (shape), seconds (median), share (of their sum), flops
    (2 a multiply-add) and gflops (a second, None where a call only moves data). A step begins with
    `feed`, the batch on its way in, and in training ends with `update`.
    """
    calls = _calls(side, mode)
    taken: list[list[float]] = []
    with side.device.session():
        for _, call in calls:  # threads are awake, memory is there
            call()
        until = time.perf_counter() + seconds
        while len(taken) < FEWEST_PASSES or time.perf_counter() < until:
            clock = [time.perf_counter()]
            for _, call in calls:
                call()
                clock.append(time.perf_counter())
            taken.append([end - begun for begun, end in itertools.pairwise(clock)])
    medians = [float(v) for v in np.median(taken, axis=0)]
    whole = sum(medians)
    return [_row(what, spent, whole) for (what, _), spent in zip(calls, medians, strict=True)]


def _calls(side: OurSide, mode: str) -> list[tuple[Node | str, Callable[[], object]]]:
    network = side.networks[mode]
    plan = network.training[side.setting.batch] if mode == "train" else network.inference
    assert plan is not None
    inputs = side.batch.inputs if mode == "train" else network.inputs_of(side.setting.x)
    if network.scaled and mode == "train":
        inputs = inputs | {"grad_scale": np.array([side.progress.loss_scale])}
    calls: list[tuple[Node | str, Callable[[], object]]] = [
        ("feed", lambda: plan.feed(inputs, lr=RATE)),
        *plan.steps,
    ]
    if mode == "train":
        scale = plan.fed["grad_scale"] if network.scaled else None
        told = plan.fed[LR], plan.fed[STEP], scale
        calls.append(("update", lambda: side.optimizer.launch(*told)))
    return calls


def _row(what: Node | str, seconds: float, whole: float) -> Row:
    row: Row = {"seconds": seconds, "share": seconds / whole if whole else 0.0}
    if isinstance(what, str):
        return {"layer": what, "op": what, "backend": "", "algorithm": "", "output": [],
                **row, "flops": 0, "gflops": None}  # fmt: skip
    assert what.choice is not None
    flops = what.flops()
    return {
        "layer": what.name, "op": what.op, "backend": what.choice.backend,
        "algorithm": what.choice.config.algorithm, "output": list(what.writes[0].shape), **row,
        "flops": flops, "gflops": flops / seconds / 1e9 if flops and seconds else None,
    }  # fmt: skip


def by_kernel(rows: Sequence[Row]) -> list[Row]:
    """The rows of each op on each backend by each algorithm as one, longest first."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row["op"], row["backend"], row["algorithm"]
        empty = {"calls": 0, "seconds": 0.0, "share": 0.0, "flops": 0}
        total = found.setdefault(
            key, dict(zip(("op", "backend", "algorithm"), key, strict=True)) | empty
        )
        total["calls"] += 1
        for name in ("seconds", "share", "flops"):
            total[name] += row[name]
    for total in found.values():
        busy = total["flops"] and total["seconds"]
        total["gflops"] = total["flops"] / total["seconds"] / 1e9 if busy else None
    return sorted(found.values(), key=lambda total: -total["seconds"])
