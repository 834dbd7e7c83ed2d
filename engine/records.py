"""What a run writes while it goes: a line a step and an epoch, and checkpoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from .checkpoint import Progress, RunFolder
from .energy import Energy
from .errors import InputError, TrainingError
from .reports import EpochReport, StepReport


class Records:
    """Of one run, in its folder; `identity` is what a resumed run must agree with."""

    def __init__(self, folder: RunFolder, identity: Mapping[str, Any]) -> None:
        """Nothing is written yet."""
        self.folder, self.identity = folder, identity

    @contextlib.contextmanager
    def open(self, progress: Progress) -> Iterator[None]:
        """Lines may be written, after those that belong to `progress`. Raises: InputError."""
        with self.folder.open_metrics(progress) as self._metrics:
            yield

    def line(self, kind: str, told: StepReport | EpochReport) -> None:
        """Write one line. Raises: InputError."""
        try:
            self._metrics.write(json.dumps({"kind": kind, **asdict(told)}).encode() + b"\n")
        except OSError as error:
            raise InputError(
                f"cannot write {self.folder.metrics}: {error.strerror}; {self.kept()}"
            ) from None

    def checkpoint(
        self, tensors: Mapping[str, np.ndarray], progress: Progress, used: Energy, *,
        best: bool = False,
    ) -> None:  # fmt: skip
        """Write the last checkpoint, and the `best`; `progress` learns what belongs to it.

        Raises: InputError; TrainingError where a number is not finite.
        """
        self.check_finite(tensors, progress)
        progress.metrics_bytes = self._metrics.tell()
        progress.energy_wh, progress.energy_label = used.wh, used.label
        for path in (*[self.folder.best] * best, self.folder.last):
            self.folder.save_checkpoint(path, tensors, progress, self.identity)

    def check_finite(self, tensors: Mapping[str, np.ndarray], progress: Progress) -> None:
        """Raises: TrainingError where a number is not finite."""
        bad = next((name for name, a in tensors.items() if not np.isfinite(a).all()), None)
        if bad is not None:
            raise TrainingError(f"{bad} is not finite after step {progress.step}; {self.kept()}")

    def kept(self) -> str:
        """What is left to go on from, for people."""
        if self.folder.last.exists():
            return f"the last good checkpoint is {self.folder.last}"
        return "there is no earlier checkpoint"
