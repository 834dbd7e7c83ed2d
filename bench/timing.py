"""Timing: candidates take turns, round after round, so that all see the same machine.

What the next candidate finds is what the last one left: caches full of other data, and threads
that still spin for work that does not come (torch's OpenMP threads were seen to take up to 5 ms of
a processor after a convolution, here on a Xeon of family 6 model 207). So every turn waits until
all threads of the process sleep and begins with a call that is not counted, and every round begins
with another candidate. Results are medians with quartiles, in seconds a call.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SETTLE_SECONDS = 0.1  # wait at most that long until the process is idle
LOOK_SECONDS, IDLE = 0.001, 0.25  # idle: threads run for less than that share of a look
SAMPLE_SECONDS = 0.002  # a turn's counted calls last at least this long
LONG_SECONDS = 0.25  # calls longer than this fill their own caches: no uncounted one before them
FEWEST_ROUNDS, MOST_ROUNDS = 5, 100
STABLE = 0.05  # warm until the best of the last calls is within this share of the best before
WARM_CALLS = 20


@dataclass(frozen=True)
class Candidate:
    """One way to do the work. `session` is open during its turns and not timed."""

    name: str
    call: Callable[[], object]
    session: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext


@dataclass(frozen=True)
class Timing:
    """Seconds a call: of `rounds` samples, each the mean of `calls` calls.

    `best` is the smallest sample: where other work disturbs a machine, the nearest to the truth.
    `cpu` is the median of the processor seconds that all threads of the process took.
    """

    median: float
    q1: float
    q3: float
    best: float
    cpu: float
    rounds: int
    calls: int

    @classmethod
    def of(cls, samples: Sequence[tuple[float, float]], calls: int) -> Timing:
        """The summary of `samples`: (seconds, processor seconds) a call."""
        wall, cpu = zip(*samples, strict=True)
        q1, median, q3 = (float(v) for v in np.percentile(wall, (25, 50, 75)))
        return cls(median, q1, q3, min(wall), float(np.median(cpu)), len(samples), calls)


def _timed(call: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    cpu, begun = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    seconds = time.perf_counter() - begun
    return seconds / calls, (time.process_time() - cpu) / calls


def settle() -> None:
    """Wait until no thread of this process runs, or `SETTLE_SECONDS` are over."""
    until = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < until:
        before = time.process_time()
        time.sleep(LOOK_SECONDS)
        if time.process_time() - before < IDLE * LOOK_SECONDS:
            return


def warm(candidate: Candidate, seconds: float) -> float:
    """Call until the time is stable or `seconds` (at least two calls) are over; the best time."""
    best, until = math.inf, time.perf_counter() + seconds
    with candidate.session():
        for count in range(1, WARM_CALLS + 1):
            took, _ = _timed(candidate.call)
            stable = count > 2 and took > best * (1 - STABLE)
            best = min(best, took)
            if count >= 2 and (stable or time.perf_counter() > until):
                break
    return best


def _turn(candidate: Candidate, calls: int, lead: bool) -> tuple[float, float]:
    with candidate.session():
        settle()
        if lead:
            candidate.call()
        return _timed(candidate.call, calls)


def measure(
    candidates: Sequence[Candidate],
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    sample: float | None = None,
) -> dict[str, Timing]:
    """Name → timing, from interleaved rounds of about `seconds` for each candidate.

    `rounds` sets the number of rounds instead; otherwise it is between 5 and 100. A turn's counted
    calls last at least `sample` seconds (None: SAMPLE_SECONDS).
    """
    estimates = {c.name: warm(c, seconds / 4) for c in candidates}
    calls = {
        name: max(1, math.ceil((SAMPLE_SECONDS if sample is None else sample) / t))
        for name, t in estimates.items()
    }
    leads = {name: t < LONG_SECONDS for name, t in estimates.items()}
    if rounds is None:
        turns = (LOOK_SECONDS + t * (calls[n] + leads[n]) for n, t in estimates.items())
        fitting = int(seconds * len(candidates) / max(sum(turns), 1e-9))
        rounds = min(max(fitting, FEWEST_ROUNDS), MOST_ROUNDS)
    samples: dict[str, list[tuple[float, float]]] = {c.name: [] for c in candidates}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(candidates)
            for c in (*candidates[first:], *candidates[:first]):
                samples[c.name].append(_turn(c, calls[c.name], leads[c.name]))
    finally:
        if was_enabled:
            gc.enable()
    return {name: Timing.of(taken, calls[name]) for name, taken in samples.items()}
