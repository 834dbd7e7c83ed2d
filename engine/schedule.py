"""Learning-rate schedules: pure functions of the step, so a resumed run continues exactly.

A schedule maps (step, total steps) to a factor in [0, 1] that multiplies the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .errors import unknown_name

Schedule = Callable[[int, int], float]
WARMUP_SHARE = 0.05


def constant(step: int, total: int) -> float:
    """Always 1."""
    return 1.0


def cosine(step: int, total: int) -> float:
    """Linear warm-up over the first 5 % of the steps, then half a cosine down to 0.

    Loshchilov & Hutter 2017 (SGDR), without restarts.
    """
    warmup = max(1, round(WARMUP_SHARE * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def step_down(step: int, total: int) -> float:
    """1, then 0.1 from the middle on, then 0.01 for the last quarter."""
    share = step / max(1, total)
    return 1.0 if share < 0.5 else 0.1 if share < 0.75 else 0.01


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "step": step_down}


def get_schedule(name: str) -> Schedule:
    """The schedule called `name`. Raises: InputError."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    return SCHEDULES[name]
