"""What is CuPy's alone: the simulator that runs CUDA C++ on a CPU, launches, refusals."""

from __future__ import annotations

import importlib
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from cases import elementwise
from machine import machine

from cnnengine.kernels import cupy, registry
from cnnengine.kernels.cupy import compile, device, launch, simulator
from cnnengine.kernels.cupy.launch import Kernel
from cnnengine.kernels.errors import BackendError, ShapeError, UnsupportedError

if (REASON := registry.missing("cupy")) is not None:
    pytest.skip(f"backend cupy: {REASON}", allow_module_level=True)
if not launch.simulated():
    pytest.skip("kernels run on the GPU here, not in the simulator", allow_module_level=True)

SUM = """
template <int STEP>
__global__ void reversed_kernel(const float* x, float* out, int count) {
    SHARED(tile, float[256]);
    const int i = threadIdx.x;
    tile[i] = x[i];
    BARRIER
    out[i] = tile[count - 1 - i];
}
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Write a kernel's source to a file that the simulator finds, and return it."""

    numbers = itertools.count()
    simulator._machine()
    monkeypatch.setattr(simulator, "cache_folder", lambda: tmp_path)

    def make(source: str, name: str) -> Kernel:
        file = tmp_path / f"probe_{next(numbers)}.cu"
        file.write_text(f'#include "{cupy_folder() / "common.cuh"}"\n{source}')
        return Kernel(str(file), name)

    return make


def cupy_folder() -> Path:
    return Path(cupy.__file__).parent


