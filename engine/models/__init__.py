"""Networks: functions over GraphBuilder, registered by name, one file a family.

@register_model("vgg-small", input_shape=(28, 28, 1))
def vgg_small(b, x, classes, *, width=1.0): ...      # returns the logits [N, classes]
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..build import GraphBuilder
from ..errors import InputError, unknown_name
from ..ir import Graph, Value

Network = Callable[..., Value]


@dataclass(frozen=True)
class Model:
    """A registered network and the image size (H, W, C) and class count that it was made for."""

    name: str
    build: Network
    input_shape: tuple[int, int, int]
    classes: int
    summary: str


MODELS: dict[str, Model] = {}


def register_model(
    name: str, *, input_shape: tuple[int, int, int], classes: int = 10
) -> Callable[[Network], Network]:
    """Register a network function under `name`; its docstring's first line is the summary."""

    def register(function: Network) -> Network:
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        MODELS[name] = Model(name, function, input_shape, classes, summary)
        return function

    return register


def get_model(name: str) -> Model:
    """The network called `name`. Raises: InputError with close matches."""
    _load_families()
    if name not in MODELS:
        raise unknown_name("architecture", name, MODELS)
    return MODELS[name]


def list_models() -> list[Model]:
    """All registered networks, by name."""
    _load_families()
    return [MODELS[name] for name in sorted(MODELS)]


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
    label_smoothing: float = 0.0,
    scaled: bool = False,
    options: dict[str, Any] | None = None,
) -> Graph:
    """The graph of a registered network for one batch size.

    Inputs: x [batch, H, W, C], and for training labels int32 [batch]. Outputs: logits, and for
    training loss [batch]. `options` are the network's own (`width`).

    Raises: InputError for an unknown network or option, or an image that is too small (names the
    layer).
    """
    model = get_model(arch)
    options = options or {}
    known = [p for p in inspect.signature(model.build).parameters if p not in ("b", "x", "classes")]
    for option in options:
        if option not in known:
            raise InputError(f"{arch} has no option {option!r}; it has: {', '.join(known)}")
    b = GraphBuilder(arch, dtype=dtype, training=training)
    x = b.input("x", (batch, *input_shape))
    labels = b.input("labels", (batch,), "int32") if training else None
    logits = model.build(b, x, classes, **options)
    if labels is None:
        return b.finish(logits=logits)
    loss = b.softmax_cross_entropy(logits, labels, label_smoothing, scaled)
    return b.finish(logits=logits, loss=loss)
