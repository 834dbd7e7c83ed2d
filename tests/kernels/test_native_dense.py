"""Dense layers of the compiled backend: every tile of images, outputs and features, and limits."""

from __future__ import annotations

import numpy as np
import pytest

from cnnengine.kernels import registry, spec
from cnnengine.kernels.errors import UnsupportedError
from cnnengine.kernels.native import dense, library
from cnnengine.kernels.numpy import dense as reference
from cnnengine.kernels.numpy import threads

pytestmark = pytest.mark.skipif(
    registry.missing("native") is not None, reason=f"native: {registry.missing('native')}"
)
# N, C, K: images in every group; features that end within a vector, a pair, a strip, a chunk
SIZES = [(1, 70, 5), (2, 33, 13), (3, 16, 50), (7, 1100, 31), (13, 515, 66), (32, 9, 97), (9, 1, 1)]


def draw(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def both(function, variant, arrays, outputs, **parameters):
    """Outputs of a variant, and of NumPy in float64; float32 arrays full of NaN to write into."""
    given = arrays | {name: np.full(shape, np.nan, np.float32) for name, shape in outputs.items()}
    config = dense.choose(function, given, variant)
    getattr(dense, function)(**given, **parameters, config=config)
    wide = {n: a if a is None else a.astype(float) for n, a in given.items()}
    getattr(reference, function)(**wide, **parameters)
    return [(given[name], wide[name]) for name in outputs]


@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize(("n", "c", "k"), SIZES)
def test_dense__every_tile(variant, n, c, k):
    x, w, b, dy = draw(n, c, seed=1), draw(k, c, seed=2), draw(k, seed=3), draw(n, k, seed=4)
    mask = draw(n, c, seed=5)
    mask[0, :1] = np.nan
    found = both("dense", variant, {"x": x, "w": w, "b": b}, {"out": (n, k)}, relu=True)
    found += both("dense", variant, {"x": x, "w": w, "b": None}, {"out": (n, k)})
    found += both("dense_wgrad", variant, {"x": x, "dy": dy}, {"out": (k, c)})
    if n > 1:
        given = {"dy": dy, "w": w, "mask": mask}
        found += both("dense_dgrad", variant, given, {"out": (n, c), "db": (c,)})
        found += both("dense_dgrad", variant, {"dy": dy, "w": w}, {"out": (n, c)})
    for actual, expected in found:
        scale = np.sqrt(np.mean(expected**2)) + 1e-30
        assert np.abs(actual - expected).max() <= 1e-5 * scale


@pytest.mark.parametrize("function", ["dense", "dense_dgrad"])
def test_dense__an_image_has_the_same_bits_in_any_batch(function):
    images = draw(20, 300 if function == "dense" else 37, seed=1)
    w = draw(37, 300, seed=2)
    kernel, width = getattr(dense, function), 37 if function == "dense" else 300
    whole, part = np.empty((20, width), np.float32), np.empty((5, width), np.float32)
    more = [None] if function == "dense" else []
    kernel(images, w, *more, whole)
    kernel(images[9:14], w, *more, part)
    np.testing.assert_array_equal(part, whole[9:14])


def test_dense__nan_survives_the_relu_and_the_mask():
    x, w, out = draw(2, 40, seed=1), draw(6, 40, seed=2), np.empty((2, 6), np.float32)
    x[1, 39] = np.nan
    dense.dense(x, w, None, out, relu=True)
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[0]).all()
    dx, mask = np.empty((2, 40), np.float32), np.full((2, 40), -1, np.float32)
    mask[1] = np.nan
    dense.dense_dgrad(np.abs(out), w, dx, mask=mask)
    assert (dx[0] == 0).all()
    assert np.isnan(dx[1]).all()


def test_dense_wgrad__of_no_image_is_zero():
    dw = np.full((5, 33), np.nan, np.float32)
    dense.dense_wgrad(np.empty((0, 33), np.float32), np.empty((0, 5), np.float32), dw)
    assert (dw == 0).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_dense__bits_do_not_depend_on_the_threads(count, monkeypatch):
    monkeypatch.setattr(threads, "_count", count)
    monkeypatch.setattr(dense, "PER_WORKER", 1)
    x, w, dy = draw(6, 1500, seed=1), draw(700, 1500, seed=2), draw(6, 700, seed=3)
    for function, given, shape in (
        ("dense", {"x": x, "w": w, "b": None}, (6, 700)),
        ("dense_dgrad", {"dy": dy, "w": w}, (6, 1500)),
        ("dense_wgrad", {"x": x, "dy": dy}, (700, 1500)),
    ):
        out, alone = np.empty(shape, np.float32), np.empty(shape, np.float32)
        config = dense.choose(function, given | {"out": out})
        assert config["workers"] == count
        getattr(dense, function)(**given, out=out, config=config)
        monkeypatch.setattr(threads, "_count", 1)
        getattr(dense, function)(**given, out=alone)
        monkeypatch.setattr(threads, "_count", count)
        np.testing.assert_array_equal(out, alone)


def test_supports__few_images_in_float32():
    def told(function, n, dtype="float32"):
        arrays = {
            "x": (n, 8),
            "w": (4, 8),
            "dy": (n, 4),
            "out": (n, 8 if "dgrad" in function else 4),
        }
        if function == "dense_wgrad":
            arrays |= {"out": (4, 8)}
        return dense.supports(function, {name: np.zeros(s, dtype) for name, s in arrays.items()})

    assert told("dense", 32) is None
    assert told("dense", 33) == "takes at most 32 images, where weights are the traffic, not 33"
    assert told("dense_wgrad", 1) is None
    assert "leaves the gradient of one image to BLAS" in told("dense_dgrad", 1)
    assert told("dense_dgrad", 2) is None
    assert told("dense", 2, "float64") == "computes in float32 only, x is float64"
    x, out = np.zeros((33, 8), np.float32), np.zeros((33, 4), np.float32)
    config = spec.Config("dense-generic", (("workers", 1),))
    with pytest.raises(UnsupportedError, match="dense: backend native takes at most 32 images"):
        dense.dense(x, np.zeros((4, 8), np.float32), None, out, config=config)
