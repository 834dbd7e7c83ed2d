"""What a user is told of a GPU that cannot be used, that is too small, and that goes away.

The commands run in this process, on the simulated device.
"""

from __future__ import annotations

import re
import shutil
import warnings

import pytest
import simulated_cuda

from cnnengine.cli import main as program
from cnnengine.engine import device as devices
from cnnengine.engine import gpu as gpus
from cnnengine.engine.checkpoint import RunFolder

from .command import small, snapshot

LOST = simulated_cuda.CUDARuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error")


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` sets it
    yield simulated_cuda.install(monkeypatch)
    devices.use_threads(0)  # the command sets it for its process


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            program.main([*map(str, arguments)])
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err.splitlines()

    return run


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ({"count": 0}, "no CUDA GPU is visible; look at CUDA_VISIBLE_DEVICES, or use --device cpu"),
        ({"driver": 11040}, "the NVIDIA driver runs CUDA up to 11.4, this CuPy is made for CUDA "
         "12.8; update the driver, or pip install"),
        ({"built": 13000}, "the NVIDIA driver runs CUDA up to 12.8, this CuPy is made for CUDA "
         "13.0; "),
        ({"properties": {**simulated_cuda.PROPERTIES, "major": 7, "minor": 0}},
         "Simulated GPU has compute capability 7.0; take a GPU with 8.0 or newer, or use --device"),
        ({"error": LOST}, f"CUDA cannot be used ({LOST}); update the NVIDIA driver"),
    ],
)  # fmt: skip
def test_commands__on_a_gpu_that_cannot_be_used(tmp_path, pictures, simulated, call, here, told):
    for name, value in here.items():
        setattr(simulated, name, value)
    for command in (
        (*small(pictures), "--out", tmp_path / "run"),
        ("verify",),
        ("bench", "network", "--arch", "lenet"),
    ):
        code, out, err = call(*command, "--device", "cuda")
        assert (code, out, len(err)) == (2, "", 1), err
        assert err[0].startswith(f"cnnengine: error: --device cuda: {told}")
    assert list(tmp_path.iterdir()) == []


def test_commands__a_batch_that_does_not_fit(started, tmp_path, pictures, simulated, call):
    simulated.memory = simulated.used + gpus.SPARE + 150_000
    before = sorted(tmp_path.iterdir())
    for command in (
        (*small(pictures), "--out", tmp_path / "more", "--batch-size", 32),
        ("eval", started, "--batch-size", 512),
    ):
        code, out, err = call(*command, "--device", "cuda")
        assert (code, out, len(err)) == (2, "", 1), err
        assert re.search(r"batch size \d+ does not fit into cuda:0: 0.27 GB needed, .*; "
                         r"batch size \d+ fits$", err[0])  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def started(tmp_path, pictures, simulated, call):
    """A run folder after one epoch on the GPU."""
    code, _, err = call(*small(pictures, epochs=1), "--device", "cuda", "--out", tmp_path / "run")
    assert code == 0, err
    return tmp_path / "run"


class FailsAt:
    """The device's check of itself, which fails at its n-th question and ever after."""

    def __init__(self, device, error, number):
        self.device, self.error, self.left = device, error, number

    def __call__(self):
        self.left -= 1
        if self.left < 0:
            self.device.lost = self.error
            raise self.error


def test_train__a_gpu_that_goes_away_leaves_the_last_checkpoint(
    started, tmp_path, simulated, call, monkeypatch
):
    """At moments of a resumed run in which it opens, compiles, loads, trains and evaluates."""
    last, codes = RunFolder(started).last.relative_to(started), []
    kept = (started / last).read_bytes()
    for at in (0, 3, 40, *range(61, 91, 4), *range(100, 1000, 130)):
        run = tmp_path / f"at {at}"
        shutil.copytree(started, run)
        with monkeypatch.context() as patch:
            patch.setattr(simulated, "check", FailsAt(simulated, LOST, at))
            code, _, err = call("train", "--resume", run, "--epochs", 2)
        codes.append(code)
        if code == 0:
            break
        assert err[-1].startswith("cnnengine: error: ")
        assert LOST.args[0] in err[-1]
        assert ("the last good checkpoint is" in err[-1]) == (code == 1)
        assert (run / last).read_bytes() == kept
    assert codes[0] == 2
    assert codes[-1] == 0
    assert codes.count(1) > 2


@pytest.mark.parametrize(
    "command",
    [
        "eval RUN",
        "predict RUN PICTURE",
        "bench network --arch lenet --batch 2 --against none --repeats 2",
        "verify --ops relu",
    ],
)
def test_commands__a_gpu_that_goes_away(started, pictures, simulated, call, monkeypatch, command):
    places = {"RUN": started, "PICTURE": next(pictures.rglob("*.png"))}
    given = [places.get(word, word) for word in command.split()]
    simulated.properties["l2CacheSize"] = 1 << 20
    before = snapshot(started)
    for at in (3, 6, 9, 15, 21, 27, 33, 39, 45, 51, 60):
        with monkeypatch.context() as patch:
            patch.setattr(simulated, "check", FailsAt(simulated, LOST, at))
            code, out, err = call(*given, "--device", "cuda")
        assert (code, out) == (2, ""), (at, err)
        assert err[-1].startswith("cnnengine: error: ")
        assert LOST.args[0] in err[-1]
    assert snapshot(started) == before