def floats(count):
    return np.arange(count, dtype=np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("function", ["relu", "relu_backward"])
def test_relu__listed_shapes(function, dtype):
    calls = [c for n in elementwise.LISTED for c in elementwise.listed(n, dtype)]
    for call in calls:
        if call.function == function:
            assert machine("cupy").verify(call)


def test_simulator__runs_a_block_with_a_barrier(kernel):
    probe = kernel(SUM.replace("BARRIER", "__syncthreads();"), "reversed_kernel<1>")
    x, out = floats(256), floats(256)
    launch.launch(probe, 1, 256, x, out, 256)
    assert np.array_equal(out, x[::-1])


def test_simulator__shows_a_missing_barrier(kernel):
    probe = kernel(SUM.replace("BARRIER", ""), "reversed_kernel<1>")
    x, out = floats(256), floats(256)
    launch.launch(probe, 1, 256, x, out, 256)
    assert np.isnan(out).any()  # read before they were written


def test_simulator__shows_a_missing_barrier_between_warps(kernel):
    source = """__global__ void probe_kernel(float* out) {
        SHARED(tile, float[256]);
        const int i = threadIdx.x;
        for (int step = 0; step < 8; ++step) {
            tile[i] = step;
            __syncwarp();
            out[i] = tile[(i + 32) % 256];
            __syncwarp();
        }
    }"""
    out = floats(256)
    launch.launch(kernel(source, "probe_kernel"), 1, 256, out)
    assert not (out == 7).all()


def test_simulator__refuses_a_barrier_that_some_threads_never_reach(kernel):
    source = "__global__ void probe_kernel(int n) { if (threadIdx.x < n) __syncthreads(); }"
    probe = kernel(source, "probe_kernel")
    launch.launch(probe, 1, 64, 64)
    with pytest.raises(BackendError, match="a barrier that other threads of its block never"):
        launch.launch(probe, 1, 64, 40)


def test_simulator__refuses_half_a_warp_in_an_exchange(kernel):
    source = """__global__ void probe_kernel(float* out) {
        if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    }"""
    with pytest.raises(BackendError, match="waits for its warp, of which lanes are elsewhere"):
        launch.launch(kernel(source, "probe_kernel"), 1, 32, floats(32))


def test_simulator__refuses_lanes_in_different_exchanges(kernel):
    source = """__global__ void probe_kernel(float* out) {
        if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
        else __syncwarp();
    }"""
    with pytest.raises(BackendError, match="the lanes of its warp are in different exchanges"):
        launch.launch(kernel(source, "probe_kernel"), 1, 32, floats(32))


@pytest.mark.parametrize("place", ["tile[64]", "dynamic[16]"])
def test_simulator__finds_a_write_behind_shared_memory(kernel, place):
    source = """__global__ void probe_kernel() {
        SHARED(tile, float[64]);
        DYNAMIC_SHARED(bytes);
        float* dynamic = reinterpret_cast<float*>(bytes);
        tile[0] = dynamic[0] = 1;
        PLACE = 1;
    }"""
    with pytest.raises(BackendError, match="wrote behind an array in shared memory"):
        launch.launch(kernel(source.replace("PLACE", place), "probe_kernel"), 1, 1, shared_bytes=64)


def test_simulator__poisons_shared_memory_between_blocks(kernel):
    source = """__global__ void probe_kernel(float* out) {
        SHARED(tile, float[1]);
        if (blockIdx.x == 0) tile[0] = 5;
        out[blockIdx.x] = tile[0];
    }"""
    out = floats(2)
    launch.launch(kernel(source, "probe_kernel"), 2, 1, out)
    assert out[0] == 5
    assert np.isnan(out[1])


def test_simulator__refuses_vectors_at_odd_addresses(kernel):
    source = """__global__ void probe_kernel(const float* x, float* out) {
        store<4>(out, load<4>(x));
    }"""
    probe = kernel(source, "probe_kernel")
    room = np.zeros(20, np.float32)
    start = -room.ctypes.data % 16 // 4
    launch.launch(probe, 1, 1, room[start:], room[start + 4 :])
    with pytest.raises(BackendError, match="load of 16 bytes at an address that is no multiple"):
        launch.launch(probe, 1, 1, room[start + 1 :], room[start + 4 :])


def test_simulator__runs_every_block_once_in_a_shuffled_order(kernel):
    source = """__global__ void probe_kernel(int* count, int* order) {
        const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        order[block] = (*count)++;
    }"""
    probe, orders = kernel(source, "probe_kernel"), set()
    for _ in range(8):  # one alone may well be the order of the numbers
        count, order = np.zeros(1, np.int32), np.full(24, -1, np.int32)
        launch.launch(probe, (4, 3, 2), 1, count, order)
        assert sorted(order) == list(range(24))
        orders.add(tuple(order))
    assert len(orders) > 4


def test_simulator__finds_local_arrays_that_are_too_large(kernel):
    source = """__global__ void probe_kernel(float* out) {
        volatile float large[40000];
        for (int i = 0; i < 40000; ++i) large[i] = i;
        *out = large[7];
    }"""
    with pytest.raises(BackendError, match="its local arrays overran its stack"):
        launch.launch(kernel(source, "probe_kernel"), 1, 1, floats(1))


COPY = """__global__ void probe_kernel(const float* x, float* out) {
    SHARED(tile, Vector<float, 4>[2]);
    copy_async<16>(&tile[0], x, 8);
    commit_copies();
    copy_async<16>(&tile[1], x + 4);
    commit_copies();
    wait_for_copies<WAIT>();
    for (int i = 0; i < 8; ++i) out[i] = tile[i / 4].at[i % 4];
}"""


def test_simulator__copies_when_they_are_waited_for(kernel):
    x, out = np.arange(1, 9, dtype=np.float32), floats(8)
    launch.launch(kernel(COPY.replace("WAIT", "0"), "probe_kernel"), 1, 1, x, out)
    assert out.tolist() == [1, 2, 0, 0, 5, 6, 7, 8]
    launch.launch(kernel(COPY.replace("WAIT", "1"), "probe_kernel"), 1, 1, x, out)
    assert out[:4].tolist() == [1, 2, 0, 0]
    assert np.isnan(out[4:]).all()


def test_simulator__exchanges_within_a_warp(kernel):
    source = """__global__ void probe_kernel(int* out) {
        const int i = threadIdx.x;
        int total = i;
        for (int step = 16; step; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        out[i] = total + 1000 * __shfl_down_sync(~0u, i, 1);
        out[64 + i] = __ballot_sync(~0u, i % 2);
        out[128 + i] = __shfl_up_sync(~0u, i, 2) + 100 * __shfl_sync(~0u, i, 3);
    }"""
    out = np.zeros(192, np.int32)
    launch.launch(kernel(source, "probe_kernel"), 1, 64, out)
    lane = np.arange(64)
    first, last = lane // 32 * 32, lane % 32 == 31
    assert np.array_equal(out[:64], first * 32 + 496 + 1000 * np.where(last, lane, lane + 1))
    assert (out[64:128].view(np.uint32) == 0xAAAAAAAA).all()
    up = np.where(lane % 32 < 2, lane, lane - 2)
    assert np.array_equal(out[128:], up + 100 * (first + 3))


def test_narrow__rounds_as_numpy_does(kernel):
    source = """template <class T>
    __global__ void probe_kernel(const float* x, T* out, float* back) {
        const int i = blockIdx.x * 256 + threadIdx.x;
        out[i] = narrow<T>(x[i]);
        back[i] = widen(out[i]);
    }"""
    bits = np.random.default_rng(1).integers(0, 2**32, 2**16, dtype=np.uint32)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    bits[: halves.size] = halves.view(np.uint32) + 0x1000  # the middle between two float16
    bits[-256:] = np.arange(0x477FEF80, 0x477FEF80 + 256, dtype=np.uint32)  # where inf begins
    x = bits.view(np.float32)
    for dtype, name in (("float16", "float16"), ("bfloat16", "bfloat16")):
        kind = registry_dtype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = x.astype(kind)
        out, back = np.zeros(x.size, kind), np.zeros_like(x)
        launch.launch(kernel(source, f"probe_kernel<{name}>"), 256, 256, x, out, back)
        number = ~np.isnan(x)
        assert np.isnan(out[~number].astype(np.float32)).all()
        assert np.array_equal(out[number].view(np.uint16), expected[number].view(np.uint16))
        assert np.array_equal(back, out.astype(np.float32), equal_nan=True)


def registry_dtype(name):
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, None) or name)


