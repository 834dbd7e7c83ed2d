"""Continuing a run: what must be as it was, and what people are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Progress
from .config import RESUME_MAY_CHANGE, TrainConfig
from .data import Splits
from .errors import InputError


def identity(config: TrainConfig, splits: Splits, code: str) -> dict[str, Any]:
    """What a resumed run must agree with: all that decides the outcome.

    `code` is the digest of the file of the network, "" where it is in none.
    """
    ignored = ("data", *RESUME_MAY_CHANGE)
    told = {k: v for k, v in asdict(config).items() if k not in ignored}
    if code:
        told["code of the network"] = code
    return {**told, "data": splits.name, "content of the data": splits.fingerprint}


def moved(before: str, place: str) -> list[str]:
    """A warning where the run goes on in another place than `before`."""
    if not before or before == place:
        return []
    return [
        f"the run was on {before} before and goes on on {place}: its bits may now differ "
        "from those of a run that stayed"
    ]


def check_epochs(epochs: int, progress: Progress, run: Path) -> None:
    """Require as many epochs as the run has begun. Raises: InputError."""
    begun = progress.epoch + (progress.batch > 0)
    if epochs < begun:
        raise InputError(
            f"--epochs {epochs} is too few to resume {run}, which is in its epoch {begun} already"
        )


def parted(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What a checkpoint holds of the network, and of the optimizer."""
    own = {n: a for n, a in tensors.items() if not n.startswith("optimizer/")}
    state = {n.removeprefix("optimizer/"): a for n, a in tensors.items() if n not in own}
    return own, state
