"""All that the page of a picture tells, computed: answers, sizes, filters, maps, patches, heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data import Dataset
from ..diagnose import answer_not_finite
from ..errors import InputError, unknown_name
from ..evaluate import log_softmax
from ..ir import Graph
from ..network import Network
from .gradcam import grad_cam
from .patches import Patch, strongest_patches
from .probe import Probe, inference_graph
from .receptive import Field, fields
from .stages import Stage, find, low_middle_high, stages

TOP = 5  # answers
LEVELS = {1: ("",), 2: ("Low", "High"), 3: ("Low", "Middle", "High")}  # of so many layers


@dataclass(frozen=True)
class Step:
    """A stage on the way: its `shape` without N, and the rows and columns that one value sees."""

    name: str
    kind: str
    shape: tuple[int, ...]
    sees: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of a layer: its map float32 [H,W], and the patches that excite it most."""

    number: int
    map: np.ndarray
    patches: list[Patch]


@dataclass(frozen=True, eq=False)
class Layer:
    """The strongest channels of a layer; `low` and `high` are the extremes of all its values.

    `level` says of a layer that nobody chose that it is low, in the middle or high.
    """

    step: Step
    level: str
    channels: list[Channel]
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class View:
    """What a network sees in `image` uint8 [H,W,C].

    answers: (class, probability), the likeliest first; filters float32 [K,R,S,C] of the layer
    `first`; heat float64 [H,W] for the class `looked_for`, at the layer `looked_at`.
    """

    arch: str
    parameters: int
    image: np.ndarray
    answers: list[tuple[str, float]]
    steps: list[Step]
    first: str
    filters: np.ndarray
    layers: list[Layer]
    heat: np.ndarray
    looked_for: tuple[str, float]
    looked_at: Step
    data: str = ""
    data_images: int = 0


def choose_layers(network: Network, names: Sequence[str] = ()) -> list[Stage]:
    """The layers called `names`, or a low, a middle and a high one.

    Raises: InputError for a name that does not fit, and for a network without convolutions.
    """
    graph = inference_graph(network, 1)
    if not any(node.op == "conv2d" for node in graph.nodes):
        raise InputError(
            f"{network.description.arch} has no convolution, so there are no pictures to show"
        )
    found = [find(graph, name) for name in names] or low_middle_high(stages(graph))
    repeated = [s.name for i, s in enumerate(found) if s.value in [t.value for t in found[:i]]]
    if repeated:
        raise InputError(f"--layers names {repeated[0]} twice")
    if not found:
        raise InputError(
            f"{network.description.arch} has no layer with more than one pixel on its way, so "
            "there are no pictures to show; give --layers"
        )
    return found


def class_number(network: Network, name: str) -> int:
    """The number of the class called `name`. Raises: InputError."""
    classes = network.description.classes
    if name not in classes:
        raise unknown_name("class", name, classes)
    return classes.index(name)


def look(
    network: Network, image: np.ndarray, chosen: Sequence[str] = (), *, channels: int = 8,
    label: int | None = None, dataset: Dataset | None = None,
) -> View:  # fmt: skip
    """Look at uint8 `image` [H,W,C] through `network`, inside its device's session.

    `chosen` names layers, `channels` counts those shown of each, `label` is the class that the
    heat is for (the likeliest), `dataset` is searched for patches.

    Raises: InputError as `choose_layers`, and when an answer is not finite.
    """
    wanted = choose_layers(network, chosen)
    graph = inference_graph(network, 1)
    known = {value.name: told for value, told in fields(graph).items()}
    way = stages(graph)
    steps = {s.name: Step(s.name, s.kind, s.value.shape[1:], known[s.value.name].size)
             for s in (*way, *wanted)}  # fmt: skip
    logits = _logits(network, image)
    probabilities = np.exp(log_softmax(logits[None]))[0]
    classes, order = network.description.classes, np.argsort(-logits, kind="stable")
    label = int(order[0]) if label is None else label
    last = ([s for s in way if s.is_map] or wanted)[-1]
    first = next(node for node in graph.nodes if node.op == "conv2d")
    return View(
        arch=network.description.arch, parameters=graph.parameter_count(), image=image,
        answers=[(classes[i], float(probabilities[i])) for i in order[:TOP]],
        steps=[_image_step(graph), *(steps[s.name] for s in way)], first=first.name,
        filters=network.state_dict()[first["w"].name].astype(np.float32),
        layers=_layers(
            network, image, {s.value.name: steps[s.name] for s in wanted}, known, channels, dataset,
            [""] * len(wanted) if chosen else LEVELS[len(wanted)],
        ),
        heat=grad_cam(network, image, label, last.value.name).heat,
        looked_for=(classes[label], float(probabilities[label])), looked_at=steps[last.name],
        data=dataset.name if dataset is not None else "",
        data_images=len(dataset) if dataset is not None else 0,
    )  # fmt: skip


def _logits(network: Network, image: np.ndarray) -> np.ndarray:
    """float32 [classes] for uint8 [H,W,C]. Raises: InputError when one is not finite."""
    logits = network.logits(image[None])[0]
    if not np.isfinite(logits).all():
        raise answer_not_finite(network, image[None])
    return logits


def _layers(
    network: Network, image: np.ndarray, wanted: Mapping[str, Step], known: Mapping[str, Field],
    channels: int, dataset: Dataset | None, levels: Sequence[str],
) -> list[Layer]:  # fmt: skip
    """The layers of the values `wanted` with their strongest channels."""
    probe = Probe(network, list(wanted))
    values = {name: maps[0] for name, maps in probe(image[None]).items()}
    strongest = {name: _strongest(maps, channels) for name, maps in values.items()}
    patches: dict[tuple[str, int], list[Patch]] = {}
    if dataset is not None:
        patches = strongest_patches(probe, dataset, strongest, known)
    layers = []
    for (name, step), level in zip(wanted.items(), levels, strict=True):
        shown = [Channel(k, values[name][..., k], patches.get((name, k), []))
                 for k in strongest[name]]  # fmt: skip
        low, high = float(values[name].min()), float(values[name].max())
        layers.append(Layer(step, level, shown, low, high))
    return layers


def _strongest(values: np.ndarray, count: int) -> list[int]:
    """The `count` channels of [H,W,C] with the greatest values, the greatest first."""
    return np.argsort(-values.max(axis=(0, 1)), kind="stable")[:count].tolist()


def _image_step(graph: Graph) -> Step:
    """The image itself as the first step."""
    return Step("the picture", "input", graph.inputs[0].shape[1:], (1, 1))
