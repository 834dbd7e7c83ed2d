"""The device services, on a simulated device, and what is told of a device that cannot be used."""

import importlib.util
import sys

import numpy as np
import pytest
import simulated_cuda

from cnnengine.kernels import cuda
from cnnengine.kernels.errors import BackendError


@pytest.fixture
def device(monkeypatch):
    return simulated_cuda.install(monkeypatch)


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ({}, None),
        ({"count": 0}, "no CUDA GPU is visible; look at CUDA_VISIBLE_DEVICES"),
        ({"driver": 11040}, "the NVIDIA driver runs CUDA up to 11.4, this CuPy is made for CUDA "
         "12.8; update the driver, or pip install"),
        ({"built": 13000}, "this CuPy is made for CUDA 13.0; update the driver, or pip install"),
        ({"error": simulated_cuda.CUDARuntimeError("cudaErrorSystemNotReady: none")},
         r"CUDA cannot be used \(cudaErrorSystemNotReady: none\); update the NVIDIA driver"),
        ({"properties": {**simulated_cuda.PROPERTIES, "major": 7, "minor": 5}},
         "Simulated GPU has compute capability 7.5; take a GPU with 8.0 or newer"),
    ],
)  # fmt: skip
def test_missing__says_what_and_what_mends_it(device, here, told):
    for name, value in here.items():
        setattr(device, name, value)
    reason = cuda.missing(0)
    assert (reason is None) == (told is None)
    if told:
        with pytest.raises(AssertionError, match=told):
            raise AssertionError(reason)


def test_missing__a_gpu_that_is_not_there(device):
    assert cuda.missing(3) == "there is no GPU 3; name one that is here: cuda:0"
    device.count = 2
    assert cuda.missing(3) == "there is no GPU 3; name one that is here: cuda:0 to cuda:1"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'cupy'", name="cupy"), "CuPy is not installed; pip"),
        (ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
         "CuPy cannot be loaded (No module named 'fastrlock'); pip"),
        (ImportError("\nlibcudart.so.13: cannot open\n\nlong story"), "CuPy cannot be loaded ("),
    ],
)  # fmt: skip
def test_missing__cupy_cannot_be_imported(device, monkeypatch, error, told):
    def fail():
        raise error

    monkeypatch.setattr(cuda, "cupy", fail)
    reason = cuda.missing()
    assert reason.startswith(told)
    assert "\n" not in reason


def test_missing__no_driver(monkeypatch):
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    assert cuda.missing().startswith("no NVIDIA driver")


@pytest.mark.parametrize("here", [True, False])
def test_has_driver__is_whether_it_can_be_loaded(monkeypatch, here):
    def load(name):
        if name != "libcuda.so.1" or not here:
            raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", load)
    assert cuda.has_driver() is here


def test_current__is_none_where_cuda_cannot_be_asked(device, monkeypatch):
    assert cuda.current() == 0
    runtime = device.module.cuda.runtime
    error = simulated_cuda.CUDARuntimeError("cudaErrorNoDevice: none")
    monkeypatch.setattr(runtime, "getDevice", lambda: (_ for _ in ()).throw(error))
    assert cuda.current() is None
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    monkeypatch.setattr(runtime, "getDevice", lambda: 1)
    assert cuda.current() is None


def test_gpu__that_cannot_be_opened(device, monkeypatch):
    def lost(index):
        raise simulated_cuda.CUDARuntimeError("cudaErrorDevicesUnavailable")

    monkeypatch.setattr(device.module.cuda, "Device", lost)
    with pytest.raises(BackendError, match="GPU 0 cannot be opened: cudaErrorDevicesUnavailable"):
        cuda.Gpu(0)


