"""Options and fixtures that all tests share."""

from __future__ import annotations

import importlib
import os
import re

import pytest

from cnnengine.kernels import cuda, registry, spec, triton
from cnnengine.kernels.cupy import launch

GPU_BACKENDS = ("triton", "cupy")
GPU_TESTS = re.compile(r"tests/(kernels/test_\w+|engine/test_gpu_training)\.py$")


def pytest_configure(config):
    """Choose where the GPU backends run: `-m gpu` on a GPU, else interpreted and simulated.

    Before this nothing may import Triton or `machine`, which look where they are.
    """
    config.addinivalue_line("markers", "dtypes(*names): the float types that a test is for")
    if re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["TRITON_INTERPRET"] = "0"
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if triton.interpreted():
        launch.simulate()
    if config.option.every:
        import machine

        machine.sample(config.option.every)


def pytest_ignore_collect(collection_path, config):
    """With `-m gpu` only files are imported that have such tests: others need more packages."""
    left_out = config.option.markexpr == "gpu" and collection_path.suffix == ".py"
    return True if left_out and not GPU_TESTS.search(collection_path.as_posix()) else None


def pytest_addoption(parser):
    parser.addoption(
        "--require-torch",
        action="store_true",
        help="fail, rather than skip, the comparisons with PyTorch where it is not installed",
    )
    parser.addoption(
        "--require-backend",
        action="append",
        default=["numpy"],
        help="fail, rather than skip, the tests of this backend where it cannot run",
    )

    parser.addoption(
        "--every",
        type=int,
        metavar="N",
        help="run one fuzzed case in N on Triton and CuPy (nearly each compiles a kernel; "
        "without a GPU 16, with one 1)",
    )


def pytest_report_header():
    """Say what is tested on what, and what cannot run here."""
    import machine

    lines = []
    for name in machine.machine_names():
        backend = name.partition(":")[0]
        state = registry.missing(backend) or ", ".join(machine.adapter(name).dtypes)
        lines.append(f"backend {name}: {state}")
    return lines


def pytest_generate_tests(metafunc):
    """Give `backend` every backend that has the family of the test's file, `dtype` its types.

    The family of `test_conv.py` is conv; files of no family take all backends. The mark
    `dtypes(...)` names the types of a test that are not all.
    """
    import machine

    if "backend" not in metafunc.fixturenames:
        return
    family = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    families = {function.module for function in spec.CONTRACTS.values()}
    names = machine.machine_names(family if family in families else None)
    if "dtype" not in metafunc.fixturenames:
        metafunc.parametrize("backend", names, indirect=True, scope="session")
        return
    mark = metafunc.definition.get_closest_marker("dtypes")
    pairs = [(n, d) for n in names for d in machine.adapter(n).dtypes if not mark or d in mark.args]
    metafunc.parametrize(("backend", "dtype"), pairs, indirect=["backend"])


# In Triton's interpreter large filters take as many seconds as they have taps: there one type is
# enough for every day, and `pytest -m slow` runs the others.
LARGE_FILTERS = ("filter_11_stride_4", "filter_7_stride_2", "whole_image_filter", "max_127_taps")


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items):
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if not triton.interpreted():
            if str(given.get("backend")).partition(":")[0] in GPU_BACKENDS:
                item.add_marker(pytest.mark.gpu)
            continue
        large = given.get("backend") == "triton" and given.get("name") in LARGE_FILTERS
        if large and given.get("dtype") in ("float16", "bfloat16"):
            item.add_marker(pytest.mark.slow)


class Lost:
    """The test that left the GPU refusing all work: what fails after it has no fault of its own."""

    nodeid = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and Lost.nodeid is None and not triton.interpreted() and gpu_is_lost():
        Lost.nodeid = item.nodeid
    return report


def pytest_runtest_setup(item):
    if Lost.nodeid is not None and item.get_closest_marker("gpu"):
        pytest.fail(f"the GPU does nothing more in this process since {Lost.nodeid}", pytrace=False)


def gpu_is_lost():
    """Whether CUDA refuses all work of this process, as after a read outside of an array."""
    try:
        cuda.cupy().cuda.runtime.deviceSynchronize()
    except ImportError:
        return False
    except cuda.failures():
        return True
    return False


@pytest.fixture(scope="session")
def backend(request):
    """One backend, inside its session; one that cannot run here is skipped by name."""
    import machine

    name = request.param.partition(":")[0]
    if (reason := registry.missing(name)) is not None:
        told = f"backend {name}: {reason}"
        if name in request.config.getoption("--require-backend"):
            pytest.fail(told)
        pytest.skip(told)
    tested = machine.machine(request.param)
    with tested.backend.session():
        yield tested


@pytest.fixture(scope="session")
def torch_oracle(request):
    """The second oracle, written with PyTorch in float64."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        told = f"PyTorch, the second oracle, is not installed ({error})"
        if request.config.getoption("--require-torch"):
            pytest.fail(told)
        pytest.skip(told)
    return importlib.import_module("torch_oracle")
