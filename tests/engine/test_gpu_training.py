"""Training on the GPU that is here (`pytest -m gpu`), and without one on the simulated device.

Streams, graphs and copies are CUDA's own then: what `test_gpu.py` shows of the simulated device is
shown here of a real one, within rounding of the CPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import simulated_cuda

from cnnengine.engine import device as devices
from cnnengine.engine.device import open_device
from cnnengine.engine.network import Network
from cnnengine.engine.train import StepReport
from cnnengine.kernels import registry, triton

from .toy import toy_trainer

REAL = not triton.interpreted()
pytestmark = [pytest.mark.gpu] if REAL else []

# Relative differences of a loss after up to 15 steps; each step adds what rounding flips.
LIMITS = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 5e-2, "fp16": 2e-2}


@pytest.fixture(params=["triton", "cupy", "auto"] if REAL else ["auto"])
def kernels(request, monkeypatch):
    """What `--kernels` says; without a GPU the kernels are NumPy's, on the simulated device."""
    if not REAL:
        monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
        simulated_cuda.install(monkeypatch)
        return "auto"
    for name in ("triton", "cupy") if request.param == "auto" else (request.param,):
        if (reason := registry.missing(name)) is not None:
            told = f"backend {name}: {reason}"
            if name in request.config.getoption("--require-backend"):
                pytest.fail(told)
            pytest.skip(told)
    return request.param


def _trained(folder, **settings):
    trainer, losses = toy_trainer(folder, **settings), []
    trainer.run(lambda told: losses.append(told.loss) if isinstance(told, StepReport) else None)
    assert len(losses) == 15
    return losses, trainer


@pytest.mark.parametrize("precision", LIMITS)
def test_training__follows_the_cpu(tmp_path, kernels, precision):
    here, _ = _trained(tmp_path / "gpu", device="cuda", kernels=kernels, precision=precision)
    like = "fp32" if precision == "tf32" else precision  # the CPU has none
    there, _ = _trained(tmp_path / "cpu", kernels="numpy", precision=like)
    np.testing.assert_allclose(here, there, rtol=LIMITS[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_training__graphs_and_single_launches_give_the_same_bits_again(
    tmp_path, kernels, precision
):
    settings = {"device": "cuda", "kernels": kernels, "precision": precision}
    expected, first = _trained(tmp_path / "first", **settings)
    weights = first.network.state_dict()
    for name, graph in (("again", True), ("launches", False)):
        losses, trainer = _trained(tmp_path / name, graph=graph, **settings)
        assert losses == expected
        for key, value in trainer.network.state_dict().items():
            np.testing.assert_array_equal(value, weights[key], err_msg=f"{name}: {key}")


def test_training__stopped_goes_on_to_the_same_bits(tmp_path, kernels):
    settings = {"device": "cuda", "kernels": kernels}
    expected = _trained(tmp_path / "whole", **settings)[1].network.state_dict()
    stopped = toy_trainer(tmp_path / "parts", **settings)

    def stop(told):
        stopped.stop = isinstance(told, StepReport) and told.step >= 7

    stopped.run(stop)
    trainer = toy_trainer(tmp_path / "parts", **settings)
    trainer.resume()
    assert trainer.progress.step >= 7
    trainer.run()
    for key, value in trainer.network.state_dict().items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.mark.parametrize("pictures", [True, False])
def test_logits__of_replayed_batches_follow_the_cpu(tmp_path, kernels, pictures):
    """Four batches, the last one filled up: launches, a capture and replays."""
    trained = _trained(tmp_path / "run", kernels="numpy")[1]
    images = trained.splits.test.images
    network = Network(
        trained.description, open_device("cuda", kernels), infer_batch=6, pictures=pictures
    )
    network.load(trained.network.state_dict())
    with network.device.session():
        found = network.logits(images)
    np.testing.assert_allclose(found, trained.network.logits(images), rtol=1e-4, atol=1e-4)
