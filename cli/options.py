"""Options that several commands share, and the settings of a training run as options.

The settings' names, types and defaults are those of `TrainConfig`; here is only what each is for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..engine.config import UPRIGHT, TrainConfig, default_lr
from ..engine.errors import InputError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
PLACES = "cpu, cuda, cuda:N, interpreter, or auto: the CPU, until GPUs have been tried"
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
DEVICE = click.option("--device", default=TrainConfig.device, show_default=True,
                      shell_complete=lambda *a: _among("device", *a),
                      help=f"{PLACES}.")  # fmt: skip
KERNELS = click.option("--kernels", default=TrainConfig.kernels, show_default=True,
                       shell_complete=lambda *a: _among("kernels", *a),
                       help="auto: the best that can run; or one backend.")  # fmt: skip
OPTION = click.option("--option", "options", multiple=True, metavar="NAME=VALUE",
                      help="A network's own option, like width=0.5; may be repeated.")  # fmt: skip

SETTINGS = {
    "arch": "The network; `cnnengine show` lists them. Or layers ('C64 C64 P F256'), or "
    "FILE.py:FUNCTION, which is run, or FILE.onnx.",
    "data": "A data set's name, or a folder of images with one sub-folder a class.",
    "epochs": "How often every training image is seen.",
    "batch_size": "Images a step.",
    "optimizer": "sgd or adamw.",
    "lr": "The highest learning rate.",
    "momentum": "Of sgd.",
    "schedule": "How the learning rate goes: constant, cosine or step.",
    "weight_decay": "Pull of the weights towards zero.",
    "label_smoothing": "Share of the target spread over all classes.",
    "precision": "fp32, tf32, fp16, bf16 or fp64.",
    "seed": "Names every random number of the run.",
    "shift": "Move training images by up to that many pixels.",
    "flip": "Mirror half of the training images.",
    "image_size": "Scale images to N or HEIGHTxWIDTH pixels.",
    "skip_bad": "Leave unreadable pictures of a folder out and list them.",
    "images": "Use so many training images, and at most as many to test; 0: all.",
    "init_from": "Start from trained weights: a run folder, a model file, torchvision's weights. "
    "Arch, image size, mean and std are then theirs unless told.",
    "freeze_until": "Do not train the layers up to and including that one, like fire9.",
    "unfreeze_at": "EPOCH:LAYER, like 5:fire8: from that epoch on train that layer and all behind "
    "it; may be repeated.",
    "lower_lr": "The last layer learns at --lr, each group of layers in front of it (trained from "
    "the start; added by --unfreeze-at) at FACTOR times the rate of the group behind.",
    "mean": "What is taken off each channel of an image in 0 … 1, like 0.485,0.456,0.406; else the "
    "mean of the training images.",
    "std": "What each channel is then divided by; else their standard deviation.",
    "cache_dir": "Where the outputs of frozen layers are kept; else the user's cache folder.",
    "cache_gb": "How much may be kept there, in GB; 0: the frozen layers run in every step.",
    "device": f"{PLACES}.",
    "kernels": "auto: the best that can run; or one backend.",
    "graph": "On a GPU, replay each step as one CUDA graph.",
    "threads": "Threads of the CPU's kernels; 0: one a core.",
    "energy_country": "Whose electricity the CO2 is of, like DEU; else the world's.",
    "stop_above_wh": "Save and stop once the run has used more watt-hours; 0: no limit.",
}


METAVARS = {"lower_lr": "FACTOR", "freeze_until": "LAYER", "init_from": "FILE|RUN"}
REPEATED = {
    "options": OPTION,
    "unfreeze_at": click.option("--unfreeze-at", multiple=True, metavar="EPOCH:LAYER",
                                help=SETTINGS["unfreeze_at"]),
}  # fmt: skip


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting; those not given are None."""
    for setting in reversed(fields(TrainConfig)):
        decorator = REPEATED.get(setting.name) or _setting(setting.name, setting.default)
        command = decorator(command)
    return command


def _setting(name: str, default: Any) -> Decorator:
    flag = name.replace("_", "-")
    told = f"[default: {default}]"
    if isinstance(default, bool):
        told = f"[default: {'' if default else 'no-'}{flag}]"
        if name == "flip":
            told = f"[default: flip; {', '.join(UPRIGHT)}: no-flip]"
        return click.option(
            f"--{flag}/--no-{flag}", name, default=None, help=f"{SETTINGS[name]}  {told}"
        )
    if name == "lr":
        folder = default_lr("sgd", folder=True)
        told = f"[default: {default}; for a folder {folder}; adamw: {default_lr('adamw')}]"
    if default == "":
        told = ""
    return click.option(
        f"--{flag}", name, type=type(default), default=None, metavar=METAVARS.get(name),
        help=f"{SETTINGS[name]}  {told}",
        shell_complete=functools.partial(_among, name),
    )  # fmt: skip


def _among(
    what: str, ctx: click.Context, option: click.Parameter, typed: str
) -> list[CompletionItem]:
    """The known values of a setting that begin with what was typed, for the shell."""
    return [CompletionItem(name) for name in _known(what) if name.startswith(typed)]


def _known(what: str) -> Iterable[str]:
    from ..engine import data, device, models, optim, precision, schedule

    known: dict[str, Iterable[str]] = {
        "arch": (model.name for model in models.list_models()),
        "data": data.REGISTRY,
        "optimizer": optim.OPTIMIZERS,
        "schedule": schedule.SCHEDULES,
        "precision": precision.PRECISIONS,
        "device": device.DEVICES,
        "kernels": device.KERNELS,
    }
    return known.get(what, ())


def complete_arch(ctx: click.Context, option: click.Parameter, typed: str) -> list[CompletionItem]:
    """The names of networks, for the shell."""
    return _among("arch", ctx, option, typed)


def network_options(told: Iterable[str]) -> dict[str, Any]:
    """{"width": 0.5} from ("width=0.5",). Raises: InputError."""
    options: dict[str, Any] = {}
    for text in told:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"--option must be NAME=VALUE, like width=0.5, not {text!r}")
        if name in options:
            raise InputError(f"--option {name} is given twice")
        options[name] = _literal(value)
    return options


def _literal(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
