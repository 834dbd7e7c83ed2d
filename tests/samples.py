"""One sound call of every contract function, and what it takes to be refused."""

from __future__ import annotations

import importlib
from itertools import chain

import numpy as np
import pytest
from calls import blank
from cases import activation, conv, dense, elementwise, images, loss, norm, pool, update
from cases import shape as shapes
from cases.draw import Draw
from machine import machines

from cnnengine.kernels import spec
from cnnengine.kernels.errors import KernelError
from cnnengine.kernels.spec import LRN, SGD, AdamW, AvgPool2d, BatchNorm, Conv2d, MaxPool2d


def _samples():
    """One sound call of every function, in float32, with all optional arrays."""
    seen = {}
    shape, grouped = (2, 6, 5, 8), Conv2d(padding=(1, 1, 1, 1), groups=2)
    for attempt in range(40):
        draw = Draw(f"contract:{attempt}")
        for call in chain(
            conv.calls(draw, shape, (8, 3, 3, 4), grouped, "float32"),
            pool.calls(draw, shape, MaxPool2d((2, 2), (2, 2)), "float32"),
            pool.calls(draw, shape, AvgPool2d((2, 2), (2, 2)), "float32"),
            pool.global_calls(draw, shape, "float32"),
            dense.calls(draw, (3, 5, 4), "float32"),
            norm.batch_norm(draw, shape, BatchNorm(), "float32"),
            norm.response_norm(draw, shape, LRN(), "float32"),
            elementwise.calls(draw, shape, "float32", "float32"),
            images.calls(draw, (2, 6, 5, 3), "float32"),
            activation.calls(draw, shape, "float32"),
            shapes.calls(draw, (2, 6, 5, 8), (0, 3, 1, 2), ".r..", "float32"),
            loss.calls(draw, (3, 5, 1.0, 0.0), "float32"),
            update.calls(draw, 8, 4, SGD(), AdamW(), "float32", "bfloat16"),
        ):
            kept = seen.get(call.function)
            if kept is None or _arrays_of(call) > _arrays_of(kept):
                seen[call.function] = call
    return seen


def _arrays_of(call):
    ranks = max(getattr(v, "ndim", 0) for v in call.inputs.values())
    return sum(v is not None for v in call.inputs.values()) + len(call.want), ranks


SAMPLES = _samples()
FUNCTIONS = sorted(SAMPLES)


def arguments(function):
    """Host arrays for every parameter of a sound call, outputs blank."""
    call = SAMPLES[function]
    shapes = call.oracle()
    given = {}
    for name, kind in spec.directions(function).items():
        if kind == "out":
            given[name] = blank(shapes[name].shape, call.output_dtype(name))
        elif name in call.inputs:
            value = call.inputs[name]
            given[name] = [v.copy() for v in value] if isinstance(value, list) else value
            if isinstance(value, np.ndarray):
                given[name] = value.copy()
    return given


def arrays(function):
    """(function, parameter) of every array of a function."""
    return [(function, n) for n, v in arguments(function).items() if isinstance(v, np.ndarray)]


def extents(function, name):
    """The shape of one array of the sound call."""
    return arguments(function)[name].shape


EVERY_ARRAY = list(chain.from_iterable(arrays(function) for function in FUNCTIONS))


def backends(function):
    """Each backend that has the function (test_mirror says which) and can run, in its session."""
    module = spec.CONTRACTS[function].module
    for machine in machines(module):
        file = importlib.import_module(f".{module}", machine.backend.package.__name__)
        if hasattr(file, function):
            yield machine


def refused(function, given, error, *told):
    """Require that the contract and every backend raise `error`, saying `told`, writing nothing.

    The arrays stay on the host for every backend: a refusal comes before any launch.
    """
    tested = (machine.backend.function(function) for machine in backends(function))
    implementations = [spec.CONTRACTS[function], *tested]
    outputs = [n for n, kind in spec.directions(function).items() if kind in ("out", "inout")]
    written = [given[n] for n in outputs if isinstance(given.get(n), np.ndarray)]
    before = [array.tobytes() for array in written]
    for implementation in implementations:
        with pytest.raises(error) as caught:
            implementation(**given)
        message = str(caught.value)
        assert message.startswith(f"{function}: "), message
        assert "\n" not in message
        for part in told:
            assert str(part) in message, f"{part!r} is not in {message!r}"
        assert before == [array.tobytes() for array in written]
        assert isinstance(caught.value, KernelError)
