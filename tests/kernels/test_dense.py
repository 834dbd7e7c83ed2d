from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles, without
from cases import dense as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import adjoint
from tolerance import assert_close, assert_same


@pytest.mark.parametrize("name", cases.LISTED)
def test_dense__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_dense__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_dense_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_dense_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ALL))


@pytest.mark.parametrize("name", cases.LISTED)
def test_dense_gradients__are_its_transposes(backend, name):
    n, c, k = cases.LISTED[name]
    draw, dtype = Draw(f"dense adjoint {name}"), backend.widest
    x, w, dy = draw.normal((n, c), dtype), draw.normal((k, c), dtype), draw.normal((n, k), dtype)
    y = backend.outputs(call_of("dense", x=x, w=w, b=None))["out"]
    dx = backend.outputs(call_of("dense_dgrad", dy=dy, w=w))["out"]
    dw = backend.outputs(call_of("dense_wgrad", x=x, dy=dy))["out"]
    adjoint("dense_dgrad", dy, y, dx, x, dtype)
    adjoint("dense_wgrad", dy, y, dw, w, dtype)


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 9, 4, 13), (0, 3)])
def test_bias_grad__is_the_transpose_of_adding_a_bias(backend, shape):
    draw, dtype = Draw(f"bias adjoint {shape}"), backend.widest
    b, dy = draw.normal(shape[-1:], dtype), draw.normal(shape, dtype)
    db = backend.outputs(call_of("bias_grad", dy=dy))["out"]
    adjoint("bias_grad", dy, np.broadcast_to(b, shape), db, b, dtype)


@pytest.mark.parametrize("pitch", [(8, 8), (3, 2)], ids=["whole groups", "odd"])
def test_bias_grad__of_a_slice_of_channels(backend, dtype, pitch):
    dy = Draw(f"bias of a slice {pitch}").normal((2, 3, 5, 8), dtype)
    backend.verify(replace(call_of("bias_grad", dy=dy), pitch={"dy": pitch}))


def test_dense__nan_survives_relu(backend, dtype):
    x = np.ones((3, 5), DTYPES[dtype])
    x[1, 4] = np.nan
    w = -np.ones((4, 5), DTYPES[dtype])
    out = backend.outputs(call_of("dense", x=x, w=w, b=None, relu=True))["out"]
    assert_same("out", out, np.array([[0.0] * 4, [np.nan] * 4, [0.0] * 4]))


def test_dense_dgrad__mask_and_db_are_relu_backward_and_bias_grad(backend):
    draw, dtype = Draw("dense mask"), backend.widest
    dy, w = draw.normal((9, 13), dtype), draw.normal((13, 11), dtype)
    mask = np.maximum(0, draw.normal((9, 11), dtype))
    mask[2, 3] = np.nan
    call = call_of("dense_dgrad", "out", "db", dy=dy, w=w, mask=mask)
    fused = backend.outputs(call)
    plain = backend.outputs(replace(without(call, "mask"), want=("out",)))["out"]
    gated = backend.outputs(call_of("relu_backward", dy=plain, y=mask))["out"]
    assert_same("dx", fused["out"], gated)
    total = backend.outputs(call_of("bias_grad", dy=gated))["out"]
    assert_close("db", fused["db"], total, dtype, 9, floor=float(np.abs(gated).max()))
