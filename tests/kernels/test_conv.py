from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles, with_inputs, without
from cases import conv as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import adjoint
from tolerance import assert_close, assert_same

from cnnengine.kernels.numpy import product
from cnnengine.kernels.spec import DEAD, Conv2d, accumulator


@pytest.mark.parametrize("name", cases.LISTED)
def test_conv__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_conv__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_conv_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_conv_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ALL))


def geometry(name):
    """x, w, dy in the backend's widest type, and the parameters, of a listed geometry."""
    x_shape, w_shape, op = cases.LISTED[name]
    draw = Draw(f"conv geometry {name}")
    shapes = x_shape, w_shape, op.output_shape(x_shape, w_shape)
    return draw, *(draw.rng.standard_normal(shape) for shape in shapes), op


@pytest.mark.parametrize("name", cases.LISTED)
def test_conv2d_gradients__are_its_transposes(backend, name):
    _, x, w, dy, op = geometry(name)
    x, w, dy = (a.astype(backend.widest) for a in (x, w, dy))
    y = backend.outputs(call_of("conv2d", x=x, w=w, b=None, op=op))["out"]
    back = call_of("conv2d_dgrad", dy=dy, w=w, op=op, out_shape=x.shape)
    dx = backend.outputs(back)["out"]
    back = call_of("conv2d_wgrad", x=x, dy=dy, op=op, out_shape=w.shape)
    dw = backend.outputs(back)["out"]
    adjoint("conv2d_dgrad", dy, y, dx, x, backend.widest)
    adjoint("conv2d_wgrad", dy, y, dw, w, backend.widest)


FUSIBLE = ("same_3x3", "odd_pool", "groups", "edge_uneven", "filter_11_stride_4", "empty_batch")


@pytest.mark.parametrize("name", FUSIBLE)
def test_conv2d_relu_pool__is_conv_relu_pool(backend, name, dtype):
    # integers: every sum is exact, so that fused and unfused must give the same values and codes
    x_shape, w_shape, op = cases.LISTED[name]
    draw = Draw(f"fused {name}")
    x, w = draw.whole(x_shape, dtype), draw.whole(w_shape, dtype)
    b = draw.whole(w_shape[:1], accumulator(dtype))
    fused = call_of("conv2d_relu_pool", "out", "code", x=x, w=w, b=b, op=op, pool=cases.POOL)
    both = backend.outputs(fused)
    y = backend.outputs(call_of("conv2d", x=x, w=w, b=b, op=op, relu=True))["out"]
    pooled = backend.helper(call_of("max_pool2d", "out", "code", x=y, op=cases.POOL))
    code = np.where(pooled["out"] == 0, DEAD, pooled["code"]).astype(np.int8)
    assert_same("out", both["out"], pooled["out"])
    assert_same("code", both["code"], code)
    dy = draw.whole(pooled["out"].shape, dtype)
    back = call_of("conv2d_relu_pool_backward", "out", "db", dy=dy, code=both["code"])
    fused_back = replace(with_inputs(back, pool=cases.POOL), out_shape=y.shape)
    first = backend.outputs(fused_back)
    back = call_of("max_pool2d_backward", dy=dy, code=pooled["code"], op=cases.POOL)
    routed = backend.helper(replace(back, out_shape=y.shape))["out"]
    second = backend.helper(call_of("relu_backward", dy=routed, y=y))["out"]
    assert_same("dx", first["out"], second)
    assert_same("db", first["db"], backend.helper(call_of("bias_grad", dy=second))["out"])


