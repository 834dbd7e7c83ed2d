"""The CuPy backend's way to a GPU, on a simulated device: what reaches CuPy, and what does not.

What CuPy would have compiled runs in the backend's own simulator.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import simulated_cuda

from cnnengine.kernels import cupy as backend
from cnnengine.kernels import registry
from cnnengine.kernels.cupy import compile as compile_
from cnnengine.kernels.cupy import device, launch, simulator
from cnnengine.kernels.cupy.launch import Kernel
from cnnengine.kernels.errors import BackendError, UnsupportedError
from cnnengine.kernels.spec import Conv2d

if (REASON := simulator.missing()) is not None:
    pytest.skip(REASON, allow_module_level=True)


class CompilationError(Exception):
    """As CuPy's CompileException."""


class RawKernel:
    """As CuPy's: values by NumPy's types, and a limit of shared memory."""

    def __init__(self, module, name):
        self.module, self.name = module, name
        self.shared_size_bytes = 1024  # what it declares
        self.max_dynamic_shared_size_bytes = (48 << 10) - self.shared_size_bytes

    def __call__(self, grid, block, values, *, shared_mem):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        file = self.module.code.split('"')[1]
        types = simulator._compiled(file, self.name).types
        assert all(isinstance(value, np.generic) for value in values)
        given = tuple(
            (wanted if wanted.startswith("*") else str(value.dtype), value.item())
            for wanted, value in zip(types, values, strict=True)
        )
        self.module.device.launch(
            self.name,
            lambda: simulator.run(file, self.name, grid, block, given, shared_mem, 227 << 10, 1),
        )


class RawModule:
    """As CuPy's, as far as the backend uses it."""

    device: simulated_cuda.Device
    made: list[str]
    broken = False

    def __init__(self, *, code, backend, options, name_expressions):
        assert backend == "nvrtc"
        assert f"-I{simulator.FOLDER}" in options
        if self.broken:
            raise CompilationError("kernel.cu: in relu\nerror: this is what NVRTC says\nmore")
        self.code, self.names = code, name_expressions
        self.made.append(code)

    def get_function(self, name):
        assert name in self.names
        return RawKernel(self, name)


@pytest.fixture
def gpu(monkeypatch):
    made = simulated_cuda.install(monkeypatch)
    made.properties["sharedMemPerBlockOptin"] = 227 << 10
    module = type("RawModule", (RawModule,), {"device": made, "made": []})
    made.module.RawModule = module
    made.module.cuda.compiler = SimpleNamespace(CompileException=CompilationError)
    made.current.device_id = -1
    monkeypatch.setattr(simulated_cuda.Array, "device", SimpleNamespace(id=0), raising=False)
    monkeypatch.setattr(launch._Process, "simulated", None)
    caches = (device._kernel, device.properties, backend._gpu_missing)
    for cached in caches:
        cached.cache_clear()
    yield made
    for cached in caches:
        cached.cache_clear()


def on_gpu(gpu, host):
    array = gpu.empty(host.shape, host.dtype)
    array[...] = host
    return array


def test_missing__is_what_cuda_says(gpu):
    assert registry.missing("cupy") is None
    backend._gpu_missing.cache_clear()
    gpu.count = 0
    told = "no CUDA GPU is visible; look at CUDA_VISIBLE_DEVICES"
    assert registry.missing("cupy") == told


def test_missing__without_the_compiler(gpu):
    def fail():
        raise RuntimeError("CuPy failed to load libnvrtc.so.12: no such file\nmore")

    gpu.module.cuda.nvrtc.getVersion = fail
    told = registry.missing("cupy")
    assert told.startswith("CuPy cannot load NVRTC, which compiles its kernels (CuPy failed to")
    assert "pip install 'cnnengine[cuda12]'" in told
    assert "\n" not in told


