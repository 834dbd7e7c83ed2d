"""`cnnengine train --device cuda`, in this process, on the simulated device."""

from __future__ import annotations

import pytest
import simulated_cuda
from click.testing import CliRunner

from cnnengine.cli import train
from cnnengine.engine import device as devices

from .command import small


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    yield simulated_cuda.install(monkeypatch)
    devices.use_threads(0)  # the command sets it for its process


def _train(*arguments):
    done = CliRunner().invoke(train.command, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_train__on_a_gpu_and_on_the_cpu_from_there(tmp_path, pictures, simulated):
    run = tmp_path / "run"
    told = _train(*small(pictures, epochs=1)[1:], "--device", "cuda", "--out", run)
    assert "cuda:0, kernels simulated, fp32" in told
    assert "MB in one arena" in told
    assert simulated.log.count("replay") > 0
    told = _train("--resume", run, "--epochs", 2, "--device", "cpu")
    assert "the run was on cuda (simulated) before and goes on on cpu" in " ".join(told.split())
    assert "arena" not in told


def test_train__auto_beside_a_gpu(tmp_path, pictures, simulated):
    settings = [*small(pictures, epochs=1)[1:], "--device", "auto"]
    told = _train(*settings, "--out", tmp_path / "a")
    assert "--device auto is the CPU; --device cuda trains on the GPU that is here" in told
    simulated.count = 0
    assert "--device cuda" not in _train(*settings, "--out", tmp_path / "b")


def test_train__no_graph(tmp_path, pictures, simulated):
    _train(
        *small(pictures, epochs=1)[1:], "--device", "cuda", "--no-graph", "--out", tmp_path / "r"
    )
    assert "replay" not in simulated.log
    assert simulated.log.count("sgd_update") == 4
