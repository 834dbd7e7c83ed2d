"""What one sees of a training run while it goes: a live bar on a terminal, else a line an epoch."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator

from ..engine.energy import amount
from ..engine.reports import EpochReport, Note, Report, StepReport
from ..engine.train import Trainer
from . import output


@contextlib.contextmanager
def display(trainer: Trainer) -> Iterator[Report]:
    """A function that takes the trainer's reports and shows them on stderr."""
    forecast = Forecast(trainer)
    if not sys.stderr.isatty():
        yield functools.partial(_plain, forecast)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
        TextColumn("{task.fields[figures]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task(
            "starting", total=trainer.total_steps, completed=trainer.progress.step, figures=""
        )

        def report(told: StepReport | EpochReport | Note) -> None:
            if not isinstance(told, StepReport):
                for line in _lines(forecast, told):
                    bar.console.print(line)
                return
            seconds = trainer.account.seconds_left(told.step)
            left = "" if seconds is None else f"  {output.duration(seconds)} left"
            bar.update(
                task, completed=told.step,
                description=f"epoch {told.epoch + 1}/{trainer.config.epochs}",
                figures=f"loss {told.loss:.4f}  accuracy {output.percent(told.accuracy)}  "
                f"{told.images_per_second:.0f} images/s{left}",
            )  # fmt: skip

        yield report


def epoch_line(told: EpochReport) -> str:
    """One epoch's figures on one line."""
    return (
        f"epoch {told.epoch + 1}/{told.epochs}  loss {told.train_loss:.4f}  "
        f"accuracy {output.percent(told.train_accuracy)}  test loss {told.test_loss:.4f}  "
        f"test accuracy {output.percent(told.test_accuracy)}  "
        f"{told.images_per_second:.0f} images/s  {output.duration(told.seconds)}"
    )


class Forecast:
    """What the whole run will use, told once: after this session's first epoch."""

    def __init__(self, trainer: Trainer) -> None:
        """Of this run."""
        self._meter, self._limit = trainer.account.meter, trainer.config.stop_above_wh
        self._told = False

    def lines(self, told: EpochReport) -> list[str]:
        """The line after the first epoch, if others follow."""
        first, self._told = not self._told, True
        if not first or told.epoch + 1 == told.epochs:
            return []
        if told.forecast_wh is None:
            return [f"forecast: the energy of the run is unknown ({self._meter.read().sources()})"]
        grams = told.forecast_wh * self._meter.intensity.grams / 1000
        line = (
            f"forecast: all {told.epochs} epochs use about {amount(told.forecast_wh)} Wh, "
            f"{amount(grams)} g CO2 (estimated)"
        )
        if self._limit and told.forecast_wh > self._limit:
            line += f"; the run will stop above {self._limit:g} Wh"
        return [line]


def _lines(forecast: Forecast, told: EpochReport | Note) -> list[str]:
    return [told.text] if isinstance(told, Note) else [epoch_line(told), *forecast.lines(told)]


def _plain(forecast: Forecast, told: StepReport | EpochReport | Note) -> None:
    if not isinstance(told, StepReport):
        for line in _lines(forecast, told):
            output.note(line)
