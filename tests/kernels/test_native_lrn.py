"""Native LRN: its power from the smallest number to infinity, every width, beside float64."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.kernels import registry
from cnnengine.kernels.native import library, norm
from cnnengine.kernels.numpy import norm as reference
from cnnengine.kernels.numpy import threads
from cnnengine.kernels.spec import LRN

pytestmark = pytest.mark.skipif(
    registry.missing("native") is not None, reason=f"native: {registry.missing('native')}"
)


@pytest.fixture(params=library.runnable())
def variant(request, monkeypatch):
    """Each instruction set in turn as the widest of this processor."""
    upto = library.runnable()[: library.runnable().index(request.param) + 1]
    monkeypatch.setattr(library, "runnable", lambda: upto)
    return request.param


def both(x, dy, op):
    """(out, dx) of ours in float32 and of NumPy's in float64."""
    found = []
    for module, dtype in ((norm, np.float32), (reference, np.float64)):
        given = [a.astype(dtype) for a in (x, dy)]
        out, dx = np.full(x.shape, np.nan, dtype), np.full(x.shape, np.nan, dtype)
        module.lrn(given[0], out, op=op)
        module.lrn_backward(*given, dx, op=op)
        found.append((out, dx))
    return found


@pytest.mark.parametrize("channels", [1, 3, 4, 11, 16, 35, 64, 67, 150])
@pytest.mark.parametrize("size", [1, 4, 5, 40])
def test_lrn__is_numpys_in_every_vector_width(variant, channels, size):
    rng = np.random.default_rng(channels)
    x, dy = rng.standard_normal((2, 3, 5, 7, channels), np.float32)
    for ours, expected in zip(*both(x, dy, LRN(size, 0.7, 0.75, 0.5)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6, err_msg=variant)


# Without a fused multiply-add, exponent * log2(d) is rounded before its whole part is taken off.
LIMIT = {"generic": 8e-6}


@pytest.mark.parametrize("beta", [0.75, 0.5, 0.0, -0.25, 1.875])  # float32 has them exactly
def test_lrn__power_of_every_size(variant, beta):
    x = np.zeros((1, 2, 160, 16), np.float32)
    x[0, 0] = np.geomspace(1e-19, 1e19, 160 * 16).reshape(160, 16)
    x[0, 1] = x[0, 0, ::-1]
    for k in (np.float32(1e-42), np.float32(1e-30), 2.0):
        (out, _), (expected, _) = both(x, np.ones_like(x), LRN(1, 1.0, beta, float(k)))
        powers = (float(k) + x.astype(np.float64) ** 2) ** -beta
        inside = (powers > 1e-37) & (powers < 1e38) & (abs(expected) > 1e-37)
        assert inside.mean() > 0.3
        limit = LIMIT.get(variant, 1e-6)
        np.testing.assert_allclose(out[inside], expected[inside], rtol=limit, err_msg=variant)
        assert np.isinf(out[powers > 1e39]).all()


def test_lrn__infinity_and_nan(variant):
    x = np.ones((1, 1, 1, 16), np.float32)
    x[0, 0, 0, [2, 9]] = np.nan, np.inf
    op = LRN(3, 1.0, 0.75, 1.0)
    for ours, expected in zip(*both(x, np.ones_like(x), op), strict=True):
        assert np.isnan(ours[0, 0, 0]).tolist() == np.isnan(expected[0, 0, 0]).tolist()
    np.testing.assert_allclose(both(x, x, op)[0][0], both(x, x, op)[1][0], rtol=1e-6)


def test_lrn__threads_change_no_bit():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 2, 40, 41, 35), np.float32)
    results = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        try:
            results.append(b"".join(a.tobytes() for a in both(x, dy, LRN())[0]))
        finally:
            threads.set_threads(0)
    assert len(set(results)) == 1
