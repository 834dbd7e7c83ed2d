"""Networks: functions over GraphBuilder, registered by name, one file a family.

@register_model("vgg-small", input_shape=(28, 28, 1))
def vgg_small(b, x, classes, *, width=1.0): ...      # returns the logits [N, classes]
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import assemble, userfile
from ..build import GraphBuilder
from ..errors import InputError, unknown_name
from ..ir import Graph, Value
from ..onnx import network as onnx

Network = Callable[..., Value]

SHAPE, CLASSES = (28, 28, 1), 10  # of a network that tells none
MOST_WIDTH = 64  # vgg-small then has 2.4 thousand million weights


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Torchvision:
    """The same network in torchvision: our layer → its module, and how its images are normalised.

    mean and std are per channel in units of 0 … 1, those of torchvision's trained weights.
    """

    layers: Mapping[str, str]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True)
class Model:
    """A registered network and the image size (H, W, C) and class count that it was made for.

    `initial`: of a network that brings its weights along, those for an image size, by our names.
    """

    name: str
    build: Network
    input_shape: tuple[int, int, int]
    classes: int
    summary: str
    torchvision: Torchvision | None = None
    initial: Callable[[tuple[int, int, int]], Mapping[str, np.ndarray]] | None = None


MODELS: dict[str, Model] = {}


def register_model(
    name: str, *, input_shape: tuple[int, int, int], classes: int = 10,
    torchvision: Torchvision | None = None,
) -> Callable[[Network], Network]:  # fmt: skip
    """Register a network function under `name`; its docstring's first line is the summary."""

    def register(function: Network) -> Network:
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        MODELS[name] = Model(name, function, input_shape, classes, summary, torchvision)
        return function

    return register


def get_model(name: str) -> Model:
    """The network called `name`, described by it (`assemble`), or in a file (`userfile`, `onnx`).

    Raises: InputError; for an unknown name with close matches.
    """
    _load_families()
    if name in MODELS:
        return MODELS[name]
    if (found := userfile.reference(name)) is not None:
        function = userfile.load(found)
        written = inspect.unwrap(function)
        like = next((m for m in MODELS.values() if m.build is written), None)
        summary = (inspect.getdoc(written) or "").partition("\n")[0]
        shape, classes = (like.input_shape, like.classes) if like else (SHAPE, CLASSES)
        return Model(name, function, shape, classes, summary)
    if userfile.is_onnx(name):
        found = onnx.open_network(Path(name))
        return Model(
            name, found.build, found.input_shape, found.classes, "From an ONNX file.",
            initial=found.initial,
        )  # fmt: skip
    if name.endswith(".py"):
        raise InputError(f"--arch {name}: name the function in the file too, like {name}:build")
    if assemble.is_description(name):
        return Model(name, assemble.network(name), SHAPE, CLASSES, "Assembled from a description.")
    raise unknown_name("architecture", name, MODELS)


def list_models() -> list[Model]:
    """All registered networks, by name."""
    _load_families()
    return [MODELS[name] for name in sorted(MODELS)]


def model_options(model: Model) -> dict[str, Any]:
    """The network's own options (`width`) and their defaults."""
    parameters = inspect.signature(model.build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_options(model: Model, options: Mapping[str, Any]) -> None:
    """Hold options to the names and types of the network. Raises: InputError."""
    known = model_options(model)
    for name, value in options.items():
        if not known:
            raise InputError(f"{model.name} has no options, so none called {name!r}")
        if name not in known:
            raise unknown_name(f"option of {model.name}", name, known)
        kind = type(known[name])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            words = {float: "a number", int: "a whole number", bool: "true or false"}
            word = words.get(kind, "text")
            raise InputError(f"option {name} of {model.name} must be {word}, not {value!r}")


def scaled(count: int, width: float, multiple: int = 1) -> int:
    """`count` filters times `width`, rounded to a positive multiple. Raises: InputError."""
    if not 0 < width <= MOST_WIDTH:
        raise InputError(f"option width must be above 0 and at most {MOST_WIDTH}, not {width}")
    return multiple * max(1, round(count * width / multiple))


def _load_families() -> None:
    for family in pkgutil.iter_modules(__path__):
        importlib.import_module(f".{family.name}", __name__)


def build_graph(
    arch: str,
    batch: int,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    training: bool,
    dtype: str = "float32",
    products: str = "ieee",
    label_smoothing: float = 0.0,
    scaled: bool = False,
    options: dict[str, Any] | None = None,
    pixels: tuple[Iterable[float], Iterable[float]] | None = None,
) -> Graph:
    """The graph of a network (`get_model`) for one batch size.

    Inputs: x [batch, H, W, C], and for training labels int32 [batch]. Outputs: logits, and for
    training loss [batch], that of the logits; auxiliary heads only add to the gradients.
    `products` is `spec.Conv2d.precision`; `options` are the network's own (`width`). `pixels` are
    (mean, scale) by which x is made in the graph, from inputs images uint8 [batch, H, W, C] and for
    training moves int32 [batch, 3]; see `spec.normalise`.

    Raises: InputError for an unknown network or option, or an image that is too small (names the
    layer).
    """
    model = get_model(arch)
    options = options or {}
    check_options(model, options)
    b = GraphBuilder(arch, dtype=dtype, products=products, training=training)
    shape = (batch, *input_shape)
    x = b.input("x", shape) if pixels is None else b.pictures(shape, *pixels)
    labels = b.input("labels", (batch,), "int32") if training else None
    logits = model.build(b, x, classes, **options)
    if not isinstance(logits, Value) or logits.shape != (batch, classes):
        told = logits.shape if isinstance(logits, Value) else logits
        raise InputError(f"{arch} must return logits of shape {(batch, classes)}, not {told}")
    if labels is None:
        return b.finish(logits=logits)
    loss = b.softmax_cross_entropy(logits, labels, label_smoothing, scaled)
    for number, (head, weight) in enumerate(b.auxiliaries, start=1):
        b.softmax_cross_entropy(
            head, labels, label_smoothing, scaled, name=f"loss_auxiliary{number}", weight=weight
        )
    return b.finish(logits=logits, loss=loss)
