from __future__ import annotations

import math

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles, with_inputs
from cases import loss as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import directional
from tolerance import assert_close

from cnnengine.kernels.spec import SoftmaxCrossEntropy, accumulator


@pytest.mark.parametrize("name", cases.LISTED)
def test_loss__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_loss__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_loss_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_loss_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ALL))


@pytest.mark.parametrize("name", [n for n in cases.LISTED if n not in ("empty_batch", "far_apart")])
def test_softmax_cross_entropy__gradient_is_the_slope_of_the_mean(backend, name):
    if backend.widest != "float64":
        pytest.skip(f"{backend.backend.name} has no float64 for finite differences")
    draw = Draw(f"loss slope {name}")
    (call,) = cases.calls(draw, cases.LISTED[name], "float64")
    scale = 24.0
    call = with_inputs(call, grad_scale=np.array([scale]))

    scale *= call.inputs["op"].weight

    def loss(logits):
        return scale * float(backend.outputs(with_inputs(call, logits=logits))["loss"].mean())

    logits = call.inputs["logits"]
    inputs = {n: v for n, v in call.inputs.items() if n != "logits"}
    full = call_of("softmax_cross_entropy", "loss", "dlogits", logits=logits, **inputs)
    gradient, direction = backend.outputs(full)["dlogits"], draw.rng.standard_normal(logits.shape)
    if logits.shape[1] == 1:
        assert not gradient.any()  # one class is always right
        return
    directional(name, loss, logits, gradient, direction)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_cross_entropy__equal_logits_by_hand(backend, dtype, smoothing):
    sums = accumulator(dtype)
    logits, labels = np.full((2, 4), 3, DTYPES[dtype]), np.array([0, 3], np.int32)
    op = SoftmaxCrossEntropy(smoothing)
    call = call_of("softmax_cross_entropy", "loss", "dlogits", logits=logits, labels=labels, op=op)
    found = backend.outputs(call)
    assert_close("loss", found["loss"], np.full(2, math.log(4)), sums)
    expected = np.full((2, 4), (0.25 - smoothing / 4) / 2)
    expected[[0, 1], labels] -= (1 - smoothing) / 2
    assert_close("dlogits", found["dlogits"], expected, dtype)


@pytest.mark.parametrize("far", [1e4, 6e4])
def test_softmax_cross_entropy__far_logits_do_not_overflow(backend, dtype, far):
    logits = np.array([[far, 0, -far], [0, far, far]]).astype(DTYPES[dtype])
    labels = np.array([1, 2], np.int32)
    call = call_of(
        *("softmax_cross_entropy", "loss", "dlogits"),
        **{"logits": logits, "labels": labels, "op": SoftmaxCrossEntropy()},
    )
    found = backend.outputs(call)
    distance = float(logits[0, 0])
    sums = accumulator(dtype)
    assert_close("loss", found["loss"], np.array([distance, math.log(2)]), sums)
    expected = np.array([[0.5, -0.5, 0], [0, 0.25, -0.25]])
    assert_close("dlogits", found["dlogits"], expected, dtype)
