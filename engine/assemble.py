"""Networks written in a line: `C64 C64 P C128 C128 P F256`.

Layers stand in order, separated by spaces; each is a letter, its size, and settings behind colons:

    C64        64 filters of 3x3, padded to keep the size, then ReLU
      :k5 :k1x7   filter size        :s2 :s2x1  stride       :d2  dilation    :g2  groups
      :p0 :p1x2   padding            :edge      pad with the nearest pixel, not zeros
      :norm       batch norm before the ReLU (and no bias)   :linear  no ReLU
    P  P3:s2   max pool, 2x2 unless told; stride as large as the window unless told (:s :p)
    A  A3:s1   average pool, likewise
    G          the mean of every channel over the whole image
    F256       dense layer of 256 units, then ReLU (:linear: none); an image is flattened first
    D0.5       dropout with that probability
    L          local response normalisation over five channels

A dense layer from what is left to the classes is added at the end. Layers are called conv1, conv2,
…, pool1, …, dense1, …; the last one `classes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .build import GraphBuilder
from .errors import InputError
from .ir import Value

MOST_LAYERS = 1000
MOST = 1 << 20  # filters, units, pixels

WORDS = {
    "C": "convolution", "P": "max pool", "A": "average pool", "G": "global average", "F": "dense",
    "D": "dropout", "L": "local response normalisation",
}  # fmt: skip
SETTINGS = {
    "C": ("k", "s", "p", "d", "g", "edge", "norm", "linear"), "P": ("s", "p"), "A": ("s", "p"),
    "F": ("linear",),
}  # fmt: skip
PAIRS = {"k": "kernel", "s": "stride", "p": "padding", "d": "dilation"}


@dataclass(frozen=True)
class Layer:
    """One layer: its letter, its size as told (or ""), and settings by name."""

    text: str
    letter: str
    size: str
    settings: Mapping[str, str]


def is_description(text: str) -> bool:
    """Whether `text` looks like layers rather than like a name."""
    return re.match(r"\s*[A-Z]([0-9.]*)(:\S*)?(\s|$)", text) is not None


def network(text: str) -> Callable[[GraphBuilder, Value, int], Value]:
    """The network that `text` describes, as a function like those of `models`.

    Raises: InputError naming the layer.
    """
    layers = [_layer(word) for word in text.split()]
    if len(layers) > MOST_LAYERS:
        raise InputError(f"a network may have {MOST_LAYERS} layers, not {len(layers)}")

    def build(b: GraphBuilder, x: Value, classes: int) -> Value:
        count: Counter[str] = Counter()
        for layer in layers:
            x = _add(b, x, layer, count)
        return b.dense(x, classes, name="classes")

    return build


def _layer(word: str) -> Layer:
    """One word in its parts. Raises: InputError."""
    head, *told = word.split(":")
    letter, size = head[:1], head[1:]
    if letter not in WORDS:
        known = ", ".join(f"{letter} {meaning}" for letter, meaning in WORDS.items())
        raise InputError(f"layer {word!r} begins with none of: {known}")
    settings: dict[str, str] = {}
    for setting in told:
        flag = setting in SETTINGS.get(letter, ()) and len(setting) > 1
        name, value = (setting, "") if flag else (setting[:1], setting[1:])
        if name not in SETTINGS.get(letter, ()):
            known = " ".join(f":{name}" for name in SETTINGS.get(letter, ())) or "none"
            raise InputError(
                f"layer {word!r}: a {WORDS[letter]} has no setting {setting!r}; {known}"
            )
        if name in settings:
            raise InputError(f"layer {word!r} sets {name} twice")
        if not flag:
            _pair(word, name, value)
        settings[name] = value
    if letter == "D":
        _probability(word, size)
    elif letter in "CF" or size:
        if letter in "GL":
            raise InputError(f"layer {word!r}: a {WORDS[letter]} has no size")
        _whole(word, "its size", size)
    return Layer(word, letter, size, settings)


def _whole(word: str, what: str, text: str, least: int = 1) -> int:
    if text.isascii() and text.isdigit() and least <= int(text[:9]) <= MOST and len(text) < 9:
        return int(text)
    raise InputError(f"layer {word!r}: {what} must be a whole number from {least}, not {text!r}")


def _pair(word: str, name: str, text: str) -> tuple[int, int]:
    """Rows and columns: `5` or `1x7`."""
    least = 0 if name == "p" else 1
    rows, times, columns = text.partition("x")
    first = _whole(word, f":{name}", rows, least)
    if not times:
        return first, first
    if name == "g":
        raise InputError(f"layer {word!r}: :g takes one number, not {text!r}")
    return first, _whole(word, f":{name}", columns, least)


def _probability(word: str, text: str) -> float:
    if re.fullmatch(r"0(\.[0-9]{1,9})?|\.[0-9]{1,9}", text, re.ASCII):
        return float(text)
    raise InputError(f"layer {word!r}: dropout takes a probability in [0, 1), like D0.5")


def _add(b: GraphBuilder, x: Value, layer: Layer, count: Counter[str]) -> Value:
    """One layer behind `x`. Raises: InputError naming it where it does not fit."""
    kind = {"C": "conv", "P": "pool", "A": "pool", "F": "dense"}.get(layer.letter, "")
    count[kind] += 1
    name = f"{kind}{count[kind]}"
    if layer.letter in "CPAGL" and len(x.shape) != 4:
        raise InputError(
            f"layer {layer.text!r}{f' ({name})' if kind else ''} of {b.name} needs images "
            f"[N,H,W,C], but what is before it gives {x.name} [{','.join(map(str, x.shape))}]"
        )
    if layer.letter == "C":
        return _convolution(b, x, layer, name)
    if layer.letter == "F":
        x = b.dense(x, int(layer.size), name=name)
        return x if "linear" in layer.settings else b.relu(x)
    if layer.letter in "PA":
        pool = b.max_pool2d if layer.letter == "P" else b.avg_pool2d
        return pool(x, int(layer.size or 2), name=name, **_pairs(layer))
    if layer.letter == "D":
        return b.dropout(x, _probability(layer.text, layer.size))
    return b.global_avg_pool2d(x) if layer.letter == "G" else b.lrn(x)


def _pairs(layer: Layer) -> dict[str, Any]:
    return {
        PAIRS[name]: _pair(layer.text, name, value)
        for name, value in layer.settings.items()
        if name in PAIRS
    }


def _convolution(b: GraphBuilder, x: Value, layer: Layer, name: str) -> Value:
    settings = layer.settings
    groups = _pair(layer.text, "g", settings.get("g", "1"))[0]
    told = {"kernel": (3, 3), "padding": "same", "groups": groups, **_pairs(layer)}
    mode = "edge" if "edge" in settings else "zeros"
    norm = "norm" in settings
    x = b.conv2d(x, int(layer.size), padding_mode=mode, bias=not norm, name=name, **told)
    if norm:
        x = b.batch_norm(x, name=f"{name}_norm")
    return x if "linear" in settings else b.relu(x)
