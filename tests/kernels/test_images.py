from __future__ import annotations

import numpy as np
import pytest
from calls import DTYPES, call_of, same_bits
from cases import images as cases
from cases.draw import CHUNKS

from cnnengine.kernels.spec import accumulator


@pytest.mark.parametrize("name", cases.LISTED)
def test_images__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS[:3])
def test_images__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


def test_normalise__gives_every_backend_the_bits_of_numpy(backend, dtype):
    """All values of a pixel, statistics of a real data set: two roundings, and one to `dtype`."""
    wide = DTYPES[accumulator(dtype)]
    mean = np.array([125.30691, 122.95039, 113.86538], wide)
    scale = np.array([0.015898, 0.0161, 0.01497], wide)
    images = np.arange(256 * 3, dtype=np.uint8).reshape(2, 16, 8, 3)
    expected = ((images.astype(wide) - mean) * scale).astype(DTYPES[dtype])
    call = call_of("normalise", mean=mean, scale=scale, images=images, moves=None)
    object.__setattr__(call, "dtype", dtype)
    assert same_bits(backend.outputs(call)["out"], expected)


def test_normalise__black_comes_in_and_the_mirror_is_last(backend):
    images = np.array([[[10], [20], [30]], [[40], [50], [60]]], np.uint8)[None]
    given = {"mean": np.array([10.0], np.float32), "scale": np.array([0.5], np.float32)}
    for move, rows in {
        (0, 0, 0): [[0, 5, 10], [15, 20, 25]],
        (0, 0, 1): [[10, 5, 0], [25, 20, 15]],
        (1, 0, 0): [[-5, -5, -5], [0, 5, 10]],
        (-1, 0, 0): [[15, 20, 25], [-5, -5, -5]],
        (0, 1, 0): [[-5, 0, 5], [-5, 15, 20]],
        (0, 1, 1): [[5, 0, -5], [20, 15, -5]],
        (0, 3, 0): [[-5, -5, -5], [-5, -5, -5]],
    }.items():
        moves = np.array([move], np.int32)
        call = call_of("normalise", **given, images=images, moves=moves)
        out = backend.outputs(call)["out"][0, :, :, 0]
        np.testing.assert_array_equal(out, np.array(rows, np.float32), err_msg=str(move))
