from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import DTYPES, call_of, compare_oracles
from cases import update as cases
from cases.draw import ALL, CHUNKS, Draw
from tolerance import assert_close, assert_same

from cnnengine.bench.verify.oracle.elementwise import round_to
from cnnengine.kernels.spec import SGD, AdamW, LossScale


@pytest.mark.dtypes(*cases.ARENAS)
@pytest.mark.parametrize("name", cases.LISTED)
def test_update__listed_shapes(backend, name, dtype):
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_update__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, *backend.fuzzing):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_update_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, of_optimizers(cases.listed(name, "float64")))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_update_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, of_optimizers(cases.fuzz(chunk, ALL)))


def of_optimizers(calls):
    """The calls that PyTorch has a counterpart of."""
    return (call for call in calls if call.function in ("sgd_update", "adamw_update"))


@pytest.mark.dtypes(*cases.ARENAS)
@pytest.mark.parametrize("function", ["sgd_update", "adamw_update"])
@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_updates__low_is_the_new_w_rounded_once(backend, dtype, function, low):
    calls = cases.calls(Draw(f"low {low}"), 1031, 517, SGD(), AdamW(), dtype, low)
    (call,) = (c for c in calls if c.function == function)
    call = call_of(function, *call.want, "low", **call.inputs)
    object.__setattr__(call, "types", {"low": low})
    found = backend.outputs(call)
    assert_same("low", found["low"], round_to(found["w"].astype(np.float64), low))


@pytest.mark.dtypes(*cases.ARENAS)
def test_sgd_update__by_hand(backend, dtype):
    arrays = {
        n: np.array(v, DTYPES[dtype]) for n, v in {"w": [8, 8], "g": [2, 2], "v": [4, 4]}.items()
    }
    lr = np.array([0.5], DTYPES[dtype])
    call = call_of("sgd_update", "w", "v", **arrays, lr=lr, op=SGD(0.5, False, 0.25), decay_until=1)
    found = backend.outputs(call)
    assert_same("v", found["v"], np.array([6.0, 4.0]))  # 0.5 * 4 + 2 + 0.25 * 8, without decay 4
    assert_same("w", found["w"], np.array([5.0, 6.0]))
    call = call_of("sgd_update", "w", "v", **arrays, lr=lr, op=SGD(0.5, True, 0.25), decay_until=1)
    found = backend.outputs(call)
    assert_same("w", found["w"], np.array([4.5, 6.0]))  # 8 - 0.5 * (4 + 0.5 * 6), 8 - 0.5 * (2 + 2)


@pytest.mark.dtypes(*cases.ARENAS)
def test_adamw_update__first_step_is_the_sign_of_the_gradient(backend, dtype):
    g = np.array([3e-4, -7.0, 1e3], DTYPES[dtype])
    zero, lr = np.zeros(3, DTYPES[dtype]), np.array([0.25], DTYPES[dtype])
    inputs = {"w": zero, "g": g, "m": zero, "v": zero, "lr": lr, "step": np.array([1])}
    op = AdamW(eps=1e-30, weight_decay=0.0)
    call = call_of("adamw_update", "w", "m", "v", **inputs, op=op, decay_until=3)
    assert_close("w", backend.outputs(call)["w"], np.array([-0.25, 0.25, -0.25]), dtype)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", [0, 2047, 2048, 4098])
def test_non_finite__sees_one_number_of_many(backend, dtype, bad, where):
    x = np.full(4099, 6e4, DTYPES[dtype])
    call = replace(call_of("non_finite", x=x, out_shape=(2,)), types={"out": "int32"})
    assert not backend.outputs(call)["out"].any()
    x[where] = bad
    assert backend.outputs(call)["out"].tolist() == [where < 2050, where >= 2050]


@pytest.mark.dtypes(*cases.ARENAS)
def test_loss_scale__halves_at_once_and_doubles_in_time(backend, dtype):
    scale, good, seen = np.array([8.0], DTYPES[dtype]), np.array([0], np.int32), []
    for overflow in (0, 1, 0, 0, 1, 0, 0):
        call = call_of(
            *("loss_scale", "scale", "good", "out", "skip"),
            flags=np.array([0, overflow], np.int32), scale=scale, good=good, op=LossScale(2),
        )  # fmt: skip
        types = {"good": "int32", "skip": "int32", "out": dtype, "scale": dtype}
        found = backend.outputs(replace(call, types=types, dtype=dtype))
        assert found["out"] == scale
        assert found["skip"] == overflow
        scale, good = found["scale"], found["good"]
        seen.append(float(scale[0]))
    assert seen == [8.0, 4.0, 4.0, 8.0, 4.0, 4.0, 8.0]
