from __future__ import annotations

import numpy as np
import pytest
from calls import call_of, compare_oracles, with_inputs
from cases import norm as cases
from cases.draw import CHUNKS, Draw
from gradcheck import directional, inner
from tolerance import assert_close

from cnnengine.kernels.spec import LRN, BatchNorm


@pytest.mark.parametrize("name", cases.LISTED)
def test_norm__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_norm__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_norm_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_norm_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ("float64",)))


def needs_float64(backend):
    if backend.widest != "float64":
        pytest.skip(f"{backend.backend.name} has no float64 for finite differences")


def slope(backend, call, name, gradient, dy, draw):
    """Compare the slope of <dy, out> along a random direction of one input with its gradient."""

    def loss(value):
        return inner(dy, backend.outputs(with_inputs(call, **{name: value}))["out"])

    start = call.inputs[name]
    direction = draw.rng.standard_normal(start.shape)
    directional(f"{call}: d{name}", loss, start, gradient, direction)


@pytest.mark.parametrize("name", [name for name in cases.LISTED if name != "empty_batch"])
def test_batch_norm_backward__is_the_slope(backend, name):
    needs_float64(backend)
    shape, op, _ = cases.LISTED[name]
    draw = Draw(f"batch norm slope {name}")
    op = BatchNorm(max(op.eps, 0.1))  # so that even two values have a slope
    x, dy = cases.spread(draw, shape, "float64"), draw.normal(shape, "float64")
    gamma, beta, zero, one = (*draw.rng.standard_normal((2, shape[3])), *np.eye(2, shape[3]))
    statistics = {"running_mean": zero, "running_var": np.abs(one)}
    want = ("out", "mean", "invstd", "running_mean", "running_var")
    inputs = {"x": x, "gamma": gamma, "beta": beta, **statistics, "op": op}
    call = call_of("batch_norm_training", *want, **inputs)
    kept = backend.outputs(call)
    saved = {"gamma": gamma, "mean": kept["mean"], "invstd": kept["invstd"]}
    back = call_of("batch_norm_backward", "out", "dgamma", "dbeta", x=x, dy=dy, **saved, op=op)
    gradients = backend.outputs(back)
    slope(backend, call, "x", gradients["out"], dy, draw)
    slope(backend, call, "gamma", gradients["dgamma"], dy, draw)
    slope(backend, call, "beta", gradients["dbeta"], dy, draw)


@pytest.mark.parametrize("name", [name for name in cases.LISTED if name != "empty_batch"])
def test_lrn_backward__is_the_slope(backend, name):
    needs_float64(backend)
    shape, _, op = cases.LISTED[name]
    draw = Draw(f"lrn slope {name}")
    x, dy = draw.normal(shape, "float64"), draw.normal(shape, "float64")
    dx = backend.outputs(call_of("lrn_backward", x=x, dy=dy, op=op))["out"]
    slope(backend, call_of("lrn", x=x, op=op), "x", dx, dy, draw)


@pytest.mark.dtypes("float64", "float32", "float16")
def test_batch_norm_training__variance_of_far_off_values(backend, dtype):
    # one pass over squares loses the variance 1/12 beside the mean 100; two passes do not
    draw = Draw("far off")
    x = (100 + draw.rng.random((4, 8, 8, 3))).astype(dtype)
    sums = "float64" if dtype == "float64" else "float32"
    vectors = {n: np.ones(3, sums) for n in ("gamma", "beta", "running_mean", "running_var")}
    want = ("out", "mean", "invstd", "running_mean", "running_var")
    call = call_of("batch_norm_training", *want, x=x, **vectors, op=BatchNorm())
    found, expected = backend.outputs(call), call.oracle()
    limit = {"float64": 1e-12, "float32": 2e-5}[sums]
    assert np.abs(found["invstd"] / expected["invstd"] - 1).max() < limit
    assert np.abs(found["running_var"] / expected["running_var"] - 1).max() < limit


def test_batch_norm_inference__follows_training_on_its_own_statistics(backend):
    draw, dtype = Draw("own statistics"), backend.widest
    x = cases.spread(draw, (3, 4, 5, 7), dtype)
    vectors = {"gamma": draw.normal((7,), dtype), "beta": draw.normal((7,), dtype)}
    start = {"running_mean": np.zeros(7, dtype), "running_var": np.zeros(7, dtype)}
    want = ("out", "mean", "invstd", "running_mean", "running_var")
    training = call_of(
        "batch_norm_training", *want, x=x, **vectors, **start, op=BatchNorm(momentum=1.0)
    )
    kept = backend.outputs(training)
    biased = kept["running_var"] * (59 / 60)  # M = 60 values a channel
    statistics = {"running_mean": kept["running_mean"], "running_var": biased.astype(dtype)}
    call = call_of("batch_norm_inference", x=x, **vectors, **statistics, op=BatchNorm())
    assert_close("out", backend.outputs(call)["out"], kept["out"], dtype, 60)


def test_lrn__of_one_channel_by_hand(backend):
    x = np.array([3.0], backend.widest).reshape(1, 1, 1, 1)
    call = call_of("lrn", x=x, op=LRN(size=5, alpha=5.0, beta=0.5, k=7.0))
    out = backend.outputs(call)["out"]
    assert_close("out", out.reshape(1), np.array([0.75]), backend.widest)  # 3 / sqrt(7 + 9)
