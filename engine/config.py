"""The settings of a training run, and the rules for each of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import InputError, unknown_name

MOST_THREADS = 1024


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run (and the device, which decides the speed)."""

    arch: str = "vgg-small"
    data: str = "fashion-mnist-mini"
    epochs: int = 15
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.04
    momentum: float = 0.9
    schedule: str = "cosine"
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    shift: int = 1
    flip: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    image_size: str = ""  # "28" or "24x32" (height x width); "": as the images are
    skip_bad: bool = False
    images: int = 0  # 0: all
    device: str = "auto"
    kernels: str = "auto"
    graph: bool = True
    threads: int = 0  # 0: one a core
    energy_country: str = ""  # three letters; "": the world's average
    stop_above_wh: float = 0.0  # 0: no limit

    def check(self) -> None:
        """Check every setting on its own. Raises: InputError."""
        parse_image_size(self.image_size)
        for name, ok, rule in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "a positive number"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or a positive number"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("seed", 0 <= self.seed < 2**64, "in [0, 2^64)"),
            ("shift", self.shift >= 0, "at least 0"),
            ("images", self.images >= 0, "at least 0"),
            ("stop_above_wh", 0 <= self.stop_above_wh < math.inf, "0 or a positive number"),
            ("threads", 0 <= self.threads <= MOST_THREADS, f"in [0, {MOST_THREADS}]"),
        ):
            if not ok:
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(self, name)}"
                )


# how long, how fast, and how it is accounted for
RESUME_MAY_CHANGE = (
    "epochs", "device", "kernels", "graph", "threads", "energy_country", "stop_above_wh",
)  # fmt: skip

_KINDS = {f.name: dict if f.name == "options" else type(f.default) for f in fields(TrainConfig)}
_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"
}  # fmt: skip


def default_lr(optimizer: str) -> float:
    """The learning rate of an optimizer when none is given."""
    return {"adamw": 1e-3}.get(optimizer, TrainConfig.lr)


def check_settings(told: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings in `told` under the names of TrainConfig (`batch-size` is `batch_size`).

    Raises: InputError that names `source` for an unknown name or a value of another type.
    """
    checked: dict[str, Any] = {}
    for key, value in told.items():
        name = key.replace("-", "_")
        if name not in _KINDS:
            raise InputError(f"{source}: {unknown_name('setting', key, _KINDS)}")
        if name in checked:
            raise InputError(f"{source}: {key} is set twice")
        kind = _KINDS[name]
        if type(value) is int and kind in (float, str):
            value = kind(value)
        if type(value) is not kind:
            raise InputError(f"{source}: {key} must be {_WORDS[kind]}, not {value!r}")
        checked[name] = value
    return checked


def resolve_config(*sources: Mapping[str, Any]) -> TrainConfig:
    """The configuration of checked settings; later sources beat earlier ones, options one by one.

    Raises: InputError when a value breaks its rule.
    """
    told: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for source in sources:
        told |= source
        options |= source.get("options", {})
    optimizer = told.get("optimizer", TrainConfig.optimizer)
    config = TrainConfig(**{"lr": default_lr(optimizer), **told, "options": options})
    config.check()
    return config


def parse_image_size(text: str) -> tuple[int, int] | None:
    """(height, width) of "28" or "24x32"; None for "". Raises: InputError."""
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise InputError(f"--image-size must be pixels like 28 or HEIGHTxWIDTH, not {text!r}")
    return int(parts[0]), int(parts[-1])


def default_run_folder(config: TrainConfig) -> Path:
    """runs/ARCH-DATA-N, N the first number that is free."""
    arch = Path(config.arch).name.replace(".py:", "-")
    arch = re.sub(r"[^\w.]+", "-", arch)[:40].strip("-")
    stem = f"{arch}-{Path(config.data).name}"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"
