from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles
from cases import pool as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import adjoint
from tolerance import assert_same

from cnnengine.kernels.errors import ShapeError
from cnnengine.kernels.spec import AvgPool2d, MaxPool2d


@pytest.mark.parametrize("name", cases.LISTED)
def test_pool__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_pool__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_pool_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_pool_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ALL))


@pytest.mark.parametrize("name", cases.LISTED)
def test_pool_gradients__are_transposes(backend, name):
    x_shape, op = cases.LISTED[name]
    draw, dtype = Draw(f"pool adjoint {name}"), backend.widest
    x, dy = draw.normal(x_shape, dtype), draw.normal(op.output_shape(x_shape), dtype)
    if isinstance(op, MaxPool2d):  # linear while the codes stand
        found = backend.outputs(call_of("max_pool2d", "out", "code", x=x, op=op))
        y, back = found["out"], call_of("max_pool2d_backward", dy=dy, code=found["code"], op=op)
    else:
        y = backend.outputs(call_of("avg_pool2d", x=x, op=op))["out"]
        back = call_of("avg_pool2d_backward", dy=dy, op=op)
    dx = backend.outputs(replace(back, out_shape=x_shape))["out"]
    adjoint(name, dy, y, dx, x, dtype)


def test_global_avg_pool2d_backward__is_the_transpose(backend):
    draw, dtype = Draw("global adjoint"), backend.widest
    x, dy = draw.normal((3, 7, 5, 11), dtype), draw.normal((3, 11), dtype)
    y = backend.outputs(call_of("global_avg_pool2d", x=x))["out"]
    back = call_of("global_avg_pool2d_backward", dy=dy, out_shape=x.shape)
    adjoint("global_avg_pool2d", dy, y, backend.outputs(back)["out"], x, dtype)


NAN = np.nan
# a row of pixels, its 1 x 3 windows of stride 2 behind one column of padding: values and codes
RULES = {
    "first_of_equals": ([5, 5, 1, 5, 5], [5, 5, 5], [1, 0, 0]),
    "padding_never_wins": ([-7, -9, -8, -6, -5], [-7, -6, -5], [1, 2, 1]),
    "first_nan_wins": ([1, NAN, 9, NAN, NAN], [NAN, NAN, NAN], [2, 0, 0]),
    "minus_infinity_is_a_value": ([-np.inf] * 5, [-np.inf] * 3, [1, 0, 0]),
    "infinity_loses_to_nan": ([np.inf, np.inf, NAN, 0, 1], [np.inf, NAN, 1], [1, 1, 1]),
    "zeros_are_equal": ([-0.0, 0.0, -0.0, 0.0, -0.0], [0, 0, 0], [1, 0, 0]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [1, 3, 16, 35])
def test_max_pool2d__ties_and_nan(backend, dtype, rule, channels):
    row, values, codes = RULES[rule]
    op = MaxPool2d((1, 3), (1, 2), (0, 0, 1, 1))
    x = np.repeat(np.array(row, DTYPES[dtype]).reshape(1, 1, 5, 1), channels, 3)
    both = backend.verify(call_of("max_pool2d", "out", "code", x=x, op=op))
    for c in range(channels):
        assert_same("out", both["out"][0, 0, :, c], np.array(values, np.float64))
        assert_same("code", both["code"][0, 0, :, c], np.array(codes))


def test_max_pool2d_backward__adds_where_windows_overlap(backend, dtype):
    op = MaxPool2d((3, 3), (1, 1))
    x = np.zeros((1, 5, 5, 2), DTYPES[dtype])
    x[0, 2, 2] = 1  # the maximum of all nine windows
    code = backend.outputs(call_of("max_pool2d", "out", "code", x=x, op=op))["code"]
    dy = np.arange(1.0, 19).reshape(1, 3, 3, 2).astype(DTYPES[dtype])
    back = call_of("max_pool2d_backward", dy=dy, code=code, op=op, out_shape=x.shape)
    expected = np.zeros(x.shape)
    expected[0, 2, 2] = 81, 90  # 1 + 3 + ... + 17 and 2 + 4 + ... + 18
    assert_same("dx", backend.outputs(back)["out"], expected)


def test_avg_pool2d__divisor_counts_what_it_says(backend, dtype):
    x = np.ones((1, 3, 3, 1), DTYPES[dtype])
    padded = AvgPool2d((2, 2), (2, 2), (1, 0, 1, 0))
    out = backend.outputs(call_of("avg_pool2d", x=x, op=padded))["out"]
    assert_same("with padding", out.reshape(2, 2), np.array([[0.25, 0.5], [0.5, 1.0]]))
    bare = AvgPool2d((2, 2), (2, 2), (1, 0, 1, 0), count_include_pad=False)
    out = backend.outputs(call_of("avg_pool2d", x=x, op=bare))["out"]
    assert_same("without padding", out.reshape(2, 2), np.ones((2, 2)))
    hanging = AvgPool2d((2, 2), (2, 2), ceil_mode=True)
    out = backend.outputs(call_of("avg_pool2d", x=x, op=hanging))["out"]
    assert_same("hanging over", out.reshape(2, 2), np.ones((2, 2)))


def test_max_pool2d__a_dilated_window_in_padding_alone_is_refused():
    op = MaxPool2d((2, 1), (1, 1), (2, 1, 0, 0), (3, 1))  # taps at rows -2 and 1
    with pytest.raises(ShapeError, match="every window must hold a pixel that is not padding"):
        op.output_shape((1, 1, 4, 2))
    assert op.output_shape((1, 3, 4, 2)) == (1, 3, 4, 2)