PLAIN = "__global__ void probe_kernel(const float* x, int n) {}"


def test_launch__refuses_arguments_of_other_types(kernel):
    probe = kernel(PLAIN, "probe_kernel")
    launch.launch(probe, 1, 1, None, 3)
    with pytest.raises(BackendError, match=r"argument 0 must be \*float32, not \*float16"):
        launch.launch(probe, 1, 1, np.zeros(1, np.float16), 3)
    with pytest.raises(BackendError, match="argument 1 must be int32, not int64"):
        launch.launch(probe, 1, 1, floats(1), np.int64(3))
    with pytest.raises(BackendError, match="takes 2 arguments, 1 were given"):
        launch.launch(probe, 1, 1, floats(1))
    with pytest.raises(ShapeError, match="2147483648 does not fit 32 bits"):
        launch.launch(probe, 1, 1, floats(1), 2**31)


def test_launch__refuses_what_the_hardware_would(kernel):
    probe = kernel(PLAIN, "probe_kernel")
    with pytest.raises(ShapeError, match="65536 blocks along y are more than 65535"):
        launch.launch(probe, (1, 65_536), 1, None, 3)
    with pytest.raises(BackendError, match="at most 1024"):
        launch.launch(probe, 1, (32, 33), None, 3)
    with pytest.raises(BackendError, match="232449 bytes of shared memory, at most 232448"):
        launch.launch(probe, 1, 1, None, 3, shared_bytes=227 * 1024 + 1)


def test_launch__without_blocks_launches_nothing():
    launch.launch(Kernel("no_such_file.cu", "none"), (0, 3), 1)


def test_launch__says_what_the_compiler_said(kernel):
    with pytest.raises(BackendError, match=r"probe_\d+.cu: probe_kernel: the simulator cannot"):
        launch.launch(kernel("__global__ void probe_kernel() { oops; }", "probe_kernel"), 1, 1)


