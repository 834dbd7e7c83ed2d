"""Trained weights from other programs, and for them.

    weights = read_weights(Path("resnet18.pth"), description)
    network.load(weights.arrays)

No number is read before all names and shapes are known to fit, and none that is not finite gets in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .errors import InputError
from .models import get_model, list_models
from .naming import Naming, find_naming, head
from .network import Description
from .tensorfiles import Shape, Tensors, open_tensors, shown

COUNTER = ".num_batches_tracked"  # torch's batch norm counts batches; nothing here needs it
OPTIMIZER = "optimizer/"  # what a checkpoint has besides
FLOATS = ("float64", "float32", "float16", "bfloat16")
DATA_PARALLEL = "module."  # what torch's DataParallel puts in front of every name
LISTED = 500  # names of each kind in an error: more than the largest network has


@dataclass(frozen=True)
class Weights:
    """Arrays by our names in our layouts, float32 (float64 for a network in fp64).

    `kind` is the naming of the file, "own" or "torchvision"; `missing` are the tensors of the last
    layer where the file knows another number of classes; `notes` say in one line each what was left
    out or changed; `meta` is what cnnengine wrote into the file.
    """

    arrays: dict[str, np.ndarray]
    kind: str
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    meta: Mapping[str, Any]


def read_weights(path: Path, description: Description, *, other_classes: bool = False) -> Weights:
    """The weights for a network in a file (or run folder): safetensors, .npz, or torch's .pth.

    With `other_classes` the file may know another number of classes; the last layer is then not in
    `arrays` but in `missing`.

    Raises: InputError; for weights that do not fit it names the listed network that they do fit, or
    every tensor that is missing, unknown or of another shape.
    """
    with open_tensors(path) as file:
        return fit_weights(file, description, other_classes=other_classes)


def fit_weights(file: Tensors, description: Description, *, other_classes: bool = False) -> Weights:
    """`read_weights` of an open file. Raises: InputError."""
    file, notes = _without_prefix(file)
    fit = _fit(file.shapes, description, other_classes)
    if fit.wrong:
        raise _not_fitting(file, description, fit)
    names = {o: n for o, n in fit.naming.names.items() if o not in fit.missing}
    _check_types(file, names.values())
    dtype = "float64" if description.precision == "fp64" else "float32"
    arrays = {o: _as(dtype, fit.naming.to_ours(o, file.read(n))) for o, n in names.items()}
    _check_whole(file)
    _check_values(file.path, arrays, names)
    notes += _told(file, fit, names.values(), dtype)
    return Weights(arrays, fit.naming.kind, fit.missing, tuple(notes), file.meta)


def count_classes(file: Tensors, description: Description) -> int | None:
    """How many classes the last layer in a file knows; None where the file has no such layer.

    Raises: InputError.
    """
    shapes = _without_prefix(file)[0].shapes
    graph = description.graph(1, training=False)
    naming = find_naming(shapes, graph, get_model(description.arch).torchvision)
    shape = shapes.get(naming.names[f"{head(graph)}/w"])
    return shape[0] if shape else None


def _without_prefix(file: Tensors) -> tuple[Tensors, list[str]]:
    """The file with `module.` taken off where every name begins with it, and a note of it."""
    if not file.shapes or not all(name.startswith(DATA_PARALLEL) for name in file.shapes):
        return file, []
    shapes, dtypes = (
        {name.removeprefix(DATA_PARALLEL): told for name, told in table.items()}
        for table in (file.shapes, file.dtypes)
    )
    shorter = replace(
        file, shapes=shapes, dtypes=dtypes, read=lambda name: file.read(DATA_PARALLEL + name)
    )
    return shorter, [f"took {DATA_PARALLEL!r} off the front of every name"]


# What fits


@dataclass(frozen=True)
class _Fit:
    """How a file's tensors fit a network.

    `counters`, `optimizer` and `heads` are in the file and not needed, `missing` is the last layer
    for another number of classes, `wrong` says what is wrong with which tensors, empty where all is
    well.
    """

    naming: Naming
    counters: set[str]
    optimizer: set[str]
    heads: set[str]
    missing: tuple[str, ...]
    wrong: dict[str, list[str]]


def _fit(shapes: Mapping[str, Shape], description: Description, other_classes: bool) -> _Fit:
    table = get_model(description.arch).torchvision
    graph = description.graph(1, training=False)
    naming = find_naming(shapes, graph, table)
    wanted = {name: naming.shapes[ours] for ours, name in naming.names.items()}
    extra = shapes.keys() - wanted.keys()
    counters = {name for name in extra if name.endswith(COUNTER)}
    optimizer = {name for name in extra if name.startswith(OPTIMIZER)}
    extra -= counters | optimizer
    heads: set[str] = set()
    if extra:
        heads = extra & _trained_names(shapes, description)
    missing: tuple[str, ...] = ()
    if other_classes:
        missing = _other_head(shapes, naming, head(graph))
    free = {naming.names[ours] for ours in missing}
    wrong = {
        "missing": [n for n in wanted if n not in shapes],
        "unknown": [shown(n) for n in shapes if n in extra - heads],
        "of another shape": [
            f"{n} is {shapes[n]}, not {shape}"
            for n, shape in wanted.items()
            if n in shapes and n not in free and shapes[n] != shape
        ],
    }
    wrong = {what: names for what, names in wrong.items() if names}
    return _Fit(naming, counters, optimizer, heads, missing, wrong)


def _trained_names(shapes: Mapping[str, Shape], description: Description) -> set[str]:
    """The names in the file of all that training uses; images may be too small for that."""
    model = get_model(description.arch)
    for size in (description.input_shape, model.input_shape):
        with contextlib.suppress(InputError):
            graph = replace(description, input_shape=size).graph(2, training=True)
            return set(find_naming(shapes, graph, model.torchvision).names.values())
    return set()


def _other_head(shapes: Mapping[str, Shape], naming: Naming, layer: str) -> tuple[str, ...]:
    """Our names of the last layer's tensors, where only the number of classes is another."""
    tensors = tuple(ours for ours in naming.names if ours.rpartition("/")[0] == layer)
    wanted = [naming.shapes[ours] for ours in tensors]
    found = [shapes.get(naming.names[ours], ()) for ours in tensors]
    counts = {shape[:1] for shape in found}
    only_count = len(counts) == 1 and [f[1:] for f in found] == [w[1:] for w in wanted]
    return tensors if only_count and found != wanted else ()


