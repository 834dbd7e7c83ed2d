"""What is Triton's alone: tiles and splits that small shapes do not need, launches, refusals."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cases import conv as cases
from cases.draw import Draw
from machine import machine

from cnnengine.kernels import cuda, registry, triton
from cnnengine.kernels.errors import BackendError, ShapeError, UnsupportedError
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from triton.runtime import driver as runtime_driver
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError, OutOfResources, PTXASError

from cnnengine.kernels.triton import gpu, launch, tiles


@pytest.mark.parametrize("name", ["edge_groups", "dilated_stride_2"])
def test_conv__offsets_of_64_bits(name, monkeypatch):
    monkeypatch.setattr(launch, "LARGE", 1)
    for call in cases.listed(name, "float16"):
        assert machine("triton").verify(call)


@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_conv__every_precision_is_taken(precision):
    draw, op = Draw("precision"), Conv2d(padding=(1, 1, 1, 1), precision=precision)
    for call in cases.calls(draw, (2, 5, 4, 8), (8, 3, 3, 8), op, "float32"):
        assert machine("triton").verify(call)


def arrays():
    x, w = np.ones((1, 4, 4, 8), np.float32), np.ones((8, 1, 1, 8), np.float32)
    return {"x": x, "w": w, "b": None, "out": np.full_like(x, np.nan), "op": Conv2d()}


def test_conv2d__refuses_float64():
    given = arrays()
    given = {n: a.astype("float64") if hasattr(a, "dtype") else a for n, a in given.items()}
    with pytest.raises(UnsupportedError, match="x is float64; use backend numpy"):
        registry.load("triton").function("conv2d")(**given)
    reason = registry.load("triton").supports("conv2d", given)
    assert reason == "computes in float32, float16 and bfloat16, x is float64"


class OtherDevice(np.ndarray):
    """A NumPy array that passes for one on a GPU."""

    __cuda_array_interface__ = None


def test_conv2d__refuses_arrays_of_another_device():
    given = arrays()
    given["w"] = given["w"].view(OtherDevice)
    with pytest.raises(UnsupportedError, match="host memory here, w is in GPU memory; copy it"):
        registry.load("triton").function("conv2d")(**given)
    assert np.isnan(given["out"]).all()


def test_usable__refuses_host_arrays_on_the_gpu(monkeypatch):
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    with pytest.raises(UnsupportedError, match="GPU memory here, x is in host memory.*numpy"):
        launch.usable("relu", x=np.zeros(3, np.float32))


def test_conv2d__refuses_a_skewed_array():
    given = arrays()
    memory = np.zeros(given["x"].nbytes + 8, np.uint8)
    given["x"] = memory[2:-6].view(np.float32).reshape(given["x"].shape)
    with pytest.raises(ShapeError, match=r"conv2d: x must start at a multiple .* \(4 bytes\)"):
        registry.load("triton").function("conv2d")(**given)


def test_launch__refuses_more_programs_than_a_grid_holds():
    with pytest.raises(ShapeError, match="2147483648 programs are more than 2147483647"):
        launch.launch(launch.add_rows_kernel, 2**31)


def test_recorded__writes_launches_down_and_runs_none():
    given = arrays()
    with launch.recorded(processors=132) as made:
        registry.load("triton").function("conv2d")(**given)
    assert [m.kernel.__name__ for m in made] == ["_conv2d_kernel"]
    assert np.isnan(given["out"]).all()
    registry.load("triton").function("conv2d")(**given)
    assert (given["out"] == 8).all()


def test_descriptor__refuses_rows_that_are_not_aligned():
    memory = np.zeros((4, 24), np.float16)
    assert launch.descriptor(memory, (4, 24), 24, (4, 8)).strides == [24, 1]
    for array, pitch in ((memory[:, 4:], 24), (memory, 20)):
        with pytest.raises(ShapeError, match="multiples of 16 bytes; this matrix is at address"):
            launch.descriptor(array, (4, 16), pitch, (4, 8))


@pytest.mark.parametrize(("terms", "branches"), [(1, 64), (64, 64), (65, 64), (70, 4)])
def test_add_in_order__sums_all_rows(terms, branches, monkeypatch):
    monkeypatch.setattr(launch, "FAN_IN", branches)
    parts = np.random.default_rng(terms).integers(-9, 9, (terms, 130)).astype(np.float32)
    expected = 0.5 * parts.sum(axis=0)
    out = np.full(130, np.nan, np.float32)
    launch.add_in_order(parts.ravel(), out, terms, scale=0.5)
    assert (out == expected).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_product_tile__fits_every_gpu(dtype):
    for rows, columns, depth in ((1, 1, 1), (802816, 64, 27), (64, 1000, 4096), (10**6, 512, 4608)):
        for processors in (1, 108, 132):
            tile = tiles.product_tile(rows, columns, depth, dtype, processors=processors)
            size = 4 if dtype == "float32" else 2
            assert min(tile.rows, tile.columns, tile.depth) >= tiles.LEAST
            assert tile.stages * (tile.rows + tile.columns) * tile.depth * size <= 99 * 1024
            assert tile.rows * tile.columns <= 64 * 32 * tile.warps  # sums in 64 registers


@pytest.mark.parametrize("name", ["triton", "cupy"])
@pytest.mark.parametrize("skew", [1, 4, 8])
def test_bias_grad__refuses_a_workspace_between_vectors(name, skew):
    backend = registry.load(name)
    dy, out = np.ones((4096, 8), np.float32), np.empty(8, np.float32)
    config = backend.choose("bias_grad", {"dy": dy, "out": out})
    memory = np.empty(config.workspace_bytes + 32, np.uint8)
    first = -memory.ctypes.data % 16
    workspace = memory[first + skew : first + skew + config.workspace_bytes]
    told = r"workspace must start at a multiple of what a vector takes \(16 bytes\), not at address"
    with pytest.raises(ShapeError, match=told):
        backend.function("bias_grad")(dy, out, workspace=workspace, config=config)
    workspace = memory[first : first + config.workspace_bytes]
    backend.function("bias_grad")(dy, out, workspace=workspace, config=config)
    assert (out == 4096).all()


def test_interpreter__of_triton_3_6_counts_with_any_numpy(monkeypatch):
    """It makes an int of an array of one element, which NumPy 2.4 refuses."""
    patch = interpreter._patch_lang_tensor

    def refuse(self):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    def old(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", refuse)

    flags = np.zeros(9, np.int32)
    numbers = np.full(40, np.inf, np.float32)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", old)
    backend = registry.load("triton")
    with pytest.raises(InterpreterError, match="only 0-dimensional"):
        backend.function("non_finite")(numbers, flags)
    monkeypatch.setattr(launch.triton, "__version__", "3.6.0")
    launch.mend_interpreter()
    backend.function("non_finite")(numbers, flags)
    assert flags.any()


PTXAS = """`ptxas` failed with error code 255
`ptxas` stderr:
ptxas /tmp/a.ptx, line 7; error   : Feature 'wgmma' needs .target sm_90a

