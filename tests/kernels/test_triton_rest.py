"""Triton's paths that small shapes do not take, in all functions but the convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from calls import call_of
from cases import activation, dense, elementwise, loss, norm, pool, shape
from cases.draw import Draw
from machine import machine

from cnnengine.kernels import registry
from cnnengine.kernels.philox import key, random_bits
from cnnengine.kernels.spec import Dropout, SoftmaxCrossEntropy

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.kernels.triton import launch
from cnnengine.kernels.triton.pixels import splits_of_pixels, sums_tile

LISTED = [
    *((pool, name) for name in ("max_3x3_padded", "avg_ceil_without_pad")),
    *((dense, "long_sum"), (norm, "primes"), (elementwise, "channels_131")),
    *((shape, "nhwc_to_nchw"), (shape, "mixed_of_six"), (activation, "channels_131")),
]


@pytest.mark.parametrize(("family", "name"), LISTED, ids=lambda value: str(value)[-24:])
def test_offsets_of_64_bits__change_nothing(family, name, monkeypatch):
    monkeypatch.setattr(launch, "LARGE", 1)
    calls = list(family.listed(name, "float16"))
    assert calls
    for call in calls:
        if call.types.get("out") != "float64":
            assert machine("triton").verify(call)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.999])
def test_dropout__draws_the_stream_of_philox(p):
    count, op, words = 4103, Dropout(p), key(2**40 + 12345, 2**31 + 7, 3)
    x = np.ones(count, np.float32)
    out = machine("triton").outputs(call_of("dropout", x=x, op=op, key=words))["out"]
    kept = random_bits(words, count) >= op.threshold
    assert np.array_equal(out != 0, kept)


@pytest.mark.parametrize("classes", [2047, 2048, 2049, 5003])
def test_softmax_cross_entropy__rows_longer_than_a_block(classes):
    call = next(loss.calls(Draw("long rows"), (3, classes, 5.0, 0.1), "float32"))
    assert machine("triton").verify(call)


@pytest.mark.parametrize("label", [-1, 7])
def test_softmax_cross_entropy__a_label_that_is_no_class_is_nan(label):
    logits, labels = np.zeros((2, 7), np.float32), np.array([3, label], np.int32)
    given = {"logits": logits, "labels": labels, "op": SoftmaxCrossEntropy()}
    loss_, dlogits = np.zeros(2, np.float32), np.zeros((2, 7), np.float32)
    function = registry.load("triton").function("softmax_cross_entropy")
    device = machine("triton").adapter
    arrays = {n: device.to_device(v) for n, v in given.items() if isinstance(v, np.ndarray)}
    out = {"loss": device.to_device(loss_), "dlogits": device.to_device(dlogits)}
    function(**{**given, **arrays, **out})
    found = {n: device.from_device(v) for n, v in out.items()}
    assert np.isnan(found["loss"]).tolist() == [False, True]
    assert np.isnan(found["dlogits"]).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("channels", [1, 3, 64, 65, 2048])
@pytest.mark.parametrize("pixels", [0, 1, 4096, 64 * 112 * 112])
def test_splits_of_pixels__cover_every_pixel_once(pixels, channels):
    splits, rows = splits_of_pixels(pixels, channels)
    assert splits >= 1
    assert rows % sums_tile(channels)[0] == 0
    assert (splits - 1) * rows < max(pixels, 1) <= splits * rows
