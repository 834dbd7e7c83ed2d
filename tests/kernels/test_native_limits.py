"""What the native backend refuses or bounds, however absurd the call."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import numpy as np
import pytest

from cnnengine.engine.ir import Value
from cnnengine.kernels import registry
from cnnengine.kernels.native import library
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


def last_of_its_page(array: np.ndarray) -> tuple[mmap.mmap, np.ndarray]:
    """A copy of `array` [...] float32 that ends where memory that nobody may touch begins."""
    page = mmap.PAGESIZE
    end = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, end + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + end), page, 0) == 0
    copy = np.frombuffer(memory, np.float32, array.size, end - array.nbytes).reshape(array.shape)
    copy[...] = array
    return memory, copy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages as Linux does")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("mode", ["zeros", "edge"])
@pytest.mark.parametrize("variant", library.runnable())
def test_conv2d__reads_nothing_behind_three_channels(native, variant, mode):
    rng = np.random.default_rng(0)
    child = os.fork()
    if child == 0:  # a read behind x would end it by a signal
        code = 1
        try:
            for height, width, stride in [(1, 1, 1), (2, 1, 2), (1, 6, 2), (5, 9, 4)]:
                x = rng.standard_normal((2, height, width, 3), np.float32)
                memory, x = last_of_its_page(x)
                op = Conv2d((stride, stride), (3, 3, 3, 3), mode)
                w = rng.standard_normal((5, 4, 4, 3), np.float32)
                out = np.empty(op.output_shape(x.shape, w.shape), np.float32)
                given = {"x": x, "w": w, "out": out, "op": op}
                config = native.package.choose("conv2d", given, variant)
                native.function("conv2d")(x, w, None, out, op=op, config=config)
                assert memory is not None
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
