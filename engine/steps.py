"""Training steps: forward, backward and update, and when their results are known.

On the CPU a step is done when `run` returns (`WaitedSteps`). On a GPU it is only handed over
(`QueuedSteps`): the next batch is copied in while it runs, and its losses are read a few steps
later, so that neither waits for the other. Both make the same steps in the same order.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import diagnose, scaling
from .build import GRAD_SCALE
from .checkpoint import Progress
from .data import Batch
from .gpu import CudaDevice
from .network import Network
from .optim import Optimizer
from .routes import Route, make_routes
from .runner import LR, STEP, Plan

LEAST_SCALE = 2.0**-14


class StepError(Exception):
    """Why training cannot go on, in one line."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What step `step` (counted from 0) did: float64 losses [N], how many verdicts were right.

    `loss_scale` is that of the next step, after `good_steps` steps in a row without overflow.
    """

    step: int
    lr: float
    losses: np.ndarray
    correct: int
    seconds: float
    loss_scale: float
    good_steps: int

    @functools.cached_property
    def loss(self) -> float:
        """The batch's mean loss."""
        return float(np.add.reduce(self.losses)) / len(self.losses)


def make_steps(network: Network, optimizer: Optimizer, seed: int) -> WaitedSteps | QueuedSteps:
    """The steps of a network on its device."""
    queued = isinstance(network.device, CudaDevice)
    return (QueuedSteps if queued else WaitedSteps)(network, optimizer, seed)


def _outcome(
    step: int, lr: float, losses: np.ndarray, logits: np.ndarray, labels: np.ndarray, begun: float,
    loss_scale: float, good_steps: int,
) -> Outcome:  # fmt: skip
    correct = int(np.count_nonzero(logits.argmax(axis=1) == labels))
    seconds = time.perf_counter() - begun
    return Outcome(step, lr, losses, correct, seconds, loss_scale, good_steps)


def _no_scale(step: int) -> StepError:
    return StepError(
        f"float16 gradients overflow at step {step} at every loss scale; "
        "use --precision bf16 or fp32"
    )


class WaitedSteps:
    """Steps that are done when they return."""

    def __init__(self, network: Network, optimizer: Optimizer, seed: int) -> None:
        """Steps of `network`, their random numbers under `seed`."""
        self.network, self.optimizer, self.seed = network, optimizer, seed
        self.device = network.device
        self._run = {n: self.device.repeatable(p.run) for n, p in network.training.items()}

    def run(self, batch: Batch, progress: Progress, lr: float) -> list[Outcome]:
        """Make the step that `progress` stands before; its outcome.

        Raises: StepError, before the update, for a loss that is not finite.
        """
        begun, network = time.perf_counter(), self.network
        plan = network.training[len(batch.labels)]
        inputs = batch.inputs
        if network.scaled:
            inputs["grad_scale"] = np.array([progress.loss_scale])
        plan.feed(inputs, seed=self.seed, step=progress.step, lr=lr)
        self._run[len(batch.labels)]()
        losses = self.device.to_host(plan.output("loss")).astype(np.float64)
        loss = float(losses.mean())
        if not math.isfinite(loss):
            raise _not_finite(network, inputs, loss, self.seed, progress.step, progress.epoch)
        logits = self.device.to_host(plan.output("logits"))
        if self._gradients_usable(progress):
            scale = plan.fed["grad_scale"] if network.scaled else None
            self.optimizer.launch(plan.fed[LR], plan.fed[STEP], scale)
        scaled = progress.loss_scale, progress.good_steps
        return [_outcome(progress.step, lr, losses, logits, batch.labels, begun, *scaled)]

    def drain(self) -> list[Outcome]:
        """The outcomes of steps that are still under way: none."""
        return []

    def _gradients_usable(self, progress: Progress) -> bool:
        """Dynamic loss scaling (float16): skip the update and halve the scale on overflow."""
        if not self.network.scaled:
            return True
        if not self.device.all_finite(self.network.parameters.gradients):
            progress.loss_scale /= 2
            progress.good_steps = 0
            if progress.loss_scale < LEAST_SCALE:
                raise _no_scale(progress.step)
            return False
        progress.good_steps += 1
        if progress.good_steps % scaling.GROWTH_STEPS == 0:
            progress.loss_scale *= 2
        return True


def _not_finite(
    network: Network, inputs: dict[str, np.ndarray], loss: float, seed: int, step: int, epoch: int
) -> StepError:
    try:
        layer = diagnose.first_non_finite(network, inputs, seed=seed, step=step)
    except MemoryError:
        layer = f"a layer that {network.device.name} has too little memory left to look for"
    return StepError(
        f"the loss is {loss} at step {step} (epoch {epoch + 1}); the first values that are not "
        f"finite are those of {layer}"
    )


