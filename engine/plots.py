"""Pictures of a run: curves of loss and accuracy, and the confusion matrix, as PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from . import files

DPI = 120
TRAIN, TEST = "#1b6ca8", "#c8553d"
MOST_NUMBERED = 25  # classes; beyond, cells are too small to hold a number
LABEL_LENGTH = 18  # characters of a class name


def plot_curves(
    path: Path, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]
) -> None:
    """Loss and accuracy over the epochs, from the records of metrics.jsonl.

    The thin line is each step's loss, smoothed over a twentieth of an epoch. Raises: InputError.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = np.array([e["epoch"] + 1 for e in epochs])
    if steps:
        per_epoch = max(1, len(steps) // (steps[-1]["epoch"] - steps[0]["epoch"] + 1))
        loss = _smooth(np.array([s["loss"] for s in steps]), per_epoch // 20)
        position = steps[0]["epoch"] + np.arange(1, len(loss) + 1) / per_epoch
        left.plot(position, loss, color=TRAIN, alpha=0.35, linewidth=0.8, label="train, each step")
    for axes, name in ((left, "loss"), (right, "accuracy")):
        for split, colour in (("train", TRAIN), ("test", TEST)):
            axes.plot(at, [e[f"{split}_{name}"] for e in epochs], color=colour, marker="o",
                      markersize=3.5, label=split)  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel("cross-entropy" if name == "loss" else "accuracy")
        axes.set_title(name.capitalize())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    left.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _save(figure, path)


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """A running mean over `width` values, shorter at both ends."""
    if width < 2:
        return values
    window = np.ones(width)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def plot_confusion(path: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """The confusion matrix int64[true, predicted]; colour is the share of the true class.

    Raises: InputError.
    """
    count = len(classes)
    side = min(20.0, max(4.5, 0.55 * count + 2.5))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    share = confusion / totals
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    every = math.ceil(count / 60)  # class names that fit on an axis
    shown = range(0, count, every)
    names = [_short(classes[i]) for i in shown]
    axes.set_xticks(shown, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(shown, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{confusion.trace() / max(1, confusion.sum()):.2%} of {confusion.sum()} right")
    if count <= MOST_NUMBERED:
        _write_counts(axes, confusion, share)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _save(figure, path)


def _write_counts(axes: Axes, confusion: np.ndarray, share: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(confusion):
        if value:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(value), ha="center", va="center", color=colour, fontsize=8)


def _short(name: str) -> str:
    """A class name that fits beside an axis; `$` would be read as mathematics."""
    name = name.replace("$", r"\$")
    return name if len(name) <= LABEL_LENGTH else f"{name[: LABEL_LENGTH - 1]}…"


def _save(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    picture = io.BytesIO()
    canvas.print_figure(picture, format="png", dpi=DPI, metadata={"Software": "cnnengine"})
    files.write_bytes(path, picture.getvalue())