@pytest.mark.parametrize("name", ["primes", "edge_uneven", "depthwise", "pointwise", "empty_batch"])
def test_conv2d_dgrad__mask_and_db_are_relu_backward_and_bias_grad(backend, name):
    draw, _, w, dy, op = geometry(name)
    w, dy = w.astype(backend.widest), dy.astype(backend.widest)
    x_shape = cases.LISTED[name][0]
    mask = np.maximum(0, draw.normal(x_shape, backend.widest))
    back = call_of("conv2d_dgrad", "out", "db", dy=dy, w=w, op=op, mask=mask, out_shape=x_shape)
    fused = backend.outputs(back)
    plain = backend.outputs(replace(without(back, "mask"), want=("out",)))["out"]
    gated = backend.helper(call_of("relu_backward", dy=plain, y=mask))["out"]
    assert_same("dx", fused["out"], gated)
    total = backend.helper(call_of("bias_grad", dy=gated))["out"]
    scale = float(np.abs(gated).sum())
    assert_close("db", fused["db"], total, backend.widest, gated[..., 0].size, floor=scale)


@pytest.mark.parametrize("name", ["primes", "edge_uneven", "depthwise", "pointwise", "empty_batch"])
def test_conv2d__relu_and_residual_are_add(backend, name):
    _, x, w, dy, op = geometry(name)
    x, w, residual = (a.astype(backend.widest) for a in (x, w, dy))
    fused = call_of("conv2d", x=x, w=w, b=None, op=op, relu=True, residual=residual)
    plain = backend.outputs(without(fused, "relu", "residual"))["out"]
    total = backend.helper(call_of("add", a=plain, b=residual, relu=True))["out"]
    assert_close("out", backend.outputs(fused)["out"], total, backend.widest)


def test_conv2d__nan_survives_relu(backend, dtype):
    draw = Draw("nan")
    x, w = draw.normal((3, 7, 7, 5), dtype), draw.normal((4, 3, 3, 5), dtype)
    x[1, 3, 3, 2] = np.nan
    for op in (Conv2d(), Conv2d(padding=(1, 1, 1, 1), padding_mode="edge")):
        call = call_of("conv2d", x=x, w=w, b=None, op=op, relu=True)
        out = backend.outputs(call)["out"]
        at = 3 - 2 + op.padding[0]  # the first of the three windows that see the pixel
        expected = np.zeros(out.shape, bool)
        expected[1, at : at + 3, at : at + 3] = True
        assert_same("NaN", np.isnan(out), expected)


def test_conv2d_relu_pool__nan_wins(backend, dtype):
    x = np.full((1, 4, 4, 1), -1.0).astype(DTYPES[dtype])
    x[0, 0, 1] = x[0, 1, 0] = x[0, 2, 3] = np.nan
    x[0, 0, 0] = x[0, 2, 0] = x[0, 3, 1] = 2
    w = np.ones((1, 1, 1, 1), DTYPES[dtype])
    call = call_of(
        "conv2d_relu_pool", "out", "code", x=x, w=w, b=None, op=Conv2d(), pool=cases.POOL
    )
    both = backend.outputs(call)
    assert_same("out", both["out"].reshape(-1), np.array([np.nan, 0, 2, np.nan]))
    assert_same("code", both["code"].reshape(-1), np.array([1, DEAD, 0, 1]))


def test_conv2d_dgrad__nan_in_the_mask_passes_the_gradient(backend):
    dtype = backend.widest
    mask = np.array([np.nan, 0.0, -0.0, -1.0, 2.0], dtype).reshape(1, 1, 5, 1)
    dy, w = np.arange(1.0, 6, dtype=dtype).reshape(1, 1, 5, 1), np.ones((1, 1, 1, 1), dtype)
    call = call_of("conv2d_dgrad", "out", "db", dy=dy, w=w, op=Conv2d(), mask=mask)
    both = backend.outputs(replace(call, out_shape=(1, 1, 5, 1)))
    assert_same("out", both["out"].reshape(-1), np.array([1.0, 0, 0, 0, 5]))
    assert_same("db", both["db"], np.array([6.0]))


@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_multiply__fewer_rows_than_a_tile_has(pixels):
    """As in the last layers of a network of small images: 3x3 windows over 512 channels."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((1, pixels, 4608))
    b = rng.standard_normal((1, 4608, 64))
    out = np.full((1, pixels, 64), np.nan)
    product.multiply(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-10, atol=1e-10)
