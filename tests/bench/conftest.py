"""What the tests of the benchmarks share: the command line in this process, and PyTorch."""

from __future__ import annotations

import importlib
import json
import warnings

import pytest

from cnnengine.bench import machine, network, roofline
from cnnengine.cli.main import main
from cnnengine.kernels.numpy import threads


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Ceilings and turns that take no time; such figures mean nothing."""
    monkeypatch.setattr(network, "STEADY_SECONDS", 0.001)
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(roofline, "GEMM_SIZE", 64)
    monkeypatch.setattr(roofline, "REPEATS", 2)


@pytest.fixture
def torch(request):
    """PyTorch, on one thread; skipped by name where it is not installed."""
    if (told := machine.torch_missing()) is not None:
        if request.config.getoption("--require-torch"):
            pytest.fail(told)
        pytest.skip(told)
    module = importlib.import_module("torch")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


@pytest.fixture
def no_torch(monkeypatch):
    """A machine without PyTorch."""
    monkeypatch.setattr(machine, "torch_missing", lambda: "torch is not installed; pip install it")


@pytest.fixture
def bench(monkeypatch, capsys):
    """Run `cnnengine bench …` on one thread: (exit code, stdout, stderr)."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        told = [str(a) for a in arguments]
        if told[0] not in ("compare", "report"):
            told += ["--threads", "1"]
        with pytest.raises(SystemExit) as stopped:
            main(["bench", *told])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    yield run
    threads.set_threads(0)


@pytest.fixture
def bench_json(bench):
    """Run `cnnengine bench … --json`: (exit code, the object, stderr)."""

    def run(*arguments):
        code, out, err = bench(*arguments, "--json")
        assert out.count("\n") == 1, "--json prints one line"
        return code, json.loads(out), err

    return run
