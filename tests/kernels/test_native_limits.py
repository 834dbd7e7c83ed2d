"""What the native backend refuses or bounds, however absurd the call."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.engine.ir import Value
from cnnengine.kernels import registry
from cnnengine.kernels.numpy import set_threads
from cnnengine.kernels.spec import LRN, BatchNorm, Conv2d


@pytest.fixture
def native():
    if (reason := registry.missing("native")) is not None:
        pytest.skip(f"backend native: {reason}")
    return registry.load("native")


def _call(channels, side=8):
    return {
        "x": Value("x", (1, side, side, channels)), "w": Value("w", (4, 3, 3, channels)),
        "out": Value("out", (1, side - 2, side - 2, 4)), "op": Conv2d(),
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1 << 28, 1 << 40, 1 << 62])
def test_supports__arrays_too_large_to_count_in_64_bits(native, channels):
    assert "fewer than 2147483648 elements" in native.supports("conv2d", _call(channels))


def test_choose__workspace_does_not_grow_beyond_the_work(native):
    try:
        set_threads(4)
        few = native.choose("conv2d", _call(16)).workspace_bytes
        set_threads(1_000_000)
        many = native.choose("conv2d", _call(16)).workspace_bytes
    finally:
        set_threads(0)
    assert many <= 4 * few


@pytest.mark.parametrize("shape", [(2, 3, 0, 5), (2, 0, 4, 5), (3, 0, 0, 2), (2, 3, 4, 0)])
def test_norms_and_global_pools__images_without_pixels_or_channels_are_left_alone(native, shape):
    run = native.function
    x, out, channels = np.empty(shape, np.float32), np.empty(shape, np.float32), shape[3]
    gamma, beta, mean, var = np.ones((4, channels), np.float32)
    run("lrn")(x, out, op=LRN(5, 1e-4, 0.75, 1.0))
    run("lrn_backward")(x, x.copy(), out, op=LRN(5, 1e-4, 0.75, 1.0))
    run("batch_norm_inference")(x, gamma, beta, mean, var, out, op=BatchNorm())
    sums = np.full((2, channels), np.nan, np.float32)
    run("batch_norm_backward")(x, x.copy(), gamma, mean, var, out, *sums, op=BatchNorm())
    assert not sums.any()
    run("global_avg_pool2d_backward")(np.ones((shape[0], channels), np.float32), out)
