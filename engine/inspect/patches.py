"""The patches of a data set that excite a channel most, cut out by their exact receptive field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data import Dataset
from .probe import Probe
from .receptive import Field


@dataclass(frozen=True, eq=False)
class Patch:
    """A part of image number `index`: uint8 [h,w,C] in `box`, where the channel has `value`.

    `box` is (top, bottom, left, right) in pixels, bottom and right not included.
    """

    index: int
    label: str
    value: float
    box: tuple[int, int, int, int]
    pixels: np.ndarray


def strongest_patches(
    probe: Probe, dataset: Dataset, channels: Mapping[str, Sequence[int]],
    fields: Mapping[str, Field], count: int = 9,
) -> dict[tuple[str, int], list[Patch]]:  # fmt: skip
    """(value's name, channel) → its patches, the strongest first, at most one an image.

    A channel's place in an image is its greatest value, the first in row-major order.
    """
    values = {name: np.empty((len(dataset), len(c)), np.float32) for name, c in channels.items()}
    places = {name: np.empty((len(dataset), len(c)), np.int64) for name, c in channels.items()}
    for start in range(0, len(dataset), probe.batch):
        part = slice(start, start + probe.batch)
        for name, maps in probe(dataset.images[part]).items():
            if name in channels:
                flat = maps[..., channels[name]].reshape(len(maps), -1, len(channels[name]))
                places[name][part] = flat.argmax(axis=1)
                values[name][part] = flat.max(axis=1)
    found = {}
    for name, chosen in channels.items():
        for i, channel in enumerate(chosen):
            best = np.argsort(-values[name][:, i], kind="stable")[:count]
            found[name, channel] = [
                _patch(dataset, int(k), float(values[name][k, i]), int(places[name][k, i]),
                       fields[name])
                for k in best
            ]  # fmt: skip
    return found


def _patch(dataset: Dataset, index: int, value: float, place: int, field: Field) -> Patch:
    box = field.box(*divmod(place, len(field.columns)))
    top, bottom, left, right = box
    label = dataset.classes[dataset.labels[index]]
    return Patch(index, label, value, box, dataset.images[index, top:bottom, left:right])
