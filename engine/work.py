"""What one stage of a run works with: network, optimizer, steps and batches.

Where layers are frozen and nothing in front of their outputs changes from epoch to epoch, they run
once (`feature_cache.py`), and batches and test images are what they gave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .config import TrainConfig
from .data import Augment, Dataset, Loader, Splits
from .device import Device
from .feature_cache import FeatureCache
from .features import FeatureLoader, Features, Kept
from .freeze import dropped, front_of
from .network import Description, Network
from .optim import Optimizer
from .stages import Stage
from .steps import make_steps


def make_loader(
    config: TrainConfig, splits: Splits, description: Description, *, shuffle: bool = True,
    pictures: bool = False,
) -> Loader:  # fmt: skip
    """Batches as training takes them; not shuffled: the same images in order and as they are.

    With `pictures` they are uint8, and what makes and normalises them is left to the device.
    """
    moved = shuffle and (config.shift or config.flip)
    return Loader(
        splits.train, config.batch_size, seed=config.seed, mean=description.mean,
        std=description.std, shuffle=shuffle,
        augment=Augment(config.shift, config.flip) if moved else None,
        dtype="uint8" if pictures else
        {"fp16": "float16", "bf16": "bfloat16"}.get(config.precision, "float32"),
    )  # fmt: skip


class Work:
    """Everything compiled for one stage; parameters start at zero."""

    def __init__(
        self, stage: Stage, config: TrainConfig, splits: Splits, description: Description,
        device: Device, loader: Loader,
    ) -> None:  # fmt: skip
        """Compile. Raises: InputError."""
        self.stage, self.device, self._config, self._splits = stage, device, config, splits
        self._loader = loader
        self.batches: Loader | FeatureLoader = loader
        self.test: Dataset | Features = splits.test
        self._features: Kept | None = None
        self.uncached = why_uncached(stage, config, splits, description)
        rest = len(splits.train) % config.batch_size
        cut = bool(stage.freeze.boundary) and not self.uncached
        self._cache = FeatureCache(config.cache_dir, config.cache_gb * 1e9)
        if cut:
            self._cache.check()
        self.network = Network(
            description, device, infer_batch=min(config.batch_size, len(splits.test)),
            train_batches=(config.batch_size, *([rest] if rest else [])),
            label_smoothing=config.label_smoothing, optimizer=config.optimizer,
            pictures=device.pictures, freeze=replace(stage.freeze, cut=cut),
        )  # fmt: skip
        self.optimizer = Optimizer(
            config.optimizer, self.network.parameters, weight_decay=config.weight_decay,
            momentum=config.momentum,
        )  # fmt: skip
        self.steps = make_steps(self.network, self.optimizer, config.seed)

    @property
    def notes(self) -> list[str]:
        """For people: what is frozen, and why it runs in every step if it does."""
        if not self.stage.freeze.boundary:
            return []
        why = [f"the frozen layers run in every step: {self.uncached}"] if self.uncached else []
        return [str(self.stage), *why]

    @property
    def ready(self) -> bool:
        """Whether steps can be made: what the frozen layers give is here, if it is needed."""
        return not self.network.freeze.cut or self._features is not None

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that a checkpoint holds: the network's, and the optimizer's as `optimizer/…`."""
        told = {n: self.device.to_host(a) for n, a in self.optimizer.state.items()}
        return {**self.network.state_dict(), **{f"optimizer/{n}": a for n, a in told.items()}}

    def check_room(self) -> None:
        """Whether what the frozen layers give can be kept, if it is to be. Raises: InputError."""
        if self.network.freeze.cut:
            self._cache.check_room(self.network, self._splits)

    def run_frozen(self, stopped: Callable[[], bool]) -> Kept | None:
        """Run the frozen layers over all images, or find what they gave; None when `stopped`.

        Raises: InputError when it cannot be kept on disk.
        """
        config, network = self._config, self.network
        in_order = make_loader(
            config, self._splits, network.description, shuffle=False, pictures=True
        )
        found = self._cache.get(network, self._splits, in_order, stopped)
        if found is not None:
            self._features, self.test = found, found.test
            self.batches = FeatureLoader(self._loader, found.train)
        return found


def why_uncached(
    stage: Stage, config: TrainConfig, splits: Splits, description: Description
) -> str:
    """Why the outputs of the frozen layers cannot be kept; "" if they can, or nothing is frozen."""
    boundary = stage.freeze.boundary
    if not boundary:
        return ""
    if config.shift or config.flip:
        moved = [f"--shift {config.shift}"] * bool(config.shift) + ["--flip"] * config.flip
        return (
            f"{' and '.join(moved)} make every image another one in each epoch "
            "(--shift 0 --no-flip lets them run once)"
        )
    value, passed = front_of(description.graph(1, training=False), boundary)
    if passed & dropped(description.graph(2, training=True)):
        return "there is dropout among them"
    size = (len(splits.train) + len(splits.test)) * value.nbytes
    if size > config.cache_gb * 1e9:
        return f"their outputs take {size / 1e9:.3g} GB, --cache-gb is {config.cache_gb:g}"
    return ""