def test_recorded__writes_launches_down():
    x = np.zeros(1000, np.float32)
    with launch.recorded(108, 80) as made:
        assert launch.multiprocessors() == 108
        assert launch.shared_limit() == 163 << 10
        registry.load("cupy").function("relu")(x, x)
    assert made == [
        launch.Launch(
            Kernel("elementwise.cu", "relu_kernel<float>"),
            *((1, 1, 1), (256, 1, 1), ("*float32", "*float32", "int64"), 0),
        )
    ]


def test_relu__refuses_float64():
    x = np.zeros(4)
    with pytest.raises(UnsupportedError, match="x is float64; use backend numpy"):
        registry.load("cupy").function("relu")(x, x)


def test_simulator__reads_no_file_of_the_current_folder(kernel, tmp_path, monkeypatch):
    for name in ("simulator.h", "simulated.h"):
        (tmp_path / name).write_text("#error another one")
    monkeypatch.chdir(tmp_path)
    out = floats(1)
    launch.launch(kernel("__global__ void k(float* out) { *out = 3; }", "k"), 1, 1, out)
    assert out == 3


def test_simulator__keeps_libraries_and_forgets_old_ones(kernel, tmp_path):
    probe = kernel(PLAIN, "probe_kernel")
    old, new = tmp_path / "old.so", tmp_path / "new.so"
    for file in (old, new):
        file.touch()
    os.utime(old, (0, 0))
    launch.launch(probe, 1, 1, None, 3)
    assert not old.exists()
    assert new.exists()
    made = set(tmp_path.glob("probe*.so"))
    assert len(made) == 1
    simulator._compiled.cache_clear()
    launch.launch(probe, 1, 1, None, 3)
    assert set(tmp_path.glob("probe*.so")) == made


def test_missing__names_the_compiler(monkeypatch):
    monkeypatch.setattr(simulator, "COMPILERS", ())
    assert registry.missing("cupy") == "the simulator needs a C++ compiler; install g++"


def test_figures__of_every_architecture(kernel):
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    source = """__global__ void probe_kernel(const float* x, float* out) {
        SHARED(tile, float[64]);
        tile[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        out[threadIdx.x] = tile[63 - threadIdx.x];
    }"""
    for architecture in compile.ARCHITECTURES:
        _, report = compile.compiled(kernel(source, "probe_kernel"), architecture)
        found = compile.figures(report)
        assert 2 <= found["registers"] <= 40
        assert (found["spill_bytes"], found["shared_bytes"]) == (0, 256)


def test_flags__are_those_that_cupy_compiles_with(monkeypatch):
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    compiler, told = importlib.import_module("cupy.cuda.compiler"), []

    class Program:
        def __init__(self, *_, **__):
            pass

        def compile(self, options):
            told.extend(options)
            raise InterruptedError

    monkeypatch.setattr(compiler, "_NVRTCProgram", Program)
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch: ("", ""))
    with pytest.raises(InterruptedError):
        compiler._compile_with_cache_cuda("", device.OPTIONS, "90")
    *flags, report = compile.FLAGS
    assert (told, report) == ([*flags, "-arch=compute_90"], "--ptxas-options=-v")


def test_shared__is_aligned_as_vectors_and_copies_need_it(kernel):
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    source = """__global__ void probe_kernel(const float16* x, float16* out) {
        SHARED(tile, float16[64]);
        tile[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        out[threadIdx.x] = tile[63 - threadIdx.x];
    }"""
    nvrtc, file = compile._nvrtc(), kernel(source, "probe_kernel").file
    program = nvrtc.createProgram(f'#include "{file}"\n', "kernel.cu", [], [])
    nvrtc.compileProgram(program, ["--gpu-architecture=compute_80", *compile.FLAGS])
    declared = re.findall(r"\.shared \.align (\d+) ", nvrtc.getPTX(program).decode())
    nvrtc.destroyProgram(program)
    assert declared == ["16"]  # the simulator aligns every array to 128 bytes


def test_compiled__says_what_the_compiler_said(kernel):
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    wrong = kernel("__global__ void probe_kernel() { oops; }", "probe_kernel")
    with pytest.raises(BackendError, match="cannot compile it for sm_90\n(.|\n)*oops"):
        compile.compiled(wrong, 90)
    assert re.fullmatch(r"\d+\.\d+", compile.version())
