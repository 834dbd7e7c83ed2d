"""Our side of a network's row: the engine's network with its optimizer, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import userfile
from ..engine.checkpoint import Progress
from ..engine.data import Batch
from ..engine.device import Device, open_device
from ..engine.errors import unknown_name
from ..engine.gpu import CudaDevice
from ..engine.models import get_model
from ..engine.network import Description, Network
from ..engine.optim import Optimizer
from ..engine.steps import Outcome, QueuedSteps, make_steps

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
SCALE = 1024.0  # of float16's losses at first, on both sides: no gradient overflows
LR, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4  # small steps: the numbers stay as they are for long runs


@dataclass(frozen=True)
class Setting:
    """A network for one batch size, its weights (all of them random), a batch and its labels."""

    arch: str
    description: Description
    batch: int
    x: np.ndarray
    labels: np.ndarray
    weights: dict[str, np.ndarray]


def make_setting(arch: str, batch: int, precision: str = "fp32") -> Setting:
    """Random images and labels, and weights in which biases and norms are random too.

    Raises: InputError for an unknown architecture or precision.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    model = get_model(arch)
    channels = model.input_shape[2]
    description = Description(
        arch, model.input_shape, tuple(map(str, range(model.classes))), (0.0,) * channels,
        (1.0,) * channels, code=userfile.digest(userfile.content(arch)),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    network = Network(description, open_device("cpu", "numpy"), train_batches=(2,))
    network.initialise(0)
    weights = network.state_dict()
    for array in weights.values():
        if array.ndim == 1:
            array += rng.uniform(-0.1, 0.1, array.shape).astype(array.dtype)
    x = rng.standard_normal((batch, *model.input_shape), np.float32)
    labels = rng.integers(0, model.classes, batch).astype(np.int32)
    description = Description.from_json(description.to_json() | {"precision": precision})
    return Setting(arch, description, batch, x, labels, weights)


class OurSide:
    """The engine's network with its optimizer, on one batch."""

    name = "cnnengine"

    def __init__(self, setting: Setting, device: Device, modes: tuple[str, ...]) -> None:
        """Compile for the modes and load the weights."""
        self.setting = setting
        self.device = device
        self.networks: dict[str, Network] = {}  # one each: where none trains, batch norms fold
        if "train" in modes:
            trained = self.networks["train"] = self._network(train_batches=(setting.batch,))
            self.optimizer = Optimizer(
                "sgd", trained.parameters, weight_decay=DECAY, momentum=MOMENTUM
            )
            self.steps = make_steps(trained, self.optimizer, seed=0)
        if "infer" in modes:
            self.networks["infer"] = self._network(infer_batch=setting.batch)
        self.batch = Batch(0, setting.x, setting.labels, np.arange(setting.batch))
        scaled = setting.description.precision == "fp16"
        self.progress = Progress(loss_scale=SCALE if scaled else 1.0)

    def _network(self, **batches: Any) -> Network:
        network = Network(self.setting.description, self.device, **batches)
        wanted = network.state_dict()  # without training, auxiliary heads are left out
        given = {name: self.setting.weights[name].view() for name in wanted}
        for array in given.values():
            array.flags.writeable = False  # as in a mapped file: what stays aside is not copied
        network.load(given)
        return network

    def train(self) -> float:
        """One training step, as `cnnengine train` makes it; the mean loss."""
        return self.settle(self.hand_over(self.batch) + self.steps.drain())

    def hand_over(self, batch: Batch) -> list[Outcome]:
        """Begin a step, which a GPU then makes while this goes on; outcomes of earlier ones."""
        known = self.steps.run(batch, self.progress, LR)
        self.progress.step += 1
        return known

    def settle(self, done: list[Outcome]) -> float:
        """Go on from the last of these outcomes; its mean loss."""
        self.progress.loss_scale, self.progress.good_steps = (
            done[-1].loss_scale,
            done[-1].good_steps,
        )
        return done[-1].loss

    def infer(self) -> np.ndarray:
        """The logits of the batch."""
        return self.networks["infer"].logits(self.setting.x)

    def timed(self, mode: str) -> Callable[[], object]:
        """What is timed: `train` or `infer`, on a GPU without the way of the batch to it."""
        usual = getattr(self, mode)
        if not isinstance(self.device, CudaDevice):
            return usual
        network, to_host, output = self.networks[mode], self.device.to_host, "logits"
        with self.device.session():
            usual()  # now the batch is there
        if mode == "train":
            assert isinstance(self.steps, QueuedSteps)
            plan, output = network.training[self.setting.batch], "loss"
            run = self.device.repeatable(self.steps.step_of(plan))
        else:
            plan = network.inference
            assert plan is not None
            run = self.device.repeatable(plan.run)

        def call() -> object:
            run()
            return to_host(plan.output(output))

        return call

    def backends(self) -> dict[str, int]:
        """Backend → how many calls of the plans it makes."""
        plans = [
            plan
            for network in self.networks.values()
            for plan in (*network.training.values(), network.inference)
            if plan is not None
        ]
        names = [node.choice.backend for plan in plans for node, _ in plan.steps if node.choice]
        return {name: names.count(name) for name in dict.fromkeys(names)}