@pytest.fixture
def printed(monkeypatch):
    """What reaches Python's own hooks for errors that nobody catches."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told_by: told.append(told_by.exc_value))
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: told.append(error))
    return told


def test_quieten__what_a_lost_gpu_refuses_to_free_is_not_printed(device, printed):
    gpu, lost = cuda.Gpu(0), simulated_cuda.CUDARuntimeError("cudaErrorIllegalAddress: lost")
    device.lost = lost
    gpu.event()  # gone at once
    assert printed == [lost]
    cuda.quieten()
    gpu.event()
    del gpu
    assert printed == [lost]


def test_quieten__prints_all_other_errors(device, printed):
    class Ours:
        def __del__(self):
            raise other

    other, lost = ValueError("ours"), simulated_cuda.CUDARuntimeError("cudaErrorIllegalAddress")
    cuda.quieten()
    Ours()
    assert printed == [other]
    for place in ("cupy_backends/cuda/api/runtime.pyx", "ours.py"):
        with pytest.raises(RuntimeError) as raised:
            exec(compile("raise lost", place, "exec"), {"lost": lost})
        trace = raised.tb.tb_next
        sys.excepthook(type(lost), lost, trace)
        sys.excepthook(ValueError, other, trace)
    assert printed == [other, other, lost, other]


def test_gpu_pinned__other_errors_stay_as_they_are(device, monkeypatch):
    def refuse(size):
        raise simulated_cuda.CUDARuntimeError("cudaErrorIllegalAddress: lost")

    monkeypatch.setattr(device.module.cuda, "alloc_pinned_memory", refuse)
    with pytest.raises(simulated_cuda.CUDARuntimeError, match="lost"):
        cuda.Gpu(0).pinned(8)


def test_gpu__copies_there_and_back(device):
    gpu = cuda.Gpu(0)
    assert (gpu.name, gpu.capability) == ("Simulated GPU", (9, 0))
    free, total = gpu.memory()
    there, back = gpu.empty((4, 5), "float32"), gpu.pinned(80)
    assert gpu.memory() == (free - 80, total)
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    gpu.copy(there, values)
    other = gpu.empty((4, 5), "float32")
    gpu.copy(other, there)
    gpu.copy(back, other)
    assert device.log == []  # all of it runs later
    gpu.compute.synchronize()
    assert device.log == ["host to device", "device to device", "device to host"]
    np.testing.assert_array_equal(back.view(np.float32).reshape(4, 5), values)
    gpu.fill(there, 0)
    gpu.copy(back, there)
    gpu.compute.synchronize()
    assert not back.any()


def test_gpu__memory_that_cupy_keeps_is_free(device):
    gpu = cuda.Gpu(0)
    device.used, device.pooled = 600, 500
    assert gpu.memory() == (device.memory - 100, device.memory)


def test_gpu__empty_arrays_are_not_copied(device):
    gpu = cuda.Gpu(0)
    nothing = gpu.empty((0, 3), "float32")
    gpu.copy(nothing, np.zeros((0, 3), np.float32))
    gpu.fill(nothing, 0)
    gpu.compute.synchronize()
    assert device.log == []
    assert gpu.pinned(0).shape == (0,)


def test_gpu_capture__runs_nothing_until_it_is_launched(device):
    gpu, ran = cuda.Gpu(0), []
    graph = gpu.capture(lambda: device.launch("kernel", lambda: ran.append(1)))
    gpu.compute.synchronize()
    assert ran == []
    for _ in range(3):
        graph.launch(gpu.compute)
    gpu.compute.synchronize()
    assert ran == [1, 1, 1]


def test_gpu_capture__ends_when_the_work_fails(device):
    gpu = cuda.Gpu(0)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        gpu.capture(fail)
    gpu.compute.synchronize()  # refused while a capture is open


def test_gpu_capture__tells_what_broke_it(device, monkeypatch):
    """Work that may not be captured breaks the capture too, and CUDA says so at its end."""
    gpu = cuda.Gpu(0)
    ended = []

    def refuse():
        ended.append(True)
        raise simulated_cuda.CUDARuntimeError("the capture is broken")

    def fail():
        raise ValueError("allocated")

    monkeypatch.setattr(gpu.compute, "end_capture", refuse)
    with pytest.raises(ValueError, match="allocated"):
        gpu.capture(fail)
    assert ended


def test_simulated_device__a_copy_that_waits_for_nothing_comes_too_early(device):
    """The simulation itself: without events the streams' order is open."""
    orders = set()
    for seed in range(20):
        device.random.seed(seed)
        device.log.clear()
        gpu = cuda.Gpu(0)
        x = gpu.empty((1,), "uint8")
        device.launch("kernel", lambda: None)
        gpu.copy(x, np.zeros(1, np.uint8), gpu.copies)
        event = gpu.event()
        event.record(gpu.compute)
        gpu.compute.synchronize()
        gpu.copies.synchronize()
        orders.add(tuple(device.log))
    assert orders == {("kernel", "host to device"), ("host to device", "kernel")}


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_simulated_device__has_nothing_that_cupy_lacks(device):
    """Names and parameters of the simulation are those of the real package."""
    pretended = device.module
    del sys.modules["cupy"]
    real = importlib.import_module("cupy")
    sys.modules.pop("cupyx", None)  # it loads late, and would then find the simulation
    assert hasattr(real, "empty")
    assert hasattr(real.get_default_memory_pool(), "free_bytes")
    for name, value in vars(pretended.cuda).items():
        assert hasattr(real.cuda, name), name
        if name in ("runtime", "driver"):
            for part in vars(value):
                assert hasattr(getattr(real.cuda, name), part), part
    for name in ("Stream", "Event", "Graph"):
        made, parts = getattr(real.cuda, name), getattr(simulated_cuda, name)
        own = {"enqueue"}
        for part in vars(parts):
            assert part.startswith("_") or part in own or hasattr(made, part), part
    for constant in ("memcpyHostToDevice", "memcpyDeviceToHost", "memcpyDeviceToDevice",
                     "streamCaptureModeThreadLocal"):  # fmt: skip
        assert getattr(real.cuda.runtime, constant) == getattr(pretended.cuda.runtime, constant)
