"""Small parts of the engine: initialisation, schedules, parameter arena, optimizers, devices."""

import itertools

import numpy as np
import pytest

from cnnengine.engine.arena import ParameterArena
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.init import initial_value, initial_values
from cnnengine.engine.ir import Pace, Parameter, Value
from cnnengine.engine.models import build_graph
from cnnengine.engine.optim import Optimizer
from cnnengine.engine.schedule import SCHEDULES, get_schedule


def _parameter(name, shape, init="he", **settings):
    return Parameter(Value(name, shape, "float32", "param"), init, **settings)


def test_initial_value__he_has_variance_two_over_fan_in():
    weights = initial_value(_parameter("w", (400, 3, 3, 50), fan_in=450), seed=0)
    assert abs(weights.mean()) < 4 * np.sqrt(2 / 450 / weights.size)
    assert np.isclose(weights.var(), 2 / 450, rtol=0.02)


def test_initial_value__drawn_in_chunks_is_one_stream(monkeypatch):
    parameter = _parameter("w", (11, 3, 3, 7), fan_in=63)
    whole = initial_value(parameter, seed=1)
    monkeypatch.setattr("cnnengine.engine.init.CHUNK", 64)
    np.testing.assert_array_equal(initial_value(parameter, seed=1), whole)


def test_initial_values__depend_on_seed_and_name_only():
    graph = build_graph("vgg-small", 1, (28, 28, 1), 10, training=True)
    forward = initial_values(graph.params, seed=3)
    backward = initial_values(graph.params[::-1], seed=3)
    other = initial_values(graph.params, seed=4)
    for name, array in forward.items():
        np.testing.assert_array_equal(array, backward[name])
        assert name.endswith("/b") == np.array_equal(array, other[name])
    assert not np.array_equal(forward["conv3_2/w"].ravel()[:9], forward["conv1_1/w"].ravel()[:9])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 7, 1000])
def test_schedule__stays_in_range(name, total):
    factors = [get_schedule(name)(step, total) for step in range(total)]
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == 1 or total < 40


def test_cosine__warms_up_then_falls_to_nearly_nothing():
    factors = [SCHEDULES["cosine"](step, 1000) for step in range(1000)]
    assert factors[0] == 1 / 50
    assert factors[49] == factors[50] == 1
    assert all(a >= b for a, b in itertools.pairwise(factors[50:]))
    assert factors[-1] < 1e-4


def test_arena__weights_first_then_biases_then_frozen_all_aligned():
    parameters = [
        _parameter("a/b", (5,), "zeros"),
        _parameter("f/w", (3, 3), decay=True, trainable=False),
        _parameter("a/w", (5, 7), decay=True),
        _parameter("c/w", (17,), decay=True),
    ]
    arena = ParameterArena(parameters, open_device("cpu"))
    assert [name for name, _ in arena] == ["a/w", "c/w", "a/b", "f/w"]
    (stretch,) = arena.stretches
    assert (stretch.start, stretch.decay_until, stretch.end) == (0, 80, 96)
    assert (arena.trainable_until, arena.size) == (96, 112)
    assert arena.gradients.shape == (96,)
    assert arena.master.ctypes.data % 64 == 0
    values = {name: np.full(view.shape, i + 1.0) for i, (name, view) in enumerate(arena)}
    arena.load(values)
    for name, copy in arena.state_dict().items():
        np.testing.assert_array_equal(copy, values[name])
        assert not np.shares_memory(copy, arena.master)


def test_optimizer__decays_weights_and_not_biases():
    parameters = [_parameter("w", (4,), decay=True), _parameter("b", (4,), "zeros")]
    for name in ("sgd", "adamw"):
        arena = ParameterArena(parameters, open_device("cpu"))
        arena.load({"w": np.ones(4), "b": np.ones(4)})
        Optimizer(name, arena, weight_decay=0.1).update(lr=0.5, step=0)
        values = dict(arena)
        assert (values["w"] < 1).all()
        np.testing.assert_array_equal(values["b"], 1)


def test_optimizer__frozen_parameters_stay():
    parameters = [_parameter("w", (4,), decay=True), _parameter("f", (4,), trainable=False)]
    arena = ParameterArena(parameters, open_device("cpu"))
    arena.load({"w": np.ones(4), "f": np.ones(4)})
    arena.gradients.fill(1)
    Optimizer("sgd", arena, weight_decay=0.0).update(lr=0.5, step=0)
    values = dict(arena)
    assert (values["w"] < 1).all()
    np.testing.assert_array_equal(values["f"], 1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer__each_pace_has_its_rate_and_its_first_step(name):
    """A parameter that begins at step 5 at a tenth moves a tenth as far as one that began then."""
    paces = {"slow": Pace(0.1, 5), "own": Pace(1.0, 5), "old": Pace()}
    parameters = [_parameter(n, (20,), decay=True, pace=pace) for n, pace in paces.items()]
    parameters.append(_parameter("bias", (3,), "zeros", pace=paces["slow"]))
    arena = ParameterArena(parameters, open_device("cpu"))
    assert [stretch.pace for stretch in arena.stretches] == [Pace(), Pace(1.0, 5), Pace(0.1, 5)]
    assert [n for n, _ in arena] == ["old", "own", "slow", "bias"]
    alone = ParameterArena([_parameter("own", (20,), decay=True)], open_device("cpu"))
    for each, step in ((arena, 5), (alone, 0)):
        each.gradients.fill(0.5)
        Optimizer(name, each, weight_decay=0.1).update(lr=0.5, step=step)
    values = dict(arena)
    np.testing.assert_array_equal(values["own"], dict(alone)["own"])
    np.testing.assert_allclose(values["slow"], 0.1 * values["own"], rtol=1e-6)
    np.testing.assert_array_equal(values["bias"], values["slow"][:3])
    assert (values["old"] != values["own"]).all() == (name == "adamw")


def test_open_device__errors_name_what_is_missing():
    with pytest.raises(InputError, match="unknown device 'gpu'; known: auto, cpu, cuda"):
        open_device("gpu")
    with pytest.raises(InputError, match="unknown kernels 'cudnn'"):
        open_device("cpu", "cudnn")
    with pytest.raises(InputError, match="--device cuda: .*use --device cpu"):
        open_device("cuda")


def test_open_device__tells_which_better_backend_is_left_out(monkeypatch):
    monkeypatch.setattr("cnnengine.kernels.native.library.runnable", lambda: ())
    device = open_device("cpu")
    assert device.backends == ("numpy",)
    assert "kernels native: its C kernels were not compiled" in device.declined[0]
    assert open_device("cpu", "numpy").declined == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int64"])
def test_device_empty__is_aligned_and_shaped(dtype):
    for shape in ((), (3,), (2, 5, 7), (0, 4)):
        array = open_device("cpu").empty(shape, dtype)
        assert array.shape == shape
        assert array.ctypes.data % 64 == 0 or array.size == 0
        assert array.dtype.name == dtype
