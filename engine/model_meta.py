"""What a model file says of itself: its network, and the data that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import userfile
from .errors import InputError
from .network import Description
from .precision import PRECISIONS

MOST_PIXELS = 1 << 16  # a side of an image


@dataclass(frozen=True)
class Source:
    """The data that a model was trained on, and how a folder of images was read and split."""

    name: str
    seed: int = 0
    image_size: str = ""
    skip_bad: bool = False


def told_of_model(description: Description, source: Source) -> dict[str, Any]:
    """The metadata of a model as plain JSON types; `parse_model` reads it.

    A network in a file goes by its whole path, so that it is found from any folder.
    """
    told = description.to_json() | {"arch": userfile.settled(description.arch)}
    return {"data": asdict(source), **told}


def parse_model(meta: Mapping[str, Any], file: Path) -> tuple[Description, Source]:
    """Back from `told_of_model`. Raises: InputError when a field is missing, unknown or wrong."""
    told = dict(meta)
    try:
        source = Source(**told.pop("data"))
    except (KeyError, TypeError):
        raise InputError(f"{file} does not tell which data it was trained on") from None
    for name, value in (told | asdict(source)).items():
        if name in FIELDS and not FIELDS[name](value):
            raise InputError(f"{file} is damaged: {name} in its metadata is {value!r:.60}")
    return Description.from_json(told), source


def _all(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(fits, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


FIELDS: dict[str, Callable[[Any], bool]] = {  # of a model's metadata → whether a value can be one
    "input_shape": lambda v: _all(v, lambda n: type(n) is int and 0 < n <= MOST_PIXELS),
    "classes": lambda v: _all(v, lambda name: isinstance(name, str)),
    "mean": lambda v: _all(v, _is_number),
    "std": lambda v: _all(v, lambda n: _is_number(n) and n > 0),
    "precision": lambda v: isinstance(v, str) and v in PRECISIONS,
    "options": lambda v: isinstance(v, dict),
    "name": lambda v: isinstance(v, str),
    "seed": lambda v: type(v) is int,
    "image_size": lambda v: isinstance(v, str),
    "skip_bad": lambda v: isinstance(v, bool),
}
