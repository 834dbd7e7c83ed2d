"""`cnnengine eval`: accuracy, a table of classes, and the confusion matrix as a picture."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import InputError
from . import options, output

if TYPE_CHECKING:
    from ..engine.evaluate import Evaluation


@click.command("eval")
@click.argument("run", type=Path)
@click.option("--data", help="Another data set or folder than the one it was trained on.")
@click.option(
    "--split",
    type=click.Choice(["test", "train", "all"]),
    default="test",
    show_default=True,
    help="Which images; all: of a folder every picture, not a fifth.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True,
              help="Images a batch.")  # fmt: skip
@click.option("--image-size", help=options.SETTINGS["image_size"])
@click.option("--skip-bad", is_flag=True, help=options.SETTINGS["skip_bad"])
@options.DEVICE
@options.KERNELS
@click.option("--out", type=Path, help="Where the confusion matrix goes.  "
              "[default: RUN/confusion.png, MODEL-confusion.png]")  # fmt: skip
@options.JSON
def command(
    run: Path, data: str | None, split: str, batch_size: int, image_size: str | None,
    skip_bad: bool, device: str, kernels: str, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the network in RUN (a run folder or a model.safetensors) on images with labels."""
    from ..engine.diagnose import answer_not_finite
    from ..engine.evaluate import evaluate
    from ..engine.plots import plot_confusion
    from .trained import open_data, open_network

    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    network, own = open_network(run, device, kernels, batch_size)
    splits = open_data(run, network, own, data=data, image_size=image_size, skip_bad=skip_bad)
    for skipped in splits.skipped:
        output.warn(f"left out: {skipped}")
    images = splits.whole() if split == "all" else getattr(splits, split)
    begun = time.perf_counter()
    with network.device.session():
        result = evaluate(network, images, lambda n: output.count("measured", n, len(images)))
        if not math.isfinite(result.loss):
            raise answer_not_finite(network, images.images, batch_size)
    seconds = time.perf_counter() - begun
    beside = run / "confusion.png" if run.is_dir() else run.with_name(f"{run.stem}-confusion.png")
    picture = out or beside
    plot_confusion(picture, result.confusion, images.classes)
    if as_json:
        output.print_json(_told(result, images.classes) | {
            "run": str(run), "data": splits.name, "split": split, "images": len(images),
            "images_per_second": len(images) / seconds, "confusion_png": str(picture),
        })  # fmt: skip
        return
    print_classes(result, images.classes)
    kind = "" if split == "all" else f"{split} "
    output.print_facts([
        (f"{kind}accuracy", output.percent(result.accuracy)),
        (f"{kind}loss", output.number(result.loss)),
        ("data", f"{len(images)} {kind}images of {splits.name} ({splits.note})"),
        ("speed", f"{len(images) / seconds:.0f} images/s"),
        ("confusion", picture),
    ])  # fmt: skip


def print_classes(result: Evaluation, classes: tuple[str, ...]) -> None:
    """Precision, recall and count of every class, and what it is most often taken for."""
    counts, precision, recall = result.confusion.sum(axis=1), result.precision(), result.recall()
    rows = []
    for i, name in enumerate(classes):
        wrong = result.confusion[i].copy()
        wrong[i] = 0
        taken = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
        rows.append((
            name, output.percent(precision[i]), output.percent(recall[i]), counts[i], taken,
        ))  # fmt: skip
    columns = ("class", "precision", "recall", "images", "most often taken for")
    output.print_table(columns, rows, left=("class", "most often taken for"))


def _told(result: Evaluation, classes: tuple[str, ...]) -> dict[str, Any]:
    counts, precision, recall = result.confusion.sum(axis=1), result.precision(), result.recall()
    return {
        "accuracy": result.accuracy,
        "loss": result.loss,
        "classes": [
            {"name": name, "precision": float(precision[i]), "recall": float(recall[i]),
             "images": int(counts[i])}
            for i, name in enumerate(classes)
        ],
        "confusion": result.confusion.tolist(),
    }  # fmt: skip
