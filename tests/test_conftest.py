"""Which tests a run collects."""

import os
import re
import subprocess
import sys
from pathlib import Path

import machine

ROOT = Path(__file__).parents[1]
COLLECT = """
import sys, pytest
sys.modules["onnx"] = None  # as where it is not installed
sys.exit(pytest.main(["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider",
                      "tests/engine", "tests/kernels/test_images.py"]))
"""


def test_collection__of_gpu_tests_needs_no_package_of_other_tests():
    done = subprocess.run(
        [sys.executable, "-c", COLLECT], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    files = {line.partition("::")[0] for line in lines if "::" in line}
    assert files == {"tests/engine/test_gpu_training.py", "tests/kernels/test_images.py"}
    for backend in ("triton", "cupy"):
        assert any(f"_training.py::test_training__follows_the_cpu[{backend}-" in n for n in lines)
        assert any("test_images.py::" in n and f"[{backend}-" in n for n in lines)


LOST = """
import sys
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.gpu


class Failure(RuntimeError):
    pass


def synchronize():
    if gpu.lost:
        raise Failure("cudaErrorIllegalAddress")


gpu = SimpleNamespace(lost=False)
runtime = SimpleNamespace(CUDARuntimeError=Failure, deviceSynchronize=synchronize)
driver = SimpleNamespace(CUDADriverError=Failure)
sys.modules["cupy"] = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, driver=driver))


def test_a():
    raise AssertionError("wrong, but the GPU lives")


def test_b():
    gpu.lost = True
    raise Failure("cudaErrorIllegalAddress")


def test_c():
    pass
"""


def test_lost__names_the_test_that_lost_the_gpu(tmp_path):
    file = tmp_path / "tests" / "kernels" / "test_lost.py"
    file.parent.mkdir(parents=True)
    file.write_text(LOST)
    arguments = ("-p", "conftest", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider", "-q")
    arguments += ("-rN",)  # no summary: where CI is set it repeats the error whole
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "-m", "gpu", file], cwd=tmp_path,
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    told = re.findall("the GPU does nothing more in this process since .*::(.*)", done.stdout)
    assert told == ["test_b"], done.stdout
    assert "2 failed, 1 error in" in done.stdout  # test_c, which could have passed


def test_sample__thins_the_cases_of_gpu_backends_only(monkeypatch):
    monkeypatch.setattr(machine, "ADAPTERS", dict(machine.ADAPTERS))
    before = {name: machine.adapter(name) for name in ("numpy", "triton", "cupy")}
    machine.sample(5)
    assert [machine.adapter(name).every for name in before] == [1, 5, 5]
    for name, adapter in before.items():
        assert (machine.adapter(name).dtypes, type(machine.adapter(name))) == (
            adapter.dtypes, type(adapter)
        )  # fmt: skip
