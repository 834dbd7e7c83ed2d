from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles, same_bits
from cases import shape as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import adjoint
from machine import share

from cnnengine.kernels.spec import Pad
from cnnengine.kernels.spec.shape import merged


@pytest.mark.parametrize("name", cases.LISTED)
def test_shape__listed(backend, name, dtype):
    for call in share(backend, list(cases.LISTED).index(name), dtype, cases.listed(name, dtype)):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_shape__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_shape_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_shape_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ALL))


PAD = Pad((1, -2, 0, 3), (-1, 0, 2, -2))
TRANSPOSED = {  # forward, the gradient
    "transpose": (
        {"axes": (2, 0, 3, 1)},
        ("transpose", {"axes": (1, 3, 0, 2)}),
    ),
    "pad": ({"op": PAD}, ("pad", {"op": PAD.transposed})),
    "broadcast": ({"out_shape": (3, 6, 4, 5)}, ("reduce_sum", {"out_shape": (3, 1, 4, 1)})),
    "reduce_sum": ({"out_shape": (1, 6, 1, 5)}, ("broadcast", {"out_shape": (3, 6, 4, 5)})),
}


@pytest.mark.parametrize("function", TRANSPOSED)
def test_shape__gradients_are_transposes(backend, function):
    draw, dtype = Draw(f"{function} adjoint"), backend.widest
    settings, (back, back_settings) = TRANSPOSED[function]
    x = draw.normal((3, 1, 4, 1) if function == "broadcast" else (3, 6, 4, 5), dtype)
    y = backend.outputs(call_of(function, x=x, **settings))["out"]
    dy = draw.normal(y.shape, dtype)
    dx = backend.outputs(call_of(back, x=dy, **back_settings))["out"]
    adjoint(function, dy, y, dx, x, dtype)


def test_transpose__there_and_back_gives_the_same_bits(backend, dtype):
    x = Draw("there and back").normal((1, 35, 2, 37), dtype)
    there = backend.outputs(call_of("transpose", x=x, axes=(0, 3, 1, 2)))["out"]
    assert same_bits(backend.outputs(call_of("transpose", x=there, axes=(0, 2, 3, 1)))["out"], x)


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        *(((2, 3000, 3), "rr."), ((2, 3000, 3), ".r."), ((1500, 2, 2), "r.r")),
        *(((20000,), "r"), ((2, 3, 2500), "..r"), ((3, 70, 70), "r.r")),
    ],
)
def test_reduce_sum__of_many_terms(backend, shape, kinds):
    draw = Draw("long sums")
    for call in cases.sums(draw, shape, kinds, "float32"):
        backend.verify(call)


@pytest.mark.parametrize(("shape", "kinds"), [((3, 5000), ".r"), ((5000, 3), "r.")])
def test_reduce_sum__of_many_terms_is_rounded_once(backend, shape, kinds):
    (call,) = cases.sums(Draw("long sums"), shape, kinds, "bfloat16")
    out = backend.verify(replace(call, types={}))["out"]
    assert (out == call.oracle()["out"].astype(DTYPES["bfloat16"])).all()


@pytest.mark.parametrize(
    ("small", "large", "axes"),
    [
        ((1, 3, 1, 5), (2, 3, 4, 5), [(2, False), (3, True), (4, False), (5, True)]),
        ((2, 3, 1, 1), (2, 3, 4, 5), [(6, True), (20, False)]),
        ((1, 1, 1, 5), (2, 1, 4, 5), [(8, False), (5, True)]),
        ((1, 1), (1, 1), []),
        ((2, 1, 3), (2, 1, 3), [(6, True)]),
    ],
)
def test_merged__joins_neighbours_of_one_kind(small, large, axes):
    assert merged(small, large) == (axes, sum(kept for _, kept in axes))


def test_pad__rounds_its_value_to_the_type(backend, dtype):
    x = np.zeros(1, np.float64).astype(Draw("pad").normal((1,), dtype).dtype)
    out = backend.outputs(call_of("pad", x=x, op=Pad((1,), (1,), 1e30)))["out"]
    with np.errstate(over="ignore"):
        value = np.float64(1e30).astype(x.dtype)
    assert out.tolist() == [value, 0, value]