class _Pending(NamedTuple):
    route: Route
    batch: Batch
    inputs: dict[str, np.ndarray]
    epoch: int
    step: int
    lr: float
    begun: float


class QueuedSteps:
    """Steps on a GPU, handed over without waiting; each is one graph replay.

    Forward, backward and update read all that changes from the plan's block of feeds, which is
    filled by way of one of three slots (`routes.py`).
    """

    def __init__(self, network: Network, optimizer: Optimizer, seed: int) -> None:
        """Steps of `network`, their random numbers under `seed`; allocates the slots."""
        assert isinstance(network.device, CudaDevice)
        self.network, self.optimizer, self.seed = network, optimizer, seed
        self.device: CudaDevice = network.device
        self.gpu = network.device.gpu
        self.scaling = scaling.LossScaling(network.parameters) if network.scaled else None
        # not 0: no update, so that the parameters still show where a loss went wrong
        self._skip = None if self.scaling else self.device.zeros((1,), "int32")
        self._scaled = (0.0, 0)  # loss scale and good steps on the device, as last seen
        self._slots = [self._slot() for _ in range(self.device.slots)]  # by batch size
        self._repeated = {
            batch: self.device.repeatable(self.step_of(plan))
            for batch, plan in network.training.items()
        }
        self._pending: deque[_Pending] = deque()
        self._read = 0.0  # when the latest outcome was

    def _slot(self) -> dict[int, Route]:
        """Memory for one step, and the routes of all plans through it."""
        plans = self.network.training
        more = (self.scaling.scale, self.scaling.good) if self.scaling else ()
        results = {p: (p.output("loss"), p.output("logits"), *more) for p in plans.values()}
        routes = make_routes(self.device, results)
        return {batch: routes[plan] for batch, plan in plans.items()}

    def step_of(self, plan: Plan) -> Callable[[], None]:
        """Forward, backward and update of a plan on what lies in its block."""
        optimizer, rate, number, scaled = (
            self.optimizer, plan.fed[LR], plan.fed[STEP], self.scaling
        )  # fmt: skip
        if scaled is None:
            look, skip = self.device.function("non_finite"), self._skip

            def step() -> None:
                plan.run()
                look(plan.output("loss"), skip)
                optimizer.launch(rate, number, None, skip)

            return step
        scale = self.gpu.transfer(plan.fed[GRAD_SCALE], scaled.scale)

        def scaled_step() -> None:
            scale()
            plan.run()
            optimizer.launch(rate, number, *scaled.decide())

        return scaled_step

    def run(self, batch: Batch, progress: Progress, lr: float) -> list[Outcome]:
        """Hand over the step that `progress` stands before; outcomes of earlier ones, in order.

        Raises: StepError when one of them had a loss that is not finite.
        """
        begun = time.perf_counter()
        if self.scaling is not None and not self._pending:
            self._go_on_from(progress)
        known = [self._finish()] if len(self._pending) == len(self._slots) else []
        size, step = len(batch.labels), progress.step
        route, inputs = self._slots[step % len(self._slots)][size], batch.inputs
        route.feeds.write(route.views, inputs, seed=self.seed, step=step, lr=lr)
        route.hand_over(self._repeated[size])
        self._pending.append(_Pending(route, batch, inputs, progress.epoch, step, lr, begun))
        while self._pending and self._pending[0].route.done.done:
            known.append(self._finish())
        return known

    def _go_on_from(self, progress: Progress) -> None:
        """Bring the scale of `progress` to the device, unless it came from there."""
        assert self.scaling is not None
        if self._scaled != (progress.loss_scale, progress.good_steps):
            self._scaled = progress.loss_scale, progress.good_steps
            self.scaling.set(*self._scaled)

    def drain(self) -> list[Outcome]:
        """Wait for all steps under way; their outcomes. Raises: StepError."""
        return [self._finish() for _ in range(len(self._pending))]

    def _finish(self) -> Outcome:
        """Wait for the oldest step under way; its outcome."""
        told = self._pending.popleft()
        told.route.done.synchronize()
        losses, logits, *scaled = told.route.results
        if scaled:
            self._scaled = float(scaled[0][0]), int(scaled[1][0])
        outcome = _outcome(
            told.step, told.lr, losses.astype(np.float64), logits, told.batch.labels,
            max(told.begun, self._read), *(self._scaled if scaled else (1.0, 0)),
        )  # fmt: skip
        self._read = time.perf_counter()
        if not math.isfinite(outcome.loss):
            self._pending.clear()
            network, loss = self.network, outcome.loss
            raise _not_finite(network, told.inputs, loss, self.seed, told.step, told.epoch)
        if scaled and outcome.loss_scale < LEAST_SCALE:
            self._pending.clear()
            raise _no_scale(told.step)
        return outcome
