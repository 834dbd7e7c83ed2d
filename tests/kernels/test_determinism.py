"""Shapes large enough to be cut into blocks: right, and of equal bits on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from calls import same_bits
from cases import conv, dense, elementwise, loss, norm, pool, update
from cases.draw import Draw
from machine import machines

from cnnengine.kernels.errors import UnsupportedError
from cnnengine.kernels.numpy import get_threads, set_threads
from cnnengine.kernels.spec import LRN, SGD, AdamW, AvgPool2d, BatchNorm, Conv2d, MaxPool2d

IMAGES = (9, 33, 31, 8)
LARGE_IMAGES = (2, 67, 61, 17)


def calls(family: str, dtype: str) -> Iterator:
    draw = Draw(f"threads:{family}")
    if family == "conv":
        for op in (Conv2d(padding=(1, 1, 1, 1)), Conv2d((2, 1), (1, 0, 2, 1), "edge", groups=2)):
            yield from conv.calls(draw, IMAGES, (12, 3, 3, 8 // op.groups), op, dtype)
    elif family == "pool":
        for op in (MaxPool2d((3, 3), (2, 2)), AvgPool2d((2, 3), (2, 1), (1, 0, 1, 1))):
            yield from pool.calls(draw, IMAGES, op, dtype)
            yield from pool.calls(draw, LARGE_IMAGES, op, dtype)
        yield from pool.global_calls(draw, IMAGES, dtype)
    elif family == "dense":
        yield from dense.calls(draw, (257, 129, 65), dtype)
    elif family == "norm":
        yield from norm.batch_norm(draw, IMAGES, BatchNorm(), dtype)
        yield from norm.response_norm(draw, IMAGES, LRN(), dtype)
    elif family == "elementwise":
        yield from elementwise.calls(draw, (3, 55, 53, 8), dtype, "float16")
    elif family == "loss":
        yield from loss.calls(draw, (700, 101, 1.0, 0.1), dtype)
    else:
        yield from update.calls(draw, 33001, 32900, SGD(), AdamW(), dtype, "bfloat16")


FAMILIES = ("conv", "pool", "dense", "norm", "elementwise", "loss", "update")


@pytest.mark.parametrize("family", FAMILIES)
def test_threads__do_not_change_bits_of_large_shapes(family):
    before = get_threads()
    try:
        for backend in machines(family):
            for call in calls(family, "float32") if backend.adapter.has_threads else ():
                compare_threads(backend, call)
    finally:
        set_threads(before)


def compare_threads(backend, call):
    expected = call.oracle()
    shapes = {name: value.shape for name, value in expected.items()}
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        try:
            results.append(backend.run(call, shapes))
        except UnsupportedError:
            assert backend.adapter.gap(call)
            return
    for name in call.want:
        call.compare(name, results[0][name], expected[name])
        for other in results[1:]:
            assert same_bits(results[0][name], other[name]), f"{call}: {name}"
