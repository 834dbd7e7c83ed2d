"""Calls of the optimizers' updates over an arena, and of loss scaling beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import DTYPES, Call

from cnnengine.kernels.spec import SGD, AdamW, LossScale

from .draw import ALL, Draw, fuzzer, rms

ARENAS = ("float64", "float32")
LISTED: dict[str, tuple[int, int]] = {  # elements, decay_until
    "one": (1, 1),
    "prime": (97, 50),
    "no_decay": (64, 0),
    "all_decay": (65, 65),
    "past_a_block": (4099, 4098),
    "empty": (0, 0),
}


def calls(
    draw: Draw, elements: int, decay_until: int, sgd: SGD, adamw: AdamW, dtype: str, low: str
) -> Iterator[Call]:
    """One step of either optimizer from a random state; `low` is the type of the low copy."""
    shape = (elements,)
    w, g, v = (draw.normal(shape, dtype) for _ in range(3))
    shared: dict[str, Any] = {
        "w": w,
        "g": g,
        "lr": np.array([draw.pick(1e-3, 0.1, 1.0)], DTYPES[dtype]),
        "decay_until": decay_until,
    }
    if draw.chance(0.4):
        shared["grad_scale"] = np.array([draw.pick(0.5, 3.0, 1024.0)], DTYPES[dtype])
    if draw.chance(0.4):
        shared["skip"] = np.array([draw.pick(0, 1, -1)], np.int32)
        if shared["skip"][0]:
            g[draw.rng.random(elements) < 0.2] = draw.pick(np.inf, np.nan)
    want = ("low",) if draw.chance(0.5) else ()
    settings: dict[str, Any] = {"types": {"low": low}, "floor": {"w": rms(w), "low": rms(w)}}
    yield Call(
        draw.label,
        "sgd_update",
        {**shared, "v": v, "op": sgd},
        ("w", "v", *want),
        dtype,
        **settings,
    )
    step = draw.pick(1, 2, 10, 1000, 10**7)
    fresh = step == 1
    moments = {
        "m": np.zeros_like(w) if fresh else draw.normal(shape, dtype),
        "v": np.zeros_like(w) if fresh else np.square(draw.normal(shape, dtype)),
    }
    yield Call(
        draw.label,
        "adamw_update",
        {**shared, **moments, "step": np.array([step]), "op": adamw},
        ("w", "m", "v", *want),
        dtype,
        **settings,
    )
    yield from scaling(draw, g, dtype)


def scaling(draw: Draw, g: np.ndarray, dtype: str) -> Iterator[Call]:
    """Looking for overflow in gradients, and the decision about a step and the next loss scale."""
    x, parts = g.astype(DTYPES[draw.pick(dtype, "float16", "bfloat16")]), draw.integer(1, 9)
    for bad in (np.inf, -np.inf, np.nan):
        if x.size and draw.chance(0.3):
            x[draw.integer(0, x.size - 1)] = bad
    kind, out = str(x.dtype), {"out": "int32"}
    yield Call(draw.label, "non_finite", {"x": x}, ("out",), kind, (parts,), types=out)
    flags = draw.rng.random(draw.pick(1, 7, 300)) < draw.pick(0.0, 0.5)
    inputs = {
        "flags": flags.astype(np.int32) * draw.pick(1, -3),
        "scale": np.array([draw.pick(2.0**15, 0.5)], DTYPES[dtype]),
        "good": np.array([draw.pick(0, 3, 1999)], np.int32),
        "op": LossScale(draw.pick(4, 2000)),
    }
    want, types = ("scale", "good", "out", "skip"), {"good": "int32", "skip": "int32"}
    yield Call(draw.label, "loss_scale", inputs, want, dtype, types=types)


def listed(name: str, dtype: str) -> Iterator[Call]:
    """Both updates of one listed arena in one type, with each 16-bit copy."""
    for low in ("float16", "bfloat16"):
        draw = Draw(f"update:{name}:{low}")
        sgd = SGD(0.9, nesterov=low == "float16", weight_decay=1e-2)
        yield from calls(draw, *LISTED[name], sgd, AdamW(), dtype, low)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random arena and random parameters."""
    elements = draw.integer(1, 60)
    momentum, decay = draw.pick(0.0, 0.5, 0.9), draw.pick(0.0, 1e-4, 0.1)
    sgd = SGD(momentum, draw.chance(0.5) and momentum > 0, decay)
    adamw = AdamW(draw.pick(0.0, 0.5, 0.9), draw.pick(0.9, 0.999), draw.pick(1e-8, 1e-3), decay)
    dtype = draw.dtype(tuple(d for d in dtypes if d in ARENAS))
    low = draw.pick("float16", "bfloat16")
    until = draw.integer(0, elements)
    yield from calls(draw, elements, until, sgd, adamw, dtype, low)


fuzz = fuzzer("update", case)
