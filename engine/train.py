"""Training: epochs of steps, each forward + backward + update; checkpoints; a clean stop.

All randomness is a function of (seed, epoch, step, sample), so a run that was killed and resumed
ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from ..kernels.errors import BackendError
from . import diagnose, userfile
from .checkpoint import Progress, RunFolder
from .config import RESUME_MAY_CHANGE, TrainConfig
from .data import Augment, Loader, Splits
from .device import Device
from .energy import open_meter
from .errors import InputError, TrainingError
from .evaluate import Evaluation, evaluate
from .model_meta import Source
from .network import Description, Network
from .optim import Optimizer
from .reports import EpochReport, Report, StepReport, Summary
from .schedule import get_schedule
from .steps import Outcome, StepError, make_steps

__all__ = ["EpochReport", "StepReport", "Summary", "Trainer"]

CHECKPOINT_SECONDS = 30.0  # between epochs' ends, so that a kill costs little
FIRST_SCALE = 2.0**15


class Trainer:
    """One run: owns the network, the optimizer, the loader and the run folder."""

    def __init__(
        self, config: TrainConfig, splits: Splits, device: Device, folder: RunFolder
    ) -> None:
        """Compile everything; writes nothing. Raises: InputError."""
        config.check()
        self.meter = open_meter(device, config.energy_country, config.stop_above_wh)
        self.config, self.splits, self.device, self.folder = config, splits, device, folder
        self.code = userfile.content(config.arch)  # of a network in a file
        self.description = Description(
            config.arch, splits.train.image_shape, splits.train.classes, splits.mean, splits.std,
            config.precision, dict(config.options), userfile.digest(self.code),
        )  # fmt: skip
        augment = Augment(config.shift, config.flip) if config.shift or config.flip else None
        self.loader = Loader(
            splits.train, config.batch_size, seed=config.seed, augment=augment,
            mean=splits.mean, std=splits.std,
            dtype="uint8" if device.pictures else
            {"fp16": "float16", "bf16": "bfloat16"}.get(config.precision, "float32"),
        )  # fmt: skip
        self.schedule = get_schedule(config.schedule)
        self.total_steps = config.epochs * self.loader.steps_per_epoch
        rest = len(splits.train) % config.batch_size
        with device.session():
            self.network = Network(
                self.description, device, infer_batch=min(config.batch_size, len(splits.test)),
                train_batches=(config.batch_size, *([rest] if rest else [])),
                label_smoothing=config.label_smoothing, optimizer=config.optimizer,
                pictures=device.pictures,
            )  # fmt: skip
            self.optimizer = Optimizer(
                config.optimizer, self.network.parameters, weight_decay=config.weight_decay,
                momentum=config.momentum,
            )  # fmt: skip
            self.steps = make_steps(self.network, self.optimizer, config.seed)
            self.network.initialise(config.seed)
        self.progress = Progress(
            loss_scale=FIRST_SCALE if self.network.scaled else 1.0, place=device.place
        )
        self.notes: list[str] = []  # for people, about the run as a whole
        self.over_limit = False  # stopped by --stop-above-wh
        self.stop = False  # set from outside: finish the step, save, return
        self.evaluation: Evaluation | None = None  # of the test images, after the latest epoch

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree with: all that decides the outcome."""
        ignored = ("data", *RESUME_MAY_CHANGE)
        told = {k: v for k, v in asdict(self.config).items() if k not in ignored}
        if self.code:
            told["code of the network"] = self.description.code
        return {**told, "data": self.splits.name, "content of the data": self.splits.fingerprint}

    def resume(self) -> None:
        """Continue from the run folder's last checkpoint, if it has one. Raises: InputError."""
        loaded = self.folder.load_checkpoint(self.identity)
        if loaded is None:
            return
        tensors, self.progress = loaded
        place, before = self.device.place, self.progress.place
        if before and before != place:
            self.notes.append(
                f"the run was on {before} before and goes on on {place}: its bits may now differ "
                "from those of a run that stayed"
            )
        self.progress.place = place
        self.meter.go_on(
            self.progress.energy_wh, self.progress.energy_label, self.config.stop_above_wh
        )
        begun = self.progress.epoch + (self.progress.batch > 0)
        if self.config.epochs < begun:
            raise InputError(
                f"--epochs {self.config.epochs} is too few to resume {self.folder.path}, which is "
                f"in its epoch {begun} already"
            )
        state = {
            n.removeprefix("optimizer/"): tensors.pop(n)
            for n in list(tensors)
            if n.startswith("optimizer/")
        }
        wanted = {name: array.shape for name, array in self.optimizer.state.items()}
        if {name: array.shape for name, array in state.items()} != wanted:
            raise InputError(
                f"{self.folder.last} has no fitting state of the optimizer {self.config.optimizer}"
            )
        self.network.load(tensors, str(self.folder.last))
        for name, array in self.optimizer.state.items():
            self.device.copy_from_host(array, state[name])

    def run(self, report: Report = lambda _: None) -> Summary:
        """Train to the end, or until `stop` is set. Raises: TrainingError, InputError."""
        begun = time.perf_counter()
        self._first_step = self.progress.step
        try:
            with self.device.session(), self.folder.open_metrics(self.progress) as self._metrics:
                trained = self._epochs(report)
        except (BackendError, StepError) as error:
            raise TrainingError(f"{error}; {self._kept()}") from error
        finished = self.progress.epoch == self.config.epochs
        seconds = time.perf_counter() - begun
        best, test = self.progress.best_accuracy, self.evaluation
        return Summary(
            run=str(self.folder.path), finished=finished, epochs=self.progress.epoch,
            steps=self.progress.step, test_accuracy=test.accuracy if test else None,
            test_loss=test.loss if test else None, best_accuracy=best if best >= 0 else None,
            parameters=sum(v.size for _, v in self.network.parameters), seconds=seconds,
            images_per_second=trained / self._train_seconds if trained else 0.0,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            memory_plan=str(self.network.training[self.config.batch_size].memory),
            device_memory_mb=self.device.arena_bytes / 1e6 if self.device.arena_bytes else None,
            energy=self.meter.read(),
        )  # fmt: skip

    def _epochs(self, report: Report) -> int:
        """Epochs until the last or until `stop` is set; returns the number of images."""
        trained = 0
        while self.progress.epoch < self.config.epochs and not self.stop:
            trained += self._epoch(report)
            if self.progress.batch == self.loader.steps_per_epoch:
                self.evaluation = self._end_epoch(report)
                self._watch_energy()
        if self.progress.epoch == self.config.epochs and self.evaluation is None:
            self.evaluation = self._evaluate()
        return trained

    _train_seconds = 0.0

    def _epoch(self, report: Report) -> int:
        """Steps until the epoch ends or `stop` is set; returns the number of images."""
        progress, trained = self.progress, 0
        saved = time.monotonic()
        self._epoch_seconds, self._epoch_images = 0.0, 0
        for batch in self.loader.epoch(progress.epoch, progress.batch):
            lr = self.config.lr * self.schedule(progress.step, self.total_steps)
            known = self.steps.run(batch, progress, lr)
            progress.step += 1
            progress.batch += 1
            trained += len(batch.labels)
            self._account(known, report)
            self._watch_energy()
            if self.stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._account(self.steps.drain(), report)
                self._save()
                saved = time.monotonic()
            if self.stop:
                break
        self._account(self.steps.drain(), report)
        return trained

    def _watch_energy(self) -> None:
        """Stop after this step once the run has used more than it may."""
        limit = self.config.stop_above_wh
        if limit and self.meter.passed(limit):
            self.stop = self.over_limit = True

    def _account(self, outcomes: Iterable[Outcome], report: Report) -> None:
        """Add up and tell what steps did."""
        progress = self.progress
        for outcome in outcomes:
            images = len(outcome.losses)
            progress.loss_sum += float(outcome.losses.sum())
            progress.correct += outcome.correct
            progress.seen += images
            progress.loss_scale, progress.good_steps = outcome.loss_scale, outcome.good_steps
            self._train_seconds += outcome.seconds
            self._epoch_seconds += outcome.seconds
            self._epoch_images += images
            told = StepReport(
                progress.epoch, outcome.step + 1, self.total_steps, outcome.loss,
                outcome.correct / images, outcome.lr, images / outcome.seconds,
            )  # fmt: skip
            self._write("step", told)
            report(told)

    def _done(self) -> float:
        """The share of what this session has to do, in steps."""
        first = self._first_step
        return (self.progress.step - first) / (self.total_steps - first)

    def _kept(self) -> str:
        if self.folder.last.exists():
            return f"the last good checkpoint is {self.folder.last}"
        return "there is no earlier checkpoint"

    def _source(self) -> Source:
        config = self.config
        return Source(self.splits.name, config.seed, config.image_size, config.skip_bad)

    def _evaluate(self) -> Evaluation:
        return evaluate(self.network, self.splits.test)

    def _end_epoch(self, report: Report) -> Evaluation:
        progress = self.progress
        self._tensors()  # refuses weights that are not finite, before anything is written
        test = self._evaluate()
        if not math.isfinite(test.loss):
            layer = diagnose.first_non_finite_of_images(
                self.network, self.splits.test.images, self.config.batch_size
            )
            raise TrainingError(
                f"the loss on the test images is {test.loss} after step {progress.step} (epoch "
                f"{progress.epoch + 1}); the first values that are not finite are those of "
                f"{layer}; {self._kept()}"
            )
        told = EpochReport(
            progress.epoch, self.config.epochs, progress.loss_sum / progress.seen,
            progress.correct / progress.seen, test.loss, test.accuracy, self._epoch_seconds,
            self._epoch_images / self._epoch_seconds if self._epoch_seconds else 0.0,
            self.meter.read().wh, self.meter.forecast(self._done()),
        )  # fmt: skip
        self._write("epoch", told)
        is_best = test.accuracy > progress.best_accuracy
        self.progress = progress = Progress(
            epoch=progress.epoch + 1, step=progress.step, loss_scale=progress.loss_scale,
            good_steps=progress.good_steps, place=progress.place,
            best_accuracy=max(test.accuracy, progress.best_accuracy),
        )  # fmt: skip
        # The model first: if we are killed between the two, the resumed run writes it again.
        arrays = self.network.inference_dict()
        self.folder.save_model(self.description, arrays, self._source())
        self._save(best=is_best)
        report(told)
        return test

    def _save(self, *, best: bool = False) -> None:
        tensors = self._tensors()
        self.progress.metrics_bytes = self._metrics.tell()
        used = self.meter.read()
        self.progress.energy_wh, self.progress.energy_label = used.wh, used.label
        if best:
            self.folder.save_checkpoint(self.folder.best, tensors, self.progress, self.identity)
        self.folder.save_checkpoint(self.folder.last, tensors, self.progress, self.identity)

    def _tensors(self) -> dict[str, np.ndarray]:
        """All that a checkpoint holds. Raises: TrainingError where a number is not finite."""
        state = {f"optimizer/{n}": self.device.to_host(a) for n, a in self.optimizer.state.items()}
        tensors = {**self.network.state_dict(), **state}
        bad = next((name for name, a in tensors.items() if not np.isfinite(a).all()), None)
        if bad is not None:
            raise TrainingError(
                f"{bad} is not finite after step {self.progress.step}; {self._kept()}"
            )
        return tensors

    def _write(self, kind: str, told: StepReport | EpochReport) -> None:
        try:
            self._metrics.write(json.dumps({"kind": kind, **asdict(told)}).encode() + b"\n")
        except OSError as error:
            raise InputError(
                f"cannot write {self.folder.metrics}: {error.strerror}; {self._kept()}"
            ) from None
