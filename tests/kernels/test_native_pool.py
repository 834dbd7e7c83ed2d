"""Native pools: every instruction set and width of channels beside NumPy's, NaN rows, threads."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.kernels import native, registry
from cnnengine.kernels.errors import UnsupportedError
from cnnengine.kernels.native import library
from cnnengine.kernels.native import pool as ours
from cnnengine.kernels.numpy import pool as reference
from cnnengine.kernels.numpy import threads
from cnnengine.kernels.spec import AvgPool2d, MaxPool2d

pytestmark = pytest.mark.skipif(
    registry.missing("native") is not None, reason=f"native: {registry.missing('native')}"
)

MAX = MaxPool2d((3, 2), (2, 1), (1, 2, 1, 0), (2, 1), ceil_mode=True)
AVERAGES = [
    AvgPool2d((3, 3), (1, 1), (1, 1, 1, 1), count_include_pad=False),
    AvgPool2d((3, 2), (2, 3), (2, 0, 1, 1), ceil_mode=True),
]
WIDTHS = (1, 3, 4, 11, 16, 35, 64, 67, 150)  # channels: part of a vector, one, four, and rests


@pytest.fixture(params=library.runnable())
def variant(request, monkeypatch):
    """Each instruction set in turn as the widest of this processor."""
    upto = library.runnable()[: library.runnable().index(request.param) + 1]
    monkeypatch.setattr(library, "runnable", lambda: upto)
    return request.param


def blank(shape, dtype: type = np.float32):
    return np.full(shape, np.nan if dtype == np.float32 else 113, dtype)


def maxima(module, x, dy):
    """(out, code, out without codes, dx) of a max pool."""
    shape = MAX.output_shape(x.shape)
    out, code, plain = blank(shape), blank(shape, np.int8), blank(shape)
    dx = blank(x.shape)
    module.max_pool2d(x, out, code, op=MAX)
    module.max_pool2d(x, plain, None, op=MAX)
    module.max_pool2d_backward(dy, code, dx, op=MAX)
    return out, code, plain, dx


@pytest.mark.parametrize("channels", WIDTHS)
def test_max_pool2d__equals_numpys_in_every_vector_width(variant, channels):
    rng = np.random.default_rng(channels)
    x = rng.integers(-3, 4, (2, 9, 12, channels)).astype(np.float32)  # many maxima tie
    x[1, 2:6][rng.random((4, 12, channels)) < 0.1] = np.nan
    x[0, 4] = -np.inf
    dy = rng.standard_normal(MAX.output_shape(x.shape), np.float32)
    for name, found, expected in zip(
        ("out", "code", "out without codes", "dx"),
        maxima(ours, x, dy), maxima(reference, x, dy), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(found, expected, f"{variant}: {name}")


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("op", AVERAGES, ids=["bare", "padded"])
def test_avg_pool2d__is_numpys_in_every_vector_width(variant, channels, op):
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((2, 9, 12, channels), np.float32)
    dy = rng.standard_normal(op.output_shape(x.shape), np.float32)
    for function, given, shape in (
        ("avg_pool2d", x, dy.shape),
        ("avg_pool2d_backward", dy, x.shape),
    ):
        out, expected = blank(shape), np.empty(shape)
        getattr(ours, function)(given, out, op=op)
        getattr(reference, function)(given.astype(float), expected, op=op)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6, err_msg=f"{variant}")


def test_pools__threads_change_no_bit():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 70, 66, 40), np.float32)
    x[1, 30, 5, 7] = np.nan
    op = MaxPool2d((3, 3), (2, 2))
    dy = rng.standard_normal(op.output_shape(x.shape), np.float32)
    results = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        try:
            out, code, dx = blank(dy.shape), blank(dy.shape, np.int8), blank(x.shape)
            chosen = native.choose("max_pool2d", {"x": x, "out": out, "code": code, "op": op})
            assert chosen["workers"] == count  # the shape is large enough
            ours.max_pool2d(x, out, code, op=op)
            ours.max_pool2d_backward(dy, code, dx, op=op)
            mean, average = blank((3, 40)), blank(dy.shape)
            ours.global_avg_pool2d(x, mean)
            ours.avg_pool2d(x, average, op=AvgPool2d((3, 3), (2, 2)))
        finally:
            threads.set_threads(0)
        results.append(b"".join(a.tobytes() for a in (out, code, dx, mean, average)))
    assert len(set(results)) == 1


def test_choose__tells_the_instruction_set_and_refuses_float64():
    x, out = blank((1, 4, 4, 3)), blank((1, 2, 2, 3))
    arguments = {"x": x, "out": out, "code": None, "op": MaxPool2d((2, 2), (2, 2))}
    config = native.choose("max_pool2d", arguments)
    assert config.algorithm == "windows-generic"  # three channels fill no wider vector
    assert "float32" in config.reason
    assert config.workspace_bytes == 0
    wide = {**arguments, "x": np.zeros((1, 4, 4, 3))}
    with pytest.raises(UnsupportedError, match=r"max_pool2d: backend native .*float64.*numpy"):
        native.choose("max_pool2d", wide)
    with pytest.raises(UnsupportedError, match="dy is float64; use backend numpy"):
        ours.global_avg_pool2d_backward(np.zeros((1, 3)), np.zeros((1, 2, 2, 3)))
