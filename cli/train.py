"""`cnnengine train`: resolve the settings, check everything, train, sum up."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine import userfile
from ..engine.config import (
    RESUME_MAY_CHANGE,
    TrainConfig,
    check_settings,
    default_run_folder,
    parse_image_size,
    resolve_config,
)
from ..engine.errors import InputError
from . import options, output
from .summary import sum_up

if TYPE_CHECKING:
    from ..engine.train import Summary, Trainer

AT_LIMIT = 3  # the exit code of a run that stopped itself


@click.command("train")
@options.settings
@click.option("--out", type=Path, help="The run folder.  [default: runs/ARCH-DATA-N]")
@click.option("--resume", type=Path, metavar="RUN", help="Continue that run where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the --out folder.")
@click.option("--config", "config_file", type=Path, metavar="FILE",
              help="Settings from a TOML file; options given here beat it.")  # fmt: skip
@options.JSON
def command(
    out: Path | None, resume: Path | None, overwrite: bool, config_file: Path | None, as_json: bool,
    **told: Any,
) -> None:  # fmt: skip
    """Train a network and keep everything in one run folder.

    Ctrl-C finishes the step, saves and stops; --resume goes on from there and ends with the same
    weights as a run that was never stopped.
    """
    flags = {name: value for name, value in told.items() if value is not None and value != ()}
    if "options" in flags:
        flags["options"] = options.network_options(flags["options"])
    if "unfreeze_at" in flags:
        flags["unfreeze_at"] = " ".join(flags["unfreeze_at"])
    flags |= _whole_paths(flags)
    if resume is not None:
        _refuse_beside_resume(out=out, overwrite=overwrite, config=config_file)
        config = _resumed(resume, flags)
    else:
        config = _new(_settings_of(config_file), flags)
    trainer = _prepare(config, resume or out or default_run_folder(config), overwrite, bool(resume))
    with trainer.folder.held():
        if resume is not None:
            trainer.resume()
        else:
            trainer.folder.create(overwrite=overwrite)
        trainer.folder.save_config(asdict(config))
        trainer.folder.save_code(config.arch, trainer.code)
        _introduce(trainer)
        summary, stopped_by = _run(trainer)
        sum_up(trainer, summary, as_json)
    if not summary.finished:
        why, more, code = "", "", 128 + stopped_by
        if trainer.over_limit and not stopped_by:
            unknown = summary.energy.wh is None
            why = "energy unknown from here on" if unknown else f"above {config.stop_above_wh:g} Wh"
            why, more = f": {why}", f" --stop-above-wh {0 if unknown else 'MORE'}"
            code = AT_LIMIT
        output.note(
            f"cnnengine: stopped at step {summary.steps} of {trainer.total_steps} and saved{why}; "
            f"continue with: cnnengine train --resume {trainer.folder.path}{more}"
        )
        sys.exit(code)


def _new(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run that begins. Raises: InputError."""
    config = resolve_config(settings, _whole_paths(settings), flags)
    config = replace(config, data=_absolute(config.data), arch=userfile.settled(config.arch))
    if not config.init_from:
        return config
    from ..engine.transfer import completed

    return completed(config, arch_given="arch" in settings or "arch" in flags)


def _whole_paths(told: Mapping[str, Any]) -> dict[str, str]:
    """The settings that are paths, so that they hold in any folder."""
    names = ("init_from", "cache_dir")
    return {name: str(Path(told[name]).resolve()) for name in names if told.get(name)}


def _refuse_beside_resume(**given: Any) -> None:
    for name, value in given.items():
        if value:
            raise InputError(f"--{name} cannot stand beside --resume, which goes on as before")


def _settings_of(file: Path | None) -> Mapping[str, Any]:
    if file is None:
        return {}
    from ..engine.checkpoint import read_toml

    return check_settings(read_toml(file), str(file))


def _resumed(path: Path, flags: Mapping[str, Any]) -> TrainConfig:
    """The run's configuration with the flags on top. Raises: InputError for one that differs."""
    from ..engine.checkpoint import RunFolder

    folder = RunFolder(path)
    saved = resolve_config(check_settings(folder.load_config(), str(folder.config)))
    told = resolve_config(
        asdict(saved),
        {
            **flags,
            "data": _absolute(flags.get("data", saved.data)),
            "arch": userfile.settled(flags.get("arch", saved.arch)),
        },
    )
    for name, before in asdict(saved).items():
        value = getattr(told, name)
        if value != before and name not in RESUME_MAY_CHANGE:
            raise InputError(
                f"cannot resume {path} with another {name.replace('_', '-')}: it has "
                f"{before}, not {value}"
            )
    return told


def _absolute(data: str) -> str:
    """A folder of images as an absolute path, so that a run can be resumed from anywhere."""
    from ..engine.data import REGISTRY

    if data in REGISTRY or not Path(data).is_dir():
        return data
    path = str(Path(data).resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"--data {path!r}: config.toml keeps the path, so it must be valid text"
        ) from None
    return path


def _prepare(config: TrainConfig, path: Path, overwrite: bool, resumed: bool) -> Trainer:
    """Everything checked and compiled; nothing written. Raises: InputError."""
    from ..engine import data
    from ..engine.checkpoint import RunFolder
    from ..engine.device import open_device, use_threads
    from ..engine.models import check_options, get_model
    from ..engine.train import Trainer
    from ..engine.transfer import channels

    check_options(get_model(config.arch), config.options)
    device = open_device(config.device, config.kernels, graphs=config.graph)
    use_threads(config.threads)
    folder = RunFolder(path)
    if not resumed:
        folder.check_free(overwrite=overwrite)
    splits = data.load(
        config.data, skip_bad=config.skip_bad, image_size=parse_image_size(config.image_size),
        channels=channels(config), seed=config.seed,
    )  # fmt: skip
    if config.images:
        splits = data.limited(splits, config.images)
    return Trainer(config, splits, device, folder, resumed=resumed)


def _introduce(trainer: Trainer) -> None:
    from ..engine.hardware import idle_gpu

    config, splits = trainer.config, trainer.splits
    output.note(
        f"{config.arch} on {splits.name} ({splits.note}); {trainer.device.name}, kernels "
        f"{' and '.join(trainer.device.backends)}, {config.precision}"
    )
    if config.device == "auto" and (told := idle_gpu()):
        output.note(told)
    for told in trainer.warnings:
        output.warn(told)
    for told in trainer.notes:
        output.note(told)
    for declined in trainer.device.declined:
        output.warn(f"slower than it could be: {declined}")
    if trainer.device.warning:
        output.warn(trainer.device.warning)
    for skipped in splits.skipped:
        output.warn(f"left out: {skipped}")


def _run(trainer: Trainer) -> tuple[Summary, int]:
    """Train under a live display; the first signal asks for a clean stop, the second ends it."""
    from .progress import display

    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        trainer.stop = True

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with display(trainer) as report:
            summary = trainer.run(report)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return summary, received[0] if received else 0
