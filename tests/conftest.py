"""Options and fixtures that all tests share."""

from __future__ import annotations

import importlib

import harness
import pytest
from cnnengine.kernels import registry, spec


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


@pytest.fixture(scope="session", params=registry.BACKENDS)
def backend(request):
    """Each backend in turn, inside its session; one that cannot run here is skipped by name."""
    if (reason := registry.missing(request.param)) is not None:
        told = f"backend {request.param}: {reason}"
        if request.param in request.config.getoption("--require-backend"):
            pytest.fail(told)
        pytest.skip(told)
    machine = harness.machine(request.param)
    with machine.backend.session():
        yield machine


@pytest.fixture(params=spec.contract.FLOATS)
def dtype(request, backend):
    """Each float type in turn; one that the backend does not compute is skipped by name."""
    if request.param not in backend.dtypes:
        pytest.skip(f"{backend.backend.name} does not compute {request.param}")
    return request.param


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
