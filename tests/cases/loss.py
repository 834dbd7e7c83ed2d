"""Calls of the fused softmax cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import DTYPES, Call

from cnnengine.kernels.spec import SoftmaxCrossEntropy, accumulator

from .draw import ALL, Draw, fuzzer, rms

LISTED: dict[str, tuple[int, int, float, float]] = {  # N, K, spread of the logits, smoothing
    "ten_classes": (7, 10, 1.0, 0.0),
    "smoothed": (7, 10, 3.0, 0.1),
    "one_class": (3, 1, 1.0, 0.0),
    "one_class_smoothed": (3, 1, 1.0, 0.3),
    "two_classes": (5, 2, 1.0, 0.2),
    "one_image": (1, 37, 2.0, 0.0),
    "thousand_classes": (3, 1000, 2.0, 0.1),
    "past_a_block": (67, 11, 1.0, 0.0),
    "far_apart": (5, 9, 3000.0, 0.1),
    "empty_batch": (0, 10, 1.0, 0.1),
}


def calls(draw: Draw, sizes: tuple[int, int, float, float], dtype: str) -> Iterator[Call]:
    """The loss of one batch, with or without gradient and loss scaling."""
    n, k, spread, smoothing = sizes
    sums = accumulator(dtype)
    logits = draw.normal((n, k), dtype, scale=spread)
    inputs: dict[str, Any] = {
        "logits": logits,
        "labels": draw.rng.integers(0, k, n).astype(np.int32),
    }
    scale = 1.0
    if draw.chance(0.4):
        scale = draw.pick(2.0, 128.0, 1024.0)
        inputs["grad_scale"] = np.array([scale], DTYPES[sums])
    weight = draw.pick(1.0, 1.0, 0.3)
    inputs["op"] = SoftmaxCrossEntropy(smoothing, weight)
    scale *= weight
    yield Call(
        draw.label,
        "softmax_cross_entropy",
        inputs,
        ("loss", "dlogits") if draw.chance(0.8) else ("loss",),
        dtype,
        reduction=k,
        # a sure prediction leaves the difference of two numbers near 1, or of two near a logit
        floor={"loss": rms(logits) + math.log(k), "dlogits": scale / max(n, 1) / math.sqrt(k)},
    )


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The call of one listed batch in one type."""
    yield from calls(Draw(f"loss:{name}"), LISTED[name], dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random batch."""
    n = 0 if draw.chance(0.03) else draw.integer(1, 20)
    sizes = n, draw.integer(1, 30), draw.pick(0.1, 1.0, 10.0), draw.pick(0.0, 0.0, 0.1, 0.9)
    yield from calls(draw, sizes, draw.dtype(dtypes))


fuzz = fuzzer("loss", case)
