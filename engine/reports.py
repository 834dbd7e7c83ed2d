"""What a training run tells while it goes and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .energy import Energy
from .savings import Savings


@dataclass(frozen=True)
class StepReport:
    """What one training step did; `loss` is the batch's mean, `images_per_second` this step's."""

    epoch: int
    step: int
    total_steps: int
    loss: float
    accuracy: float
    lr: float
    images_per_second: float


@dataclass(frozen=True)
class EpochReport:
    """What one epoch did; train figures are means over its steps (dropout on)."""

    epoch: int
    epochs: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float
    energy_wh: float | None  # of the run so far; None: unknown
    forecast_wh: float | None  # of the whole run


@dataclass(frozen=True)
class Note:
    """Something that happened between steps, in one line for people."""

    text: str


@dataclass(frozen=True)
class Summary:
    """The outcome of a run; times and rates are of this session (a resumed run counts anew)."""

    run: str
    finished: bool
    epochs: int
    steps: int
    test_accuracy: float | None
    test_loss: float | None
    best_accuracy: float | None
    parameters: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    memory_plan: str
    device_memory_mb: float | None  # of a GPU's arena
    energy: Energy  # of all sessions
    savings: Savings | None  # where layers were frozen


Report = Callable[[StepReport | EpochReport | Note], None]
