"""What `cnnengine train` tells at its end."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import output

if TYPE_CHECKING:
    from ..engine.checkpoint import RunFolder
    from ..engine.savings import Savings
    from ..engine.train import Summary, Trainer

MOST_ROWS = 12  # epochs in the table


def sum_up(trainer: Trainer, summary: Summary, as_json: bool) -> None:
    """Draw the curves of a run, and print its epochs and figures, or one JSON object."""
    from ..engine.plots import plot_confusion, plot_curves

    folder = trainer.folder
    steps, epochs = folder.history()
    if epochs:
        plot_curves(folder.curves, steps, epochs)
    if trainer.evaluation is not None:
        plot_confusion(folder.confusion, trainer.evaluation.confusion, trainer.splits.test.classes)
    if as_json:
        output.print_json({
            **asdict(summary), "config": asdict(trainer.config), "history": epochs,
        })  # fmt: skip
    _print_epochs(epochs, stderr=as_json)
    output.print_facts(_facts(folder, summary), stderr=as_json)


def _print_epochs(epochs: list[dict[str, Any]], *, stderr: bool) -> None:
    """At most MOST_ROWS epochs, evenly spread, the last among them."""
    if not epochs:
        return
    step = -(-len(epochs) // MOST_ROWS)
    shown = epochs[::-1][::step][::-1]
    output.print_table(
        ("epoch", "train loss", "train accuracy", "test loss", "test accuracy", "images/s"),
        (
            (
                e["epoch"] + 1, output.number(e["train_loss"]), output.percent(e["train_accuracy"]),
                output.number(e["test_loss"]), output.percent(e["test_accuracy"]),
                f"{e['images_per_second']:.0f}",
            )
            for e in shown
        ),
        title=f"Epochs ({len(shown)} of {len(epochs)} shown)" if step > 1 else "Epochs",
        stderr=stderr,
    )  # fmt: skip


def _facts(folder: RunFolder, summary: Summary) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("test accuracy", output.percent(summary.test_accuracy)),
        ("test loss", output.number(summary.test_loss)),
        ("best accuracy", best_line(folder, summary)),
        ("speed", _speed(summary)),
        ("time", output.duration(summary.seconds)),
        ("peak memory", f"{summary.peak_memory_mb:.0f} MB"),
        ("memory plan", summary.memory_plan),
        *(
            [("GPU memory", f"{summary.device_memory_mb:.0f} MB in one arena")]
            if summary.device_memory_mb is not None
            else []
        ),
        ("energy", summary.energy),
        ("", summary.energy.sources()),
        ("parameters", f"{summary.parameters:,}"),
        *_spared(summary.savings),
        ("run folder", folder.path),
    ]
    if summary.finished:
        facts.append(("next", f"cnnengine eval {folder.path}"))
    return facts


def best_line(folder: RunFolder, summary: Summary) -> str:
    """The best accuracy on test images and, if it was not the last, what makes a model of it."""
    best, last = summary.best_accuracy, summary.test_accuracy
    if best is None or last is None or best <= last or not folder.best.exists():
        return output.percent(best)
    return f"{output.percent(best)}; cnnengine import {folder.best} --out MODEL.safetensors"


def _speed(summary: Summary) -> str:
    if summary.finished and not summary.images_per_second:
        return "nothing was left to train; a larger number of --epochs goes on"
    return f"{summary.images_per_second:.0f} images/s"


def _spared(savings: Savings | None) -> list[tuple[str, object]]:
    """What freezing layers spared beside training all of them."""
    from ..engine.energy import amount

    if savings is None or not savings.multiply_adds_all:
        return []
    work = 1 - savings.multiply_adds / savings.multiply_adds_all
    spent, whole = (output.scaled(n) for n in (savings.multiply_adds, savings.multiply_adds_all))
    told: list[tuple[str, object]] = [
        ("work spared", f"{work:.1%}: {spent} of {whole} multiply-adds of training every layer"),
    ]
    if savings.seconds_all > savings.seconds:
        less, much = savings.seconds_all - savings.seconds, savings.seconds_all
        told.append((
            "time spared", f"about {output.duration(less)} of {output.duration(much)} (estimated)"
        ))  # fmt: skip
    if savings.energy_wh is not None and savings.energy_wh > 0:
        told.append(("energy spared", f"about {amount(savings.energy_wh)} Wh (estimated)"))
    return told