Repro command: ptxas -lineinfo"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OutOfResources(300_000, 232_448, "shared memory"),
         "out of resource: shared memory, Required: 300000, Hardware limit: 232448"),
        (PTXASError(PTXAS), "ptxas /tmp/a.ptx, line 7; error   : Feature 'wgmma' needs .target"),
        (PTXASError("Internal Triton PTX codegen error"), "PTXAS error: Internal Triton PTX codeg"),
    ],
)  # fmt: skip
def test_launch__what_the_compiler_refuses_is_one_line(error, told):
    class Refused(dict):
        __name__ = "_refused_kernel"

        def __missing__(self, grid):
            def run(*_, **__):
                raise error

            return run

    with pytest.raises(BackendError) as caught:
        launch.launch(Refused(), 1)
    message = str(caught.value)
    assert message.startswith("backend triton: _refused_kernel cannot run on this GPU: ")
    assert told in message
    assert message.endswith("; use another --kernels or --precision")
    assert "\n" not in message


def test_missing__names_the_driver(monkeypatch):
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    triton._gpu_missing.cache_clear()
    assert "no NVIDIA driver" in triton.missing()
    triton._gpu_missing.cache_clear()


def test_driver__follows_the_stream_of_cupy(monkeypatch):
    nvidia = importlib.import_module("triton.backends.nvidia.driver")
    stream = SimpleNamespace(ptr=7)
    properties = {
        3: {"major": 8, "minor": 6, "multiProcessorCount": 84, "name": b"A GPU"},
        4: {"major": 9, "minor": 0, "multiProcessorCount": 132, "name": b"Another"},
    }
    current = [3]
    runtime = SimpleNamespace(
        getDevice=lambda: current[0],
        setDevice=lambda device: None,
        getDeviceProperties=properties.__getitem__,
        free=lambda address: None,
    )
    faked = SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=faked))
    monkeypatch.setattr(nvidia, "CudaUtils", lambda: "utils")
    monkeypatch.delitem(sys.modules, "cnnengine.kernels.triton.driver", raising=False)
    driver = importlib.import_module("cnnengine.kernels.triton.driver")
    try:
        made = driver.CupyDriver()
        assert made.get_current_device() == 3
        assert made.get_current_stream(3) == 7
        stream.ptr = 9
        assert made.get_current_stream(3) == 9
        assert made.get_current_target().arch == 86
        assert driver.multiprocessors() == 84
        assert driver.capability() == (8, 6)
        for name in ("get_active_torch_device", "get_device_interface", "get_benchmarker"):
            assert getattr(type(made), name) is getattr(nvidia.CudaDriver, name)  # torch.compile's
        current[0] = 4
        assert (driver.multiprocessors(), driver.capability()) == (132, (9, 0))
        current[0] = 3
        for module in (gpu, launch):
            monkeypatch.setattr(module, "interpreted", lambda: False)
        assert (gpu.multiprocessors(), gpu.architecture(), gpu.device_name()) == (84, 86, "A GPU")
        given = []
        monkeypatch.setattr(runtime_driver, "set_active", given.append)
        launch.prepare.cache_clear()
        launch.prepare()
        launch.prepare()
        assert [one.is_active() for one in given] == [True]
    finally:
        launch.prepare.cache_clear()
        del sys.modules["cnnengine.kernels.triton.driver"]
        del triton.driver


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (subprocess.CalledProcessError(1, ["gcc"]), "install Python's headers .*or set CC"),
        (RuntimeError("Failed to find C compiler"), "CUDA driver: Failed to find C compiler"),
        (AssertionError("libcuda.so cannot found!"), "CUDA driver: libcuda.so cannot"),
    ],
)
def test_activate__says_what_keeps_triton_from_the_driver(monkeypatch, error, told):
    nvidia = importlib.import_module("triton.backends.nvidia.driver")

    def refuse():
        raise error

    faked = SimpleNamespace(runtime=SimpleNamespace(free=lambda address: None))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=faked))
    monkeypatch.setattr(nvidia, "CudaUtils", refuse)
    monkeypatch.delitem(sys.modules, "cnnengine.kernels.triton.driver", raising=False)
    driver = importlib.import_module("cnnengine.kernels.triton.driver")
    try:
        with pytest.raises(driver.BackendError, match=told):
            driver.activate()
    finally:
        del sys.modules["cnnengine.kernels.triton.driver"]
        del triton.driver


def test_launch__imports_no_torch():
    code = (
        "import os, sys; os.environ['TRITON_INTERPRET'] = '1'\n"
        "import numpy as np\n"
        "from cnnengine.kernels.triton import launch\n"
        "out = np.zeros(4, np.float32)\n"
        "launch.add_in_order(np.ones(8, np.float32), out, 2)\n"
        "assert (out == 2).all()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
