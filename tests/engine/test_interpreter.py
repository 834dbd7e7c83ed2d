"""Training through Triton's interpreter follows the NumPy backend, step by step."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tolerance import assert_close

from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.train import StepReport
from cnnengine.kernels import registry

from .toy import toy_splits, toy_trainer

STEPS = 20


def _trained(folder, steps, **settings):
    """Losses [steps] and parameters after so many steps of four images."""
    trainer = toy_trainer(
        folder, toy_splits(4 * STEPS), batch_size=4, epochs=1, lr=0.002, **settings
    )
    losses = []

    def report(told):
        if isinstance(told, StepReport):
            losses.append(told.loss)
            trainer.stop = told.step == steps and steps < STEPS

    trainer.run(report)
    return np.array(losses), dict(trainer.network.state_dict())


def _compare(tmp_path, steps, kernels, **settings):
    if (reason := registry.missing(kernels)) is not None:
        pytest.skip(f"backend {kernels}: {reason}")
    expected, parameters = _trained(tmp_path / "numpy", steps, kernels="numpy", **settings)
    settings |= {"device": "interpreter", "kernels": kernels}
    losses, changed = _trained(tmp_path / kernels, steps, **settings)
    assert len(losses) == steps
    assert_close("losses", losses, expected, "float32")
    for name, value in parameters.items():
        assert_close(name, changed[name], value, "float32")


@pytest.mark.parametrize(("kernels", "optimizer"), [("triton", "adamw"), ("cupy", "sgd")])
def test_interpreter__two_training_steps_equal_numpy_s(tmp_path, kernels, optimizer):
    _compare(tmp_path, 2, kernels, optimizer=optimizer)


@pytest.mark.parametrize(
    "kernels",
    ["cupy", pytest.param("triton", marks=pytest.mark.slow)],  # seconds a step
)
def test_interpreter__twenty_losses_equal_numpy_s(tmp_path, kernels):
    _compare(tmp_path, STEPS, kernels)


def test_open_device__interpreter_runs_the_gpu_s_kernels_on_host_arrays():
    device = open_device("interpreter")
    assert device.backends == ("triton",)
    assert "slow" in device.warning
    assert type(device.empty((2, 3), "float32")) is np.ndarray


def test_open_device__interpreter_runs_cuda_cpp_in_its_simulator():
    if (reason := registry.missing("cupy")) is not None:
        pytest.skip(f"backend cupy: {reason}")
    device = open_device("interpreter", "cupy")
    assert device.backends == ("cupy",)
    x, out = device.zeros((2, 3), "float32"), device.empty((2, 3), "float32")
    x[:] = [-1, 0, 2]
    with device.session():
        device.function("relu")(x, out)
    assert out.tolist() == [[0, 0, 2]] * 2


@pytest.mark.parametrize(
    ("device", "kernels", "told"),
    [
        ("cpu", "triton", "--kernels triton: not on device cpu; use --device cuda or interpreter"),
        ("interpreter", "numpy", "--kernels numpy: not on device interpreter; use --device cpu"),
        ("cpu", "native", "--kernels native: they cannot run alone"),
    ],
)
def test_open_device__kernels_of_another_device(device, kernels, told):
    with pytest.raises(InputError, match=told):
        open_device(device, kernels)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("import triton", "Triton was imported already, without its interpreter; set"),
        (
            "from importlib import util; find = util.find_spec\n"
            "util.find_spec = lambda n, *a: None if n == 'triton' else find(n, *a)",
            "Triton is not installed; pip install",
        ),
        ("", "works"),
    ],
)
def test_open_device__interpreter_asked_for_too_late_or_without_triton(before, told):
    code = (
        f"{before}\nfrom cnnengine.engine.device import open_device\n"
        "from cnnengine.kernels import registry\nregistry.missing('triton')  # nothing is kept\n"
        "from cnnengine.engine.errors import InputError\n"
        "try:\n    open_device('interpreter').function('relu')\n    print('works')\n"
        "except InputError as error:\n    print(error)"
    )
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept, check=True
    )
    assert told in done.stdout
