"""Models in and out: weights of other programs become a model file, and a model file theirs.

A file that cnnengine wrote, with our names or torchvision's, tells its network, classes and
normalisation; of any other the caller does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import files, userfile
from .checkpoint import FORMAT, load_model, save_model, with_own_copy
from .errors import InputError
from .fitting import check_fit
from .model_meta import Source, parse_model, told_of_model
from .models import get_model
from .naming import check_distinct, own_naming, torch_naming
from .network import Description
from .tensorfiles import Tensors, open_tensors
from .weights import Weights, count_classes, fit_weights

TORCHVISION = "torchvision"  # the format of a model file with torchvision's names
NAMES = ("own", TORCHVISION)
UNKNOWN = Source("unknown data")


@dataclass(frozen=True)
class Wish:
    """What the caller says of a network whose weights are imported; None: as the file tells.

    image_size is (height, width); classes their number or their names; mean and std are per channel
    in units of 0 … 1, one number counts for all channels.
    """

    arch: str | None = None
    options: Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None
    classes: int | Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def import_weights(path: Path, wish: Wish) -> tuple[Description, Source, Weights]:
    """The model that the weights in `path` make. Raises: InputError."""
    with open_tensors(path) as file:
        return _imported(file, wish)


def _imported(file: Tensors, wish: Wish) -> tuple[Description, Source, Weights]:
    written, source = _written(file)
    if written is not None:
        written = _still(written, wish.arch) if wish.arch else with_own_copy(written, file.path)
    unfed = _describe(file, wish, written)
    weights = fit_weights(file, unfed)
    table = get_model(unfed.arch).torchvision if weights.kind == TORCHVISION else None
    mean, std = (
        per_channel(
            name, told or getattr(written or table, name, None), unfed.input_shape[2], file.path
        )
        for name, told in (("mean", wish.mean), ("std", wish.std))
    )
    description = replace(unfed, mean=mean, std=std)
    if description != written:
        source = Source(f"unknown data (weights from {file.path.name})")
    return description, source, weights


def _still(written: Description, arch: str) -> Description | None:
    """What a file tells, if `arch` names its network: by name, or the same code elsewhere."""
    arch = userfile.settled(arch)
    if arch == written.arch:
        return written
    same = written.code and userfile.digest(userfile.content(arch)) == written.code
    return replace(written, arch=arch) if same else None


def export_weights(
    path: Path, description: Description, arrays: Mapping[str, np.ndarray], source: Source,
    names: str,
) -> None:  # fmt: skip
    """Write a model as safetensors with our names, or with torchvision's and torch's layouts.

    Raises: InputError.
    """
    graph = description.graph(1, training=False)
    check_fit(description.arch, own_naming(graph).shapes, arrays)
    if names == "own":
        save_model(path, description, arrays, source)
        return
    table = get_model(description.arch).torchvision
    naming = check_distinct(torch_naming(graph, table))
    theirs = {naming.names[ours]: naming.to_file(ours, array) for ours, array in arrays.items()}
    meta = {"format": [TORCHVISION, FORMAT], **told_of_model(description, source)}
    files.save_tensors(path, theirs, meta)


def _written(file: Tensors) -> tuple[Description | None, Source]:
    """What cnnengine wrote into a file of weights, where it did."""
    meta = dict(file.meta)
    meta.pop(files.CHECKSUM, None)
    told = meta.pop("format", None)
    if "arch" not in meta:
        return _of_run(file.path.parent.parent) if "progress" in meta else (None, UNKNOWN)
    if told not in (FORMAT, [TORCHVISION, FORMAT]):
        raise InputError(f"{file.path} has format {told}, not {FORMAT}")
    return parse_model(meta, file.path)


def _of_run(run: Path) -> tuple[Description | None, Source]:
    """What the model in a run folder tells, for a checkpoint of that run."""
    if not (run / "model.safetensors").is_file():
        return None, UNKNOWN
    description, _, source = load_model(run)
    return description, source


def _describe(file: Tensors, wish: Wish, written: Description | None) -> Description:
    """What the caller says of the network, else the file, else the network; not yet normalised."""
    if wish.arch:
        arch = userfile.settled(wish.arch)
        code = userfile.digest(userfile.content(arch))
    elif written:
        arch, code = written.arch, written.code
        if code:
            userfile.check(arch, code)  # before it is run
    else:
        raise InputError(f"{file.path} does not tell its network; give --arch")
    model = get_model(arch)
    shape = written.input_shape if written else model.input_shape
    if wish.image_size is not None:
        shape = (*wish.image_size, shape[2])
    options = wish.options if wish.options is not None else written.options if written else {}
    flat = (0.0,) * shape[2]
    made = Description(
        arch, shape, tuple(map(str, range(model.classes))), flat, flat,
        written.precision if written else "fp32",
        options=dict(options), code=code,
    )  # fmt: skip
    found = count_classes(file, made)
    return replace(made, classes=_classes(file.path, wish.classes, found, written, model.classes))


def per_channel(
    name: str, told: Sequence[float] | None, channels: int, path: Path
) -> tuple[float, ...]:
    """A number for each channel; one counts for all. Raises: InputError."""
    if told is None:
        raise InputError(f"{path} does not tell how images are normalised; give --mean and --std")
    if len(told) not in (1, channels):
        counts = "one number" if channels == 1 else f"one number or {channels}"
        raise InputError(f"--{name} must be {counts}, not {len(told)}: images have {channels} "
                         f"channel{'s' * (channels > 1)}")  # fmt: skip
    return tuple(told) if len(told) == channels else tuple(told) * channels


def _classes(
    path: Path, told: int | Sequence[str] | None, found: int | None, written: Description | None,
    usual: int,
) -> tuple[str, ...]:  # fmt: skip
    """The names of the classes; numbers where nobody has names."""
    if told is None and written is not None:
        named = len(written.classes)
        if found not in (None, named):
            raise InputError(
                f"{path} names {named} classes, its last layer has {found}; give --classes"
            )
        return written.classes
    names = () if told is None or isinstance(told, int) else tuple(told)
    count = len(names) or told or found or usual
    assert isinstance(count, int)
    if found is not None and found != count:
        raise InputError(f"--classes tells {count} classes, the last layer in {path} has {found}")
    return names or tuple(map(str, range(count)))
