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
FOLDER_LR = 0.01  # few pictures make few steps, of which larger ones blow up
UPRIGHT = ("mnist",)  # data sets that a mirror spoils


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
    init_from: str = ""  # a run folder or a file of weights
    freeze_until: str = ""  # a layer; "": nothing is frozen
    unfreeze_at: str = ""  # "5:fire8 8:fire6": from that epoch on, that layer and all behind it
    lower_lr: float = 1.0
    mean: str = ""  # of each channel, in units of 0 … 1: "0.485 0.456 0.406"; "": of the data
    std: str = ""
    cache_dir: str = ""
    cache_gb: float = 4.0
    device: str = "auto"
    kernels: str = "auto"
    graph: bool = True
    threads: int = 0  # 0: one a core
    energy_country: str = ""  # three letters; "": the world's average
    stop_above_wh: float = 0.0  # 0: no limit

    def check(self) -> None:
        """Check every setting on its own. Raises: InputError."""
        parse_image_size(self.image_size)
        parse_channels(self.mean, "--mean")
        parse_channels(self.std, "--std", least=0.0)
        self._check_stages()
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
            ("lower_lr", 0 < self.lower_lr <= 1, "above 0 and at most 1"),
            ("cache_gb", 0 <= self.cache_gb < math.inf, "0 or a positive number"),
            ("threads", 0 <= self.threads <= MOST_THREADS, f"in [0, {MOST_THREADS}]"),
        ):
            if not ok:
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(self, name)}"
                )

    def _check_stages(self) -> None:
        stages = parse_unfreeze(self.unfreeze_at)
        if stages and not self.freeze_until:
            raise InputError(f"--unfreeze-at {self.unfreeze_at} needs --freeze-until")
        before = 1
        for epoch, layer in stages:
            if not before < epoch <= self.epochs:
                raise InputError(
                    f"--unfreeze-at {epoch}:{layer}: the epoch must be in {before + 1} … "
                    f"{self.epochs}, the last"
                )
            before = epoch


# how long, how fast, how it is accounted for, and where things are kept on the way
RESUME_MAY_CHANGE = (
    "epochs", "device", "kernels", "graph", "threads", "energy_country", "stop_above_wh",
    "cache_dir", "cache_gb",
)  # fmt: skip

_KINDS = {f.name: dict if f.name == "options" else type(f.default) for f in fields(TrainConfig)}
_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"
}  # fmt: skip


def default_lr(optimizer: str, *, folder: bool = False) -> float:
    """The learning rate of an optimizer when none is given; of sgd a lower one for a folder."""
    return {"adamw": 1e-3}.get(optimizer, FOLDER_LR if folder else TrainConfig.lr)


def default_flip(data: str) -> bool:
    """Whether images of a data set are mirrored when nobody says; digits are not."""
    return data not in UPRIGHT


def _is_folder(data: str) -> bool:
    from .data import REGISTRY  # here: it loads NumPy, which no help text needs

    return data not in REGISTRY and Path(data).is_dir()


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
    data = told.get("data", TrainConfig.data)
    lr = default_lr(told.get("optimizer", TrainConfig.optimizer), folder=_is_folder(data))
    flip = default_flip(data)
    config = TrainConfig(**{"lr": lr, "flip": flip, **told, "options": options})
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


def parse_unfreeze(text: str) -> list[tuple[int, str]]:
    """(epoch, counted from 1; layer) for each word of "5:fire8 8:fire6". Raises: InputError."""
    stages = []
    for word in text.split():
        epoch, colon, layer = word.partition(":")
        if not (colon and layer and epoch.isascii() and epoch.isdigit()):
            raise InputError(f"--unfreeze-at must be EPOCH:LAYER, like 5:fire8, not {word!r}")
        stages.append((int(epoch), layer))
    return stages


def parse_channels(text: str, option: str, least: float = -math.inf) -> tuple[float, ...] | None:
    """One number a channel, from "0.485 0.456 0.406", each above `least`; None for "".

    Raises: InputError.
    """
    if not text:
        return None
    try:
        numbers = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if not numbers or not all(math.isfinite(n) and n > least for n in numbers):
        rule = "numbers" if least < 0 else f"numbers above {least:g}"
        raise InputError(f"{option} must be {rule}, one a channel, not {text!r}")
    return numbers


def default_run_folder(config: TrainConfig) -> Path:
    """runs/ARCH-DATA-N, N the first number that is free."""
    arch = Path(config.arch).name.replace(".py:", "-")
    arch = re.sub(r"[^\w.]+", "-", arch)[:40].strip("-")
    stem = f"{arch}-{Path(config.data).name}"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"
