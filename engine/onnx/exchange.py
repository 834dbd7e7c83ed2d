"""An ONNX file becomes a folder that eval, predict and train take: the network and a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..checkpoint import RunFolder, save_model
from ..errors import InputError
from ..exchange import Wish, per_channel
from ..model_meta import Source
from ..network import Description
from .file import load
from .network import network
from .reader import parse


def import_file(
    path: Path, wish: Wish, folder: Path, *, overwrite: bool = False
) -> tuple[Description, Mapping[str, np.ndarray]]:
    """Write `folder`, the network and its weights in one file each; what they are.

    Raises: InputError, before anything is written.
    """
    if wish.arch or wish.options:
        raise InputError(f"{path} is a network of its own; leave --arch and --option out")
    _check_free(folder, overwrite)
    file = load(path, external=True)
    found = network(parse(file.proto, str(path), file.numbers))
    shape = found.input_shape
    if wish.image_size is not None:
        shape = (*wish.image_size, shape[2])
    arrays = found.initial(shape)
    told = {entry.key: entry.value for entry in file.proto.metadata_props}
    mean, std = (
        per_channel(name, given or _numbers(told, name), shape[2], path)
        for name, given in (("mean", wish.mean), ("std", wish.std))
    )
    run = RunFolder(folder)
    description = Description(
        str(run.onnx.resolve()), shape, _classes(path, wish, told, found.classes), mean, std,
        code=files.sha256(file.content),
    )  # fmt: skip
    files.make_folder(folder)
    run.save_code(description.arch, file.content)
    save_model(run.model, description, arrays, Source(f"unknown data (weights from {path.name})"))
    return description, arrays


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raises: InputError when the folder may not be written."""
    run = RunFolder(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; an ONNX file becomes a folder")
    mine = run.onnx, run.model, run.confusion
    there = sorted(folder.iterdir()) if folder.exists() else []
    strange = [path.name for path in there if path not in mine]
    if strange:
        raise InputError(f"--out {folder} holds {strange[0]}; name an empty or a new folder")
    if there and not overwrite:
        raise InputError(f"{folder} exists; give --overwrite to replace it, or another --out")


def _json(told: Mapping[str, str], name: str, kind: type) -> list[Any] | None:
    """A list that an exported file tells of itself, if it is one."""
    try:
        found = json.loads(told.get(name, "null"))
    except ValueError:
        return None
    fits = isinstance(found, list) and all(isinstance(entry, kind) for entry in found)
    return found if fits else None


def _numbers(told: Mapping[str, str], name: str) -> list[float] | None:
    return _json(told, name, float)


def _classes(path: Path, wish: Wish, told: Mapping[str, str], count: int) -> tuple[str, ...]:
    """The names of the classes; numbers where nobody has names."""
    given = _json(told, "classes", str) if wish.classes is None else wish.classes
    known = given if isinstance(given, int) else count if given is None else len(given)
    if known != count:
        raise InputError(f"--classes tells {known} classes, {path} has {count}")
    return tuple(map(str, range(count))) if isinstance(given, int | None) else tuple(given)
