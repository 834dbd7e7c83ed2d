"""Training: epochs of steps, each forward + backward + update; checkpoints; a clean stop.

All randomness is a function of (seed, epoch, step, sample), so a run that was killed and resumed
ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from ..kernels.errors import BackendError
from . import diagnose, userfile
from .account import Account
from .checkpoint import Progress, RunFolder
from .config import TrainConfig, parse_channels
from .data import Splits
from .device import Device
from .energy import open_meter
from .errors import InputError, TrainingError
from .evaluate import Evaluation, evaluate
from .forecast import Forecast, plan_loads
from .model_meta import Source
from .network import Description, Network
from .records import Records
from .reports import EpochReport, Note, Report, StepReport, Summary
from .resume import check_epochs, identity, moved, parted
from .schedule import get_schedule
from .stages import Stage, plan_stages, stage_at
from .steps import Outcome, StepError
from .transfer import load_initial
from .work import Work, make_loader

CHECKPOINT_SECONDS = 30.0  # between epochs' ends, so that a kill costs little
FIRST_SCALE = 2.0**15


class Trainer:
    """One run: owns the network, the optimizer, the loader and the run folder."""

    def __init__(
        self, config: TrainConfig, splits: Splits, device: Device, folder: RunFolder,
        *, resumed: bool = False,
    ) -> None:  # fmt: skip
        """Compile everything; writes nothing. `resumed`: weights come from the run folder.

        Raises: InputError.
        """
        config.check()
        meter = open_meter(device, config.energy_country, config.stop_above_wh)
        self.config, self.splits, self.device, self.folder = config, splits, device, folder
        self.code = userfile.content(config.arch)  # of a network in a file
        self.description = Description(
            config.arch, splits.train.image_shape, splits.train.classes,
            parse_channels(config.mean, "--mean") or splits.mean,
            parse_channels(config.std, "--std", least=0.0) or splits.std,
            config.precision, dict(config.options), userfile.digest(self.code),
        )  # fmt: skip
        self.records = Records(folder, identity(config, splits, self.description.code))
        self.loader = make_loader(config, splits, self.description, pictures=device.pictures)
        self.schedule = get_schedule(config.schedule)
        self.total_steps = config.epochs * self.loader.steps_per_epoch
        self.stages = plan_stages(self.description, config, self.loader.steps_per_epoch)
        self.notes: list[str] = []  # for people, about the run as a whole
        self.warnings: list[str] = []
        loads = plan_loads(self.description, config, splits, self.stages)
        self.account = Account(meter, Forecast(loads, self.loader.steps_per_epoch))
        with device.session():
            self._check_memory()
            self._begin(self.stages[0])
            self.notes += self.work.notes
            self.network.initialise(config.seed)
            self._borrowed = bool(config.init_from) and not (resumed and folder.last.exists())
            if self._borrowed:
                self.notes += load_initial(self.network, Path(config.init_from))
            if not resumed:
                self.work.check_room()
        self.progress = Progress(
            loss_scale=FIRST_SCALE if self.network.scaled else 1.0, place=device.place
        )
        self.over_limit = False  # stopped by --stop-above-wh
        self.stop = False  # set from outside: finish the step, save, return
        self.evaluation: Evaluation | None = None  # of the test images, after the latest epoch

    @property
    def network(self) -> Network:
        """The network of the stage under way."""
        return self.work.network

    def _begin(self, stage: Stage) -> None:
        """Compile what a stage needs, in place of the one before; parameters are not set."""
        vars(self).pop("work", None)  # before its memory is asked for again
        self.device.release()
        self.work = Work(
            stage, self.config, self.splits, self.description, self.device, self.loader
        )
        self.account.compiled(self.work.network)

    def _check_memory(self) -> None:
        """Whether the memory of a GPU will do for later stages, which train more layers, too."""
        for stage in self.stages[1:] if self.device.slots else ():
            try:
                self._begin(stage)
            except InputError as error:
                raise InputError(f"from epoch {stage.epoch + 1} on: {error}") from None

    def resume(self) -> None:
        """Continue from the run folder's last checkpoint, if it has one. Raises: InputError."""
        loaded = self.folder.load_checkpoint(self.records.identity)
        if loaded is None:
            return
        tensors, self.progress = loaded
        # a checkpoint between two epochs is of the stage of the first
        stage = stage_at(self.stages, self.progress.epoch - (self.progress.batch == 0))
        if stage is not self.work.stage:
            with self.device.session():
                self._begin(stage)
            self.notes = self.work.notes
        self.warnings += moved(self.progress.place, self.device.place)
        self.progress.place = self.device.place
        self.account.meter.go_on(
            self.progress.energy_wh, self.progress.energy_label, self.config.stop_above_wh
        )
        check_epochs(self.config.epochs, self.progress, self.folder.path)
        weights, state = parted(tensors)
        with self.device.session():
            self.work.optimizer.load(state, str(self.folder.last))
            self.network.load(weights, str(self.folder.last))

    def run(self, report: Report = lambda _: None) -> Summary:
        """Train to the end, or until `stop` is set. Raises: TrainingError, InputError."""
        account = self.account
        account.start()
        try:
            with self.device.session(), self.records.open(self.progress):
                if self._borrowed:
                    self._save()  # from here on the run does not need the file of the weights
                trained = self._epochs(report)
        except StepError as error:
            raise TrainingError(f"{error}; {self._way_out()}") from error
        except BackendError as error:
            raise TrainingError(f"{error}; {self.records.kept()}") from error
        finished = self.progress.epoch == self.config.epochs
        best, test = self.progress.best_accuracy, self.evaluation
        return Summary(
            run=str(self.folder.path), finished=finished, epochs=self.progress.epoch,
            steps=self.progress.step, test_accuracy=test.accuracy if test else None,
            test_loss=test.loss if test else None, best_accuracy=best if best >= 0 else None,
            parameters=sum(v.size for _, v in self.network.parameters), seconds=account.seconds,
            images_per_second=trained / account.train_seconds if trained else 0.0,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            memory_plan=str(self.network.training[self.config.batch_size].memory),
            device_memory_mb=self.device.arena_bytes / 1e6 if self.device.arena_bytes else None,
            energy=account.meter.read(), savings=account.savings(),
        )  # fmt: skip

    def _epochs(self, report: Report) -> int:
        """Epochs until the last or until `stop` is set; returns the number of images."""
        trained = 0
        while self.progress.epoch < self.config.epochs and self._enter(report) and not self.stop:
            trained += self._epoch(report)
            if self.progress.batch == self.loader.steps_per_epoch:
                self.evaluation = self._end_epoch(report)
                self._watch_energy()
        done = self.progress.epoch == self.config.epochs
        if done and self.evaluation is None and self._enter(report):
            self.evaluation = self._evaluate()
        return trained

    def _enter(self, report: Report) -> bool:
        """Bring the run into the stage of its next epoch; False when stopped on the way."""
        stage = stage_at(self.stages, self.progress.epoch)
        if stage is not self.work.stage:
            self._move(stage)
            for note in self.work.notes or [str(stage)]:
                report(Note(f"epoch {self.progress.epoch + 1}: {note}"))
        if self.work.ready:
            return True
        found = self.work.run_frozen(lambda: self.stop)
        if found is None:
            return False
        self.account.front(found)
        report(Note(found.note))
        return True

    def _move(self, stage: Stage) -> None:
        """Go over to another stage with all that was learnt."""
        arrays, state = self.network.state_dict(), self.work.optimizer.state_dict()
        self._begin(stage)
        self.network.initialise(self.config.seed)  # auxiliary heads that were left out before
        self.network.load({**self.network.state_dict(), **arrays})
        self.work.optimizer.carry_over(state)

    def _epoch(self, report: Report) -> int:
        """Steps until the epoch ends or `stop` is set; returns the number of images."""
        progress, trained = self.progress, 0
        saved = time.monotonic()
        self.account.epoch(self.stages.index(self.work.stage), progress.step)
        for batch in self.work.batches.epoch(progress.epoch, progress.batch):
            lr = self.config.lr * self.schedule(progress.step, self.total_steps)
            known = self.work.steps.run(batch, progress, lr)
            progress.step += 1
            progress.batch += 1
            trained += len(batch.labels)
            self._account(known, report)
            self._watch_energy()
            if self.stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._account(self.work.steps.drain(), report)
                self._save()
                saved = time.monotonic()
            if self.stop:
                break
        self._account(self.work.steps.drain(), report)
        self.account.trained()
        return trained

    def _watch_energy(self) -> None:
        """Stop after this step once the run has used more than it may."""
        limit = self.config.stop_above_wh
        if limit and self.account.meter.passed(limit):
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
            self.account.stepped(images, outcome.seconds)
            told = StepReport(
                progress.epoch, outcome.step + 1, self.total_steps, outcome.loss,
                outcome.correct / images, outcome.lr, images / outcome.seconds,
            )  # fmt: skip
            self.records.line("step", told)
            report(told)

    def _evaluate(self) -> Evaluation:
        begun = time.perf_counter()
        result = evaluate(self.network, self.work.test)
        self.account.evaluated(len(self.work.test), time.perf_counter() - begun)
        return result

    def _way_out(self) -> str:
        """What to do about numbers that are not finite."""
        rate = f"a smaller --lr may help, it was {self.config.lr:g}"
        return f"{self.records.kept()}; {rate}"

    def _end_epoch(self, report: Report) -> Evaluation:
        progress = self.progress
        self.records.check_finite(self.work.state_dict(), progress)  # before anything is written
        test = self._evaluate()
        if not math.isfinite(test.loss):
            images, batch = self.work.test.images, self.config.batch_size
            layer = diagnose.first_non_finite_of_images(self.network, images, batch)
            raise TrainingError(
                f"the loss on the test images is {test.loss} after step {progress.step} (epoch "
                f"{progress.epoch + 1}); the first values that are not finite are those of "
                f"{layer}; {self._way_out()}"
            )
        account = self.account
        told = EpochReport(
            progress.epoch, self.config.epochs, progress.loss_sum / progress.seen,
            progress.correct / progress.seen, test.loss, test.accuracy, account.epoch_seconds,
            account.epoch_images / account.epoch_seconds if account.epoch_seconds else 0.0,
            account.meter.read().wh, account.forecast_wh(progress.step),
        )  # fmt: skip
        self.records.line("epoch", told)
        is_best = test.accuracy > progress.best_accuracy
        self.progress = progress = Progress(
            epoch=progress.epoch + 1, step=progress.step, loss_scale=progress.loss_scale,
            good_steps=progress.good_steps, place=progress.place,
            best_accuracy=max(test.accuracy, progress.best_accuracy),
        )  # fmt: skip
        # The model first: if we are killed between the two, the resumed run writes it again.
        arrays = self.network.inference_dict()
        config = self.config
        source = Source(self.splits.name, config.seed, config.image_size, config.skip_bad)
        self.folder.save_model(self.description, arrays, source)
        self._save(best=is_best)
        report(told)
        return test

    def _save(self, *, best: bool = False) -> None:
        used = self.account.meter.read()
        self.records.checkpoint(self.work.state_dict(), self.progress, used, best=best)
