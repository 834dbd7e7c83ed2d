"""`cnnengine train --device cuda`, in this process, on the simulated device."""

from __future__ import annotations

import pytest
import simulated_cuda
from click.testing import CliRunner

from cnnengine.cli import train
from cnnengine.engine import device as devices
from cnnengine.engine import hardware
from cnnengine.kernels import cuda

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


def _auto(pictures, folder):
    return _train(*small(pictures, epochs=1)[1:], "--device", "auto", "--out", folder)


def test_train__auto_beside_a_gpu_says_how_to_use_it(tmp_path, pictures, simulated, monkeypatch):
    told = "--device auto is the CPU until GPUs have been tried; to train on the GPU that is here"
    assert f"{told}, add --device cuda" in " ".join(_auto(pictures, tmp_path / "a").split())
    simulated.count = 0  # CUDA_VISIBLE_DEVICES hides it
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "the driver finds no GPU")
    assert "--device" not in _auto(pictures, tmp_path / "b")


def test_train__auto_beside_a_gpu_says_what_is_missing(tmp_path, pictures, simulated, monkeypatch):
    def no_cupy():
        raise ModuleNotFoundError("No module named 'cupy'", name="cupy")

    monkeypatch.setattr(cuda, "cupy", no_cupy)
    driver = hardware.Driver("580.1", (13, 0), (hardware.Gpu("H9", 80 << 30, (9, 0)),))
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: driver)
    told = " ".join(_auto(pictures, tmp_path / "a").split())
    assert (
        "--device auto is the CPU; before --device cuda can take the H9 that is here: CuPy is not "
        "installed; pip install 'cnnengine[cuda12]'"
    ) in told


def test_train__no_graph(tmp_path, pictures, simulated):
    _train(
        *small(pictures, epochs=1)[1:], "--device", "cuda", "--no-graph", "--out", tmp_path / "r"
    )
    assert "replay" not in simulated.log
    assert simulated.log.count("sgd_update") == 4
