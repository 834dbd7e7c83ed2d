from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import DTYPES, blank, call_of, compare_oracles, same_bits
from cases import elementwise as cases
from cases.draw import ALL, CHUNKS, Draw
from gradcheck import adjoint, inner
from tolerance import assert_same

from cnnengine.bench.verify.oracle.elementwise import FORMATS
from cnnengine.kernels.philox import key
from cnnengine.kernels.spec import Dropout


@pytest.mark.parametrize("name", cases.LISTED)
def test_elementwise__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_elementwise__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_elementwise_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, with_twin(cases.listed(name, "float64")))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_elementwise_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, with_twin(cases.fuzz(chunk, ALL)))


def with_twin(calls):
    """The calls that PyTorch can answer; its random numbers are others (see test_philox)."""
    return (call for call in calls if call.function != "dropout")


def test_concat_and_channel_slice__are_transposes(backend):
    draw, dtype = Draw("concat adjoint"), backend.widest
    xs = [draw.normal((2, 3, 5, c), dtype) for c in (1, 7, 4)]
    dy = draw.normal((2, 3, 5, 12), dtype)
    call = replace(call_of("concat", dy=dy), inputs={"xs": xs})
    y = backend.outputs(call)["out"]
    total, offset = 0.0, 0
    for x in xs:
        back = call_of("channel_slice", x=dy, offset=offset, out_shape=x.shape)
        dx = backend.outputs(back)["out"]
        total += inner(dx, x)
        offset += x.shape[3]
    assert abs(inner(dy, y) - total) <= 1e-12 * np.sqrt(inner(dy, dy) * inner(y, y))


def test_concat__leaves_an_array_that_is_its_slice(backend, dtype):
    backend.need("concat")
    draw = Draw("slices in place")
    pieces = [draw.normal((2, 3, 4, c), dtype) for c in (3, 5, 2)]
    out = blank((2, 3, 4, 10), dtype)
    out[..., 3:8] = pieces[1]
    device = backend.adapter.to_device(out)
    xs = [
        backend.adapter.to_device(pieces[0]),
        device[..., 3:8],
        backend.adapter.to_device(pieces[2]),
    ]
    backend.backend.function("concat")(xs, device)
    assert same_bits(backend.adapter.from_device(device), np.concatenate(pieces, 3))


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
def test_dropout__is_its_own_transpose(backend, p):
    draw, dtype = Draw("dropout adjoint"), backend.widest
    x, dy = draw.normal((3, 67), dtype), draw.normal((3, 67), dtype)
    settings = {"op": Dropout(p), "key": key(7, 3, 1)}
    y = backend.outputs(call_of("dropout", x=x, **settings))["out"]
    dx = backend.outputs(call_of("dropout", x=dy, **settings))["out"]
    adjoint("dropout", dy, y, dx, x, dtype)
    assert p > 0 or same_bits(x, y)


def test_dropout__is_new_at_every_step_and_stream(backend):
    x = np.ones(256, backend.widest)
    seen = set()
    for name in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1 + 2**32, 0, 0)):
        call = call_of("dropout", x=x, op=Dropout(0.5), key=key(*name))
        seen.add(backend.outputs(call)["out"].tobytes())
    assert len(seen) == 5


def test_dropout__keeps_its_share(backend):
    x = np.ones(4096, backend.widest)
    call = call_of("dropout", x=x, op=Dropout(0.25), key=key(5, 0, 0))
    kept = int((backend.outputs(call)["out"] > 0).sum())
    assert abs(kept - 3072) < 4 * np.sqrt(4096 * 0.25 * 0.75)  # four standard deviations


@pytest.mark.parametrize("target", FORMATS)
def test_cast__rounds_hard_values_to_nearest_even(backend, dtype, target):
    backend.need("cast")
    if target not in backend.dtypes:
        pytest.skip(f"{backend.backend.name} does not compute {target}")
    bits, smallest, largest = FORMATS[target]
    half = 2.0**-bits  # half the spacing of the values between 1 and 2
    tiny = 2.0 ** (smallest - bits + 1) if target != "float64" else 0.0  # the least subnormal
    hard = [1 + half, 1 + 3 * half, 1 + half + half / 1024, 1 + half - half / 1024]
    hard += [(1 + half) * 2.0**smallest, largest, largest * (1 + half / 2), 1 + half + 2.0**-50]
    hard += [tiny, tiny / 2, tiny * 1.5, tiny * 0.75, 0.0, -0.0, np.nan, np.inf, -np.inf]
    with np.errstate(all="ignore"):
        x = np.array(hard + [-v for v in hard]).astype(DTYPES[dtype])
    call = replace(call_of("cast", x=x), types={"out": target})
    out = backend.verify(call)["out"]
    assert_same("sign", np.signbit(out)[~np.isnan(x)], np.signbit(x)[~np.isnan(x)])