def _not_fitting(file: Tensors, description: Description, fit: _Fit) -> InputError:
    """The error: the network that the weights do fit, or all that is wrong."""
    for model in list_models():
        other = replace(
            description, arch=model.name, input_shape=model.input_shape, options={}, code=""
        )
        if model.name != description.arch and not _fit(file.shapes, other, True).wrong:
            return InputError(
                f"{file.path} does not fit {description.arch}: it holds the weights of {model.name}"
            )
    told = []
    for what, names in fit.wrong.items():
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        told.append(f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}")
    return InputError(f"{file.path} does not fit {description.arch}: {'; '.join(told)}")


# What is in it


def _check_types(file: Tensors, names: Iterable[str]) -> None:
    strange = [f"{n} is {file.dtypes[n]}" for n in names if file.dtypes[n] not in FLOATS]
    if strange:
        raise InputError(
            f"{file.path}: weights must be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, but "
            f"{', '.join(strange[:LISTED])}"
        )


def _check_whole(file: Tensors) -> None:
    """Hold the numbers to the checksum that cnnengine wrote, where it did."""
    expected = file.meta.get(files.CHECKSUM)
    if expected is None:
        return
    found = files.checksum({name: np.ascontiguousarray(file.read(name)) for name in file.shapes})
    if found != expected:
        raise InputError(
            f"{file.path} is damaged: its CRC-32 is {found}, it was written as {expected}"
        )


def _as(dtype: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        return np.ascontiguousarray(array, dtype)


def _check_values(path: Path, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
    """Raises: InputError naming each tensor with NaN, infinite, or negative variances."""
    wrong = []
    for ours, array in arrays.items():
        finite = np.isfinite(array)
        if not finite.all():
            nan = int(np.isnan(array).sum())
            counts = ((nan, "NaN"), (int((~finite).sum()) - nan, "infinite"))
            told = " and ".join(f"{n:,} {what}" for n, what in counts if n)
            wrong.append(f"{names[ours]} holds {told} of {array.size:,}")
        elif ours.endswith("/running_var") and (array < 0).any():
            wrong.append(f"{names[ours]} holds variances below zero")
    if wrong:
        raise InputError(f"{path}: {'; '.join(wrong[:LISTED])}")


def _told(file: Tensors, fit: _Fit, names: Iterable[str], dtype: str) -> list[str]:
    notes = []
    if fit.counters:
        notes.append(f"left out {len(fit.counters)} *{COUNTER}, counters that nothing reads")
    if fit.optimizer:
        notes.append(f"left out {len(fit.optimizer)} {OPTIMIZER}*, which only training uses")
    if fit.heads:
        notes.append(
            f"left out {len(fit.heads)} tensors of auxiliary heads, which only training uses"
        )
    kinds = sorted({file.dtypes[name] for name in names} - {dtype})
    if kinds:
        notes.append(f"{' and '.join(kinds)} became {dtype}")
    return notes
