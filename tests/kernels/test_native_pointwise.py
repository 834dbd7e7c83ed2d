"""Native activations: every instruction set, any number of channels, in place, any threads."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.kernels import native, registry
from cnnengine.kernels.errors import UnsupportedError
from cnnengine.kernels.native import activation, elementwise, library, pointwise
from cnnengine.kernels.numpy import activation as numpy_activation
from cnnengine.kernels.numpy import elementwise as numpy_elementwise
from cnnengine.kernels.numpy import threads
from cnnengine.kernels.philox import key
from cnnengine.kernels.spec import Clip, Dropout, LeakyRelu

pytestmark = pytest.mark.skipif(
    registry.missing("native") is not None, reason=f"native: {registry.missing('native')}"
)

BOUNDS, LEAK = Clip(-0.5, 0.75), LeakyRelu(0.3)
MODULES = {
    **dict.fromkeys(("relu", "relu_backward"), (elementwise, numpy_elementwise)),
    **dict.fromkeys(("clip", "clip_backward", "leaky_relu"), (activation, numpy_activation)),
    **dict.fromkeys(("leaky_relu_backward", "prelu"), (activation, numpy_activation)),
    "prelu_backward": (activation, numpy_activation),
}


@pytest.fixture(params=library.runnable())
def variant(request, monkeypatch):
    """Each instruction set in turn as the widest of this processor."""
    upto = library.runnable()[: library.runnable().index(request.param) + 1]
    monkeypatch.setattr(library, "runnable", lambda: upto)
    return request.param


def results(module, function, x, dy, slope, *, in_place=False):
    """What a function of `module` writes, into new memory or over its first input."""
    inputs = [dy.copy(), x.copy()] if function.endswith("_backward") else [x.copy()]
    out = inputs[0] if in_place else np.full(x.shape, np.nan, np.float32)
    more = [slope] if function.startswith("prelu") else []
    op = {"clip": {"op": BOUNDS}, "leaky": {"op": LEAK}}.get(function.partition("_")[0], {})
    getattr(module, function)(*inputs, *more, out, **op)
    return out


@pytest.mark.parametrize("channels", [1, 3, 16, 20, 67])
@pytest.mark.parametrize("function", MODULES)
def test_activation__equals_numpys_in_every_vector_width(variant, function, channels):
    rng = np.random.default_rng(channels)
    x, dy = rng.standard_normal((2, 3, 5, 7, channels), np.float32)
    x[0, 0, :3, 0], x[1, 4, 4, 0], x[2, 2, 2, 0] = [0, np.nan, np.inf], -np.inf, -0.0
    dy[0, 0, 3:6, 0] = np.nan, np.inf, -np.inf
    slope = rng.standard_normal(channels, np.float32)
    ours, reference = MODULES[function]
    expected = results(reference, function, x, dy, slope)
    np.testing.assert_array_equal(results(ours, function, x, dy, slope), expected, variant)
    within = results(ours, function, x, dy, slope, in_place=True)
    np.testing.assert_array_equal(within, expected, f"{variant}, in place")


def test_activation__threads_change_no_bit():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 50, 57, 53), np.float32)
    slope = rng.standard_normal(53, np.float32)
    found = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        try:
            chosen = native.choose("prelu", {"x": x, "slope": slope, "out": x})
            assert chosen["workers"] == min(count, x.size // pointwise.PER_WORKER)
            found.append(results(activation, "prelu", x, x, slope).tobytes())
        finally:
            threads.set_threads(0)
    assert len(set(found)) == 1


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.999])
def test_dropout__draws_numpys_numbers_in_every_vector_width(variant, p):
    rng = np.random.default_rng(1)
    for size in (1, 7, 256, 300, 20011):
        x = rng.standard_normal(size, np.float32)
        x[0] = np.nan
        out, expected, told = np.full_like(x, np.inf), np.empty_like(x), key(2**40 + 5, 3, 9)
        elementwise.dropout(x, out, op=Dropout(p), key=told)
        numpy_elementwise.dropout(x, expected, op=Dropout(p), key=told)
        np.testing.assert_array_equal(out, expected, f"{variant}: {size}")
        elementwise.dropout(x, x, op=Dropout(p), key=told)
        np.testing.assert_array_equal(x, expected, f"{variant}: {size}, in place")


def test_dropout__threads_change_no_bit():
    x, found = np.ones(3 * pointwise.PER_WORKER + 5, np.float32), []
    for count in (1, 2, 3):
        threads.set_threads(count)
        try:
            out = np.empty_like(x)
            elementwise.dropout(x, out, op=Dropout(0.5), key=key(1, 2, 3))
        finally:
            threads.set_threads(0)
        found.append(out.tobytes())
    assert len(set(found)) == 1


def test_activation__refuses_float64_by_name():
    x = np.zeros((2, 3))
    with pytest.raises(UnsupportedError, match=r"relu: backend native .*out is float64; use"):
        elementwise.relu(x, x.copy())
    assert native.supports("softmax", {"x": x, "out": x}) == "has no softmax"


def test_clip__bounds_past_the_largest_number_are_infinite():
    x = np.array([3e38, -np.inf, np.nan], np.float32)
    out = np.empty_like(x)
    activation.clip(x, out, op=Clip(-1e300, 1e300))
    np.testing.assert_array_equal(out, x)
