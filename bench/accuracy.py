"""What training comes to on a device beside the CPU: the first losses, the accuracy at the end.

    python -m cnnengine.bench.accuracy [--device cpu] [--data NAME] [--data-dir DIR] [--epochs N]

Trains vgg-small as `cnnengine train` does, in a folder that is removed, and prints what came of it.
On the CPU, with `--keep`, it is written to bench/results/cpu/accuracy.json: what other devices are
held to, as long as their settings are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engine.checkpoint import RunFolder
from ..engine.config import RESUME_MAY_CHANGE, TrainConfig
from ..engine.data import REGISTRY, Splits, fetch, limited, load
from ..engine.device import Device, open_device
from ..engine.errors import InputError, KernelError, TrainingError, unknown_name
from ..engine.train import Trainer
from . import machine, network

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / "results" / "cpu" / "accuracy.json"
MINI, WHOLE = "fashion-mnist-mini", "fashion-mnist"
EPOCHS = {WHOLE: 8}  # otherwise the default; the whole set needs fewer
STEPS = 20  # the first ones, whose losses are compared
Told = dict[str, Any]


def first_steps(arch: str, batch: int, device: Device) -> Told:
    """The losses of the first steps on one batch, on the device and in NumPy on the CPU."""
    setting = network.make_setting(arch, batch)
    places = device, open_device("cpu", "numpy")
    losses = [list(_losses(setting, place)) for place in places]
    apart = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
    return {"losses": losses, "apart": apart, "ok": apart <= network.GRADIENT_RMS}


def _losses(setting: network.Setting, device: Device) -> Iterator[float]:
    side = network.OurSide(setting, device, ("train",))
    with device.session():
        for _ in range(STEPS):
            yield side.train()


def splits_of(name: str | None, folder: Path | None) -> dict[str, Splits]:
    """A data set by its name, from its files in a folder or as `cnnengine data fetch` left it.

    Raises: InputError.
    """
    if name is None:
        if folder is not None:
            raise InputError(f"--data-dir {folder} needs --data NAME")
        return {}
    if name not in REGISTRY:
        raise unknown_name("data set", name, REGISTRY)
    if folder is None:
        return {name: load(name)}
    with tempfile.TemporaryDirectory(prefix="cnnengine-data-") as cache:
        fetch(name, source_dir=folder, cache_dir=cache)
        return {name: load(name, cache_dir=cache)}


def config_of(data: str, device: Device, **told: Any) -> TrainConfig:
    """The default settings on a data set."""
    more = {"epochs": EPOCHS[data]} if data in EPOCHS else {}
    return TrainConfig(data=data, device=device.name, **{**more, **told})


def train(
    config: TrainConfig, splits: Splits, device: Device,
    go_on: Callable[[], bool] = lambda: True,
) -> Told | None:  # fmt: skip
    """What a run came to; None if it was ended, which it is after the step when `go_on` says no.

    Raises: InputError, TrainingError.
    """
    if config.images:
        splits = limited(splits, config.images)
    with tempfile.TemporaryDirectory(prefix="cnnengine-accuracy-") as place:
        folder = RunFolder(Path(place) / "run")
        trainer = Trainer(config, splits, device, folder)

        def watch(_: object) -> None:
            trainer.stop = trainer.stop or not go_on()

        with folder.held():
            folder.create()
            summary = trainer.run(watch)
    if not summary.finished:
        return None
    return {
        "key": f"accuracy/{config.arch}/{config.data}", "arch": config.arch, "data": config.data,
        "device": device.name, "backends": list(device.backends), "precision": config.precision,
        "epochs": config.epochs, "accuracy": summary.test_accuracy, "loss": summary.test_loss,
        "seconds": summary.seconds, "images_per_second": summary.images_per_second,
        "settings": settings_of(config), "failed": [],
    }  # fmt: skip


def dead_row(config: TrainConfig, told: str) -> Told:
    """The row of a run that failed, and why."""
    return {
        "key": f"accuracy/{config.arch}/{config.data}", "arch": config.arch, "data": config.data,
        "epochs": config.epochs, "accuracy": None, "cpu_accuracy": None, "failed": [told],
    }  # fmt: skip


def settings_of(config: TrainConfig) -> Told:
    """What decides the outcome of a run, but for the device."""
    held = {n: v for n, v in asdict(config).items() if n not in RESUME_MAY_CHANGE}
    return held | {"epochs": config.epochs}


def of_the_cpu(config: TrainConfig, file: Path | None = None) -> float | None:
    """The accuracy that the CPU reached with these settings; None if that is not known."""
    try:
        kept = json.loads((file or KEPT).read_text())
    except OSError:
        return None
    same = kept.get("settings") == settings_of(config)
    return kept["accuracy"] if same else None


def keep(told: Mapping[str, Any], file: Path = KEPT) -> None:
    """Write down what the CPU came to. Raises: InputError."""
    made = {**told, "machine": machine.describe(), "versions": machine.versions()}
    try:
        file.write_text(json.dumps(made, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--keep: cannot write {file}: {error.strerror}") from None


def main(arguments: Sequence[str]) -> int:
    """Run from a command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m cnnengine.bench.accuracy", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--data", default=MINI, help="a data set's name")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where its files are")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--keep", action="store_true", help="hold other devices to it")
    told = parser.parse_args(arguments)
    try:
        device = open_device(told.device)
        if told.keep and device.name != "cpu":
            raise InputError(f"--keep is for --device cpu, not {told.device}")
        more = {} if told.epochs is None else {"epochs": told.epochs}
        splits = splits_of(told.data, told.data_dir)[told.data]
        made = train(config_of(told.data, device, **more), splits, device)
        assert made is not None
        if told.keep:
            keep(made)
    except (InputError, KernelError, TrainingError) as error:
        print(f"accuracy: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