def test_compile__needs_cupy_and_its_compiler(gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert compile_.missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compile_.missing() == "CuPy is not installed; pip install 'cnnengine[cuda12]'"


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])  # without tensor cores, and with them
def test_conv__of_no_images_is_zeros_from_a_kernel_of_its_own(gpu, precision):
    cupy, op = registry.load("cupy"), Conv2d(precision=precision)
    x, y = gpu.empty((0, 4, 4, 8), np.float32), gpu.empty((0, 4, 4, 8), np.float32)
    w, db = gpu.empty((8, 1, 1, 8), np.float32), gpu.empty((8,), np.float32)
    cupy.function("conv2d_dgrad")(y, w, x, op=op, db=db)
    cupy.function("conv2d_wgrad")(x, y, w, op=op)
    assert np.isnan(db).all()  # nothing has run yet
    assert np.isnan(w).all()
    gpu.current.synchronize()
    assert not db.any()
    assert not w.any()


def test_launch__is_queued_on_the_current_stream_and_compiled_once(gpu):
    x, out = on_gpu(gpu, np.float32([-1, 2, -3, np.nan])), gpu.empty((4,), np.float32)
    relu = registry.load("cupy").function("relu")
    relu(x, out)
    relu(out, out)
    assert np.isnan(out).all()  # nothing has run yet
    gpu.current.synchronize()
    expected = [0, 2, 0, np.nan]
    assert np.array_equal(out.view(np.ndarray), expected, equal_nan=True)
    assert len(gpu.module.RawModule.made) == 1
    assert simulator.digest("elementwise.cu") in gpu.module.RawModule.made[0]


def test_launch__asks_for_shared_memory_beyond_48_kib(gpu):
    assert launch.shared_limit() == 227 << 10
    assert launch.multiprocessors() == 132
    assert launch.architecture() == 90
    kernel = Kernel("reduce.cu", "add_rows_kernel<256>")
    parts, out = on_gpu(gpu, np.ones((3, 5), np.float32)), gpu.empty((5,), np.float32)
    given = (parts, out, 5, 3, 1, 1.0)
    launch.launch(kernel, 1, 256, *given, shared_bytes=100_000)
    gpu.current.synchronize()
    assert out.tolist() == [3] * 5
    with pytest.raises(BackendError, match="232449 bytes of shared memory, at most 232448"):
        launch.launch(kernel, 1, 256, *given, shared_bytes=(227 << 10) + 1)


def test_launch__says_what_nvrtc_said(gpu):
    gpu.module.RawModule.broken = True
    x = gpu.empty((4,), np.float32)
    told = "NVRTC cannot compile it: error: this is what NVRTC says; use another --kernels$"
    with pytest.raises(BackendError, match=told):
        registry.load("cupy").function("relu")(x, x)


def refused(gpu, x, told):
    with pytest.raises(UnsupportedError, match=told):
        registry.load("cupy").function("relu")(x, gpu.empty((4,), np.float32))
    gpu.current.synchronize()
    assert not gpu.log  # before any launch


def test_relu__refuses_an_array_on_the_host(gpu):
    told = "runs on arrays in GPU memory here, x is in host memory; copy it, or use backend numpy"
    refused(gpu, np.ones(4, np.float32), told)


def test_relu__refuses_an_array_on_another_gpu(gpu, monkeypatch):
    x = gpu.empty((4,), np.float32)
    gpu.module.cuda.runtime.getDevice = lambda: 1
    told = "x is on device 0 and backend cupy launches on device 1; copy it, or use backend cupy"
    refused(gpu, x, told)


def test_relu__refuses_a_stream_of_another_gpu(gpu):
    gpu.current.device_id = 3
    told = "launches on device 0, but the current stream is of device 3; use backend cupy"
    refused(gpu, gpu.empty((4,), np.float32), told)


def test_scratch__is_memory_of_the_gpu(gpu):
    before = len(gpu.allocations)
    assert launch.scratch(None, 10).nbytes == 40
    assert gpu.allocations[before:] == [40]
