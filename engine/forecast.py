"""What is left of a run, from what its first steps took: seconds and watt-hours.

    left = steps to come in this stage x what one took
         + operations of the stages to come x seconds an operation

Stages that train more layers cost more, so their operations are counted from their graphs. What an
operation takes is measured in this stage's steps; where the frozen layers run once and steps are
what little is left behind them, in the frozen layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import TrainConfig
from .data import Splits
from .freeze import cut, frozen
from .network import Description
from .passes.autodiff import autodiff
from .stages import Stage
from .work import why_uncached


@dataclass(frozen=True)
class Load:
    """Floating-point operations of a stage: each of its epochs, and what is done `once`."""

    epochs: int
    each: float
    once: float


@dataclass(frozen=True)
class Left:
    """Of a run; `wh` is None where energy is unknown."""

    seconds: float
    wh: float | None


@dataclass(frozen=True)
class Spent:
    """By a session up to some step: seconds, watt-hours (None: unknown)."""

    step: int
    seconds: float
    wh: float | None


class Forecast:
    """Of one session; `loads` are of all stages of the run, in order."""

    def __init__(self, loads: Sequence[Load], steps_per_epoch: int) -> None:
        """Nothing is done yet."""
        self._loads, self._steps = loads, steps_per_epoch
        self._ends = [sum(load.epochs for load in loads[: i + 1]) for i in range(len(loads))]
        self._stage = self._front_seconds = 0
        self._since = Spent(0, 0.0, 0.0)

    def enter(self, stage: int, front_seconds: float, spent: Spent) -> None:
        """Steps of stage number `stage` begin, behind frozen layers that took `front_seconds`."""
        self._stage, self._front_seconds, self._since = stage, front_seconds, spent

    def left(self, spent: Spent) -> Left | None:
        """What the rest of the run takes; None before the first step."""
        since, load = self._since, self._loads[self._stage]
        steps = spent.step - since.step
        if steps <= 0:
            return None
        here = self._ends[self._stage] * self._steps - spent.step
        seconds = (spent.seconds - since.seconds) / steps
        rate = seconds * self._steps / load.each
        if load.once:
            rate = self._front_seconds / load.once
        to_come = self._loads[self._stage + 1 :]
        later = rate * sum(stage.epochs * stage.each + stage.once for stage in to_come)
        if spent.wh is None or since.wh is None:
            return Left(here * seconds + later, None)
        wh = (spent.wh - since.wh) / steps
        return Left(here * seconds + later, here * wh + later * wh / seconds)


def plan_loads(
    description: Description, config: TrainConfig, splits: Splits, stages: Sequence[Stage]
) -> list[Load]:
    """What each stage of a run costs, counted from graphs of one or two images."""
    ends = [*(stage.epoch for stage in stages[1:]), config.epochs]
    trained, tested = len(splits.train), len(splits.test)
    loads = []
    for stage, end in zip(stages, ends, strict=True):
        freeze = stage.freeze
        training = frozen(description.graph(2, training=True), freeze.boundary, freeze.paces)
        infers = frozen(description.graph(1, training=False), freeze.boundary)
        once = 0.0
        if freeze.boundary and not why_uncached(stage, config, splits, description):
            once = (trained + tested) * cut(infers, freeze.boundary)[0].flops()
            training, infers = (cut(g, freeze.boundary)[1] for g in (training, infers))
        each = trained * autodiff(training).flops() / 2 + tested * infers.flops()
        loads.append(Load(end - stage.epoch, each, once))
    return loads
