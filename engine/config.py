"""The settings of a training run, and the rules for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run (and the device, which decides the speed)."""

    arch: str = "vgg-small"
    data: str = "fashion-mnist-mini"
    epochs: int = 15
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    schedule: str = "cosine"
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    shift: int = 2
    flip: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    kernels: str = "auto"

    def check(self) -> None:
        """Check every number on its own. Raises: InputError."""
        for name, ok, rule in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "a positive number"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or a positive number"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("seed", 0 <= self.seed < 2**64, "in [0, 2^64)"),
            ("shift", self.shift >= 0, "at least 0"),
        ):
            if not ok:
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(self, name)}"
                )


def default_run_folder(config: TrainConfig) -> Path:
    """runs/ARCH-DATA-N, N the first number that is free."""
    stem = f"{config.arch}-{Path(config.data).name}"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"
