from __future__ import annotations

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles
from cases import activation as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import adjoint, directional
from machine import share

from cnnengine.kernels.spec import Clip, LeakyRelu, accumulator


@pytest.mark.parametrize("name", cases.LISTED)
def test_activation__listed_shapes(backend, name, dtype):
    for call in share(backend, list(cases.LISTED).index(name), dtype, cases.listed(name, dtype)):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_activation__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_activation_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_activation_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ALL))


@pytest.mark.parametrize(
    ("op", "x", "clipped", "passed"),
    [
        (Clip(0.0, 6.0), [-1, 0, 0.5, 6, 7], [0, 0, 0.5, 6, 6], [0, 0, 1, 0, 0]),
        (Clip(low=-1.0), [-2, -1, np.inf], [-1, -1, np.inf], [0, 0, 0]),
        (Clip(high=1.0), [-np.inf, 1, 2], [-np.inf, 1, 1], [0, 0, 0]),
        (Clip(3.0, 2.0), [1, 2.5, 4], [2, 2, 2], [0, 0, 0]),
        (Clip(-1.0, 1.0), [np.nan, -0.5, 0.5], [np.nan, -0.5, 0.5], [1, 1, 1]),
    ],
)
def test_clip__at_and_past_its_bounds(backend, dtype, op, x, clipped, passed):
    x = np.array(x).astype(DTYPES[dtype])
    out = backend.verify(call_of("clip", x=x, op=op))["out"]
    np.testing.assert_array_equal(out.astype(np.float64), clipped)
    dx = backend.verify(call_of("clip_backward", dy=np.ones_like(x), x=x, op=op))["out"]
    np.testing.assert_array_equal(dx.astype(np.float64), passed)


def test_clip__rounds_its_bounds_to_the_type(backend, dtype):
    x = np.array([-1.0, 1.0]).astype(DTYPES[dtype])
    bound = np.float64(0.1).astype(x.dtype)
    out = backend.outputs(call_of("clip", x=x, op=Clip(-0.1, 0.1)))["out"]
    assert out.tolist() == [-bound, bound]
    inside = np.array([bound, bound / 2]).astype(x.dtype)
    call = call_of("clip_backward", dy=np.ones_like(x), x=inside, op=Clip(-0.1, 0.1))
    assert backend.outputs(call)["out"].tolist() == [0, 1]


@pytest.mark.parametrize("slope", [-np.inf, np.nan])
def test_prelu__a_slope_that_is_no_number_harms_only_what_it_multiplies(backend, dtype, slope):
    x = np.array([[3, -2], [0, np.inf], [np.nan, -np.inf]]).astype(DTYPES[dtype])
    dy = np.array([[5, 7], [-1, 0], [np.inf, 2]]).astype(x.dtype)
    with np.errstate(invalid="ignore"):  # here and in the oracle
        steep = [[3, -2 * slope], [0 * slope, np.inf], [np.nan, -np.inf * slope]]
        passed = [[5, 7 * slope], [-1 * slope, 0], [np.inf, 2 * slope]]
        for slopes in ([slope], [slope, slope]):
            slopes = np.array(slopes, accumulator(dtype))
            out = backend.verify(call_of("prelu", x=x, slope=slopes))["out"]
            np.testing.assert_array_equal(out.astype(np.float64), steep)
            dx = backend.verify(call_of("prelu_backward", dy=dy, x=x, slope=slopes))["out"]
            np.testing.assert_array_equal(dx.astype(np.float64), passed)


@pytest.mark.parametrize("slope", [-np.inf, np.nan])
def test_prelu_oracle__agrees_with_torch_where_a_slope_is_no_number(torch_oracle, slope):
    x = np.array([[3, -2], [0, np.inf], [np.nan, -np.inf]])
    dy, slopes = np.array([[5, 7], [-1, 0], [np.inf, 2]]), np.array([slope, slope])
    forward = call_of("prelu", x=x, slope=slopes)
    with np.errstate(invalid="ignore"):
        compare_oracles(torch_oracle, [forward])
        compare_oracles(torch_oracle, [call_of("prelu_backward", dy=dy, x=x, slope=slopes)])


def test_leaky_relu__a_slope_past_the_largest_number_is_infinite(backend, dtype):
    if dtype == "float64":
        pytest.skip("float64 holds every slope that a LeakyRelu takes")
    op, x = LeakyRelu(-1e39), np.array([3, -2, 0, np.inf, np.nan]).astype(DTYPES[dtype])
    out = backend.outputs(call_of("leaky_relu", x=x, op=op))["out"]
    np.testing.assert_array_equal(out.astype(np.float64), [3, np.inf, np.nan, np.inf, np.nan])
    dx = backend.outputs(call_of("leaky_relu_backward", dy=np.ones_like(x), x=x, op=op))["out"]
    np.testing.assert_array_equal(dx.astype(np.float64), [1, -np.inf, -np.inf, 1, 1])


def test_leaky_gradients__are_transposes_where_x_is_given(backend):
    draw, dtype = Draw("leaky adjoint"), backend.widest
    x, dy, v = (draw.normal((5, 7, 6), dtype) for _ in range(3))
    slope = draw.normal((6,), dtype)
    for function, given in (
        ("leaky_relu_backward", {"op": LeakyRelu(0.2)}),
        ("prelu_backward", {"slope": slope}),
        ("clip_backward", {"op": Clip(-0.5, 1.0)}),
    ):
        dx, y = (backend.outputs(call_of(function, dy=a, x=x, **given))["out"] for a in (dy, v))
        adjoint(function, dy, y, dx, v, dtype)  # scaled by element: its own transpose


@pytest.mark.parametrize("log", [False, True])
def test_softmax_backward__is_the_slope(backend, log):
    if backend.widest != "float64":
        pytest.skip(f"{backend.backend.name} has no float64 for a central difference")
    draw = Draw("softmax slope")
    x, dy, direction = (draw.normal((3, 11), "float64") for _ in range(3))

    def forward(values):
        return backend.outputs(call_of("softmax", x=values, log=log))["out"]

    dx = backend.outputs(call_of("softmax_backward", dy=dy, y=forward(x), log=log))["out"]
    directional("softmax", lambda v: float((forward(v) * dy).sum()), x, dx, direction)


@pytest.mark.parametrize("log", [False, True])
def test_softmax__of_large_logits_is_finite(backend, dtype, log):
    backend.need("softmax")
    x = np.array([[30000, 29999, -30000], [-30000] * 3]).astype(DTYPES[dtype])
    out = backend.verify(call_of("softmax", x=x, log=log))["out"]
    assert np.isfinite(out.astype(np.float64)).all()


@pytest.mark.parametrize("log", [False, True])
def test_softmax__of_classes_that_are_ruled_out(backend, dtype, log):
    backend.need("softmax")
    x = np.full((2, 2051), -np.inf).astype(DTYPES[dtype])
    x[0, [0, 7]] = x[1, 2050] = 1  # before and behind a block of classes
    out = backend.verify(call_of("softmax", x=x, log=log))["out"].astype(np.float64)
    assert (np.isneginf(out) if log else out == 0).sum() == 2 * 2051 - 3


def test_softmax__a_nan_spoils_its_row_only(backend, dtype):
    x = np.array([[0, 1, np.nan], [0, 1, 2], [np.inf, 0, 1]]).astype(DTYPES[dtype])
    with np.errstate(invalid="ignore"):  # the oracle's inf - inf
        out = backend.outputs(call_of("softmax", x=x))["out"].astype(np.float64)
    assert np.isnan(out).all(axis=1).tolist() == [True, False, True]
    assert abs(out[1].sum() - 1) < 0.02
