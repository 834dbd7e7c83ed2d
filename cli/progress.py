"""What one sees of a training run while it goes: a live bar on a terminal, else a line an epoch."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from ..engine.train import EpochReport, StepReport, Trainer
from . import output

Report = Callable[[StepReport | EpochReport], None]


@contextlib.contextmanager
def display(trainer: Trainer) -> Iterator[Report]:
    """A function that takes the trainer's reports and shows them on stderr."""
    if not sys.stderr.isatty():
        yield _plain
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
        begun, first = time.monotonic(), trainer.progress.step

        def report(told: StepReport | EpochReport) -> None:
            if isinstance(told, EpochReport):
                bar.console.print(epoch_line(told))
                return
            done = told.step
            left = (time.monotonic() - begun) / (done - first) * (told.total_steps - done)
            bar.update(
                task, completed=done,
                description=f"epoch {told.epoch + 1}/{trainer.config.epochs}",
                figures=f"loss {told.loss:.4f}  accuracy {output.percent(told.accuracy)}  "
                f"{told.images_per_second:.0f} images/s  {output.duration(left)} left",
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


def _plain(told: StepReport | EpochReport) -> None:
    if isinstance(told, EpochReport):
        output.note(epoch_line(told))
