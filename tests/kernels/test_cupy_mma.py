"""Tensor-core convolution in CUDA C++: fragments, banks of shared memory, tiles, and whole passes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from cases import conv as cases
from cases.draw import Draw
from machine import adapter, machine

from cnnengine.kernels import registry
from cnnengine.kernels.cupy import launch, simulator
from cnnengine.kernels.cupy.launch import Kernel
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("cupy")) is not None:
    pytest.skip(f"backend cupy: {REASON}", allow_module_level=True)
if not launch.simulated():
    pytest.skip("kernels run on the GPU here, not in the simulator", allow_module_level=True)

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float": np.float32}
SAME = Conv2d(padding=(1, 1, 1, 1))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Write a kernel that includes one of the package's files, and return it."""
    numbers = itertools.count()
    simulator._machine()
    monkeypatch.setattr(simulator, "cache_folder", lambda: tmp_path)

    def make(include: str, source: str, name: str) -> Kernel:
        file = tmp_path / f"probe_{next(numbers)}.cu"
        file.write_text(f'#include "{simulator.FOLDER / include}"\n{source}')
        return Kernel(str(file), name)

    return make


PRODUCT = """
template <class T>
__global__ void product_kernel(const unsigned* a, const unsigned* b, float* sums) {
    const int lane = threadIdx.x;
    Words words;
    for (int i = 0; i < 4; ++i) words.at[i] = a[4 * lane + i];
    float mine[4];
    for (int i = 0; i < 4; ++i) mine[i] = sums[4 * lane + i];
    multiply_add<T>(mine, words, b[2 * lane], b[2 * lane + 1]);
    for (int i = 0; i < 4; ++i) sums[4 * lane + i] = mine[i];
}
"""


def fragments(depth):
    """Rows and columns of the elements of a, b and sums in each lane: the tables of the PTX ISA.

    "Matrix fragments for mma.m16n8k16 with floating point type" and "for mma.m16n8k8", .tf32.
    """
    lane = np.arange(32)[:, None]
    group, within = lane >> 2, lane % 4
    if depth == 16:
        i = np.arange(8)[None, :]
        a = group + np.where(i // 2 % 2 == 0, 0, 8), within * 2 + (i & 1) + np.where(i < 4, 0, 8)
        i = i[:, :4]
        b = within * 2 + (i & 1) + np.where(i < 2, 0, 8), group + 0 * i
    else:
        i = np.arange(4)[None, :]
        a = group + np.where(i % 2 == 0, 0, 8), within + np.where(i < 2, 0, 4)
        i = i[:, :2]
        b = within + np.where(i == 0, 0, 4), group + 0 * i
    i = np.arange(4)[None, :]
    return a, b, (group + np.where(i < 2, 0, 8), within * 2 + (i & 1))


@pytest.mark.parametrize("name", DTYPES)
def test_multiply_add__takes_the_fragments_of_the_isa(kernel, name):
    rng, dtype = np.random.default_rng(3), DTYPES[name]
    depth = 32 // np.dtype(dtype).itemsize
    a = rng.integers(-8, 9, (16, depth)).astype(dtype)  # all products and sums are exact
    b = rng.integers(-8, 9, (depth, 8)).astype(dtype)
    start = rng.integers(-8, 9, (16, 8)).astype(np.float32)
    of_a, of_b, of_sums = fragments(depth)
    words = [np.ascontiguousarray(m[at]).view(np.uint32) for m, at in ((a, of_a), (b, of_b))]
    sums = np.ascontiguousarray(start[of_sums])
    launch.launch(kernel("mma.cuh", PRODUCT, f"product_kernel<{name}>"), 1, 32, *words, sums)
    expected = start + a.astype(np.float32) @ b.astype(np.float32)
    assert np.array_equal(sums, expected[of_sums])


MATRICES = """
template <bool TRANSPOSED>
__global__ void matrices_kernel(const unsigned* x, unsigned* out) {
    SHARED(lines, unsigned[32][4]);
    const int lane = threadIdx.x;
    for (int i = 0; i < 4; ++i) lines[lane][i] = x[4 * lane + i];
    __syncthreads();
    const Words words = TRANSPOSED ? load_matrices_transposed(lines[lane])
                                   : load_matrices(lines[lane]);
    for (int i = 0; i < 4; ++i) out[4 * lane + i] = words.at[i];
}
"""


@pytest.mark.parametrize("transposed", ["false", "true"])
def test_load_matrices__gives_each_lane_its_elements(kernel, transposed):
    x = np.arange(256, dtype=np.uint16)
    out = np.zeros((32, 4), np.uint32)
    probe = kernel("mma.cuh", MATRICES, f"matrices_kernel<{transposed}>")
    launch.launch(probe, 1, 32, x.view(np.uint32), out)
    matrices = x.reshape(4, 8, 8)
    if transposed == "true":
        matrices = matrices.transpose(0, 2, 1)
    # row lane / 4, elements 2 * (lane % 4) and the next: a row's four words are four lanes'
    expected = np.ascontiguousarray(matrices).view(np.uint32).reshape(4, 32).T
    assert np.array_equal(out, expected)


ROUND = """
template <int N>
__global__ void round_kernel(const float* x, unsigned* out) {
    if (threadIdx.x < N) out[threadIdx.x] = round_to_tf32(x[threadIdx.x]);
}
"""


def test_round_to_tf32__nearest_ties_away_from_zero(kernel):
    one = 2.0**-10  # the last bit of 1
    given = [1.0, 1 + one / 2, -1 - one / 2, 1 + one / 4, 1 + one * 0.75, 1e-30, np.inf, np.nan]
    x, out = np.array(given, np.float32), np.zeros(8, np.uint32)
    launch.launch(kernel("mma.cuh", ROUND, "round_kernel<8>"), 1, 32, x, out)
    rounded = out.view(np.float32)
    expected = [1.0, 1 + one, -1 - one, 1.0, 1 + one]
    assert rounded[:5].tolist() == expected
    assert (out[:6] & 0x1FFF == 0).all()
    assert abs(rounded[5] - 1e-30) <= 1e-30 * one / 2
    assert rounded[6] == np.inf
    assert np.isnan(rounded[7])


PLACES = """
template <class O>
__global__ void places_kernel(int* out) {
    const int i = threadIdx.x;
    if (i < O::LINES * O::CHUNKS) out[i] = O::place(i / O::CHUNKS, i % O::CHUNKS);
}
"""
# element type, elements of a line, lines, whether lines run along the depth
OPERANDS = [
    *(("float16", 32, 128, True), ("float16", 64, 64, True), ("float", 16, 64, True)),
    *(("float16", 128, 32, False), ("float16", 32, 32, False), ("float16", 64, 64, False)),
    *(("float", 128, 16, False), ("float", 64, 16, False), ("float", 32, 16, False)),
    *(("float", 16, 16, False),),
]


@pytest.mark.parametrize(("name", "length", "lines", "along"), OPERANDS)
def test_operand__touches_all_banks_at_once(kernel, name, length, lines, along):
    itemsize = np.dtype(DTYPES[name]).itemsize
    chunks = length * itemsize // 16
    extent, depth = (lines, length) if along else (length, lines)
    told = f"Operand<{name}, {extent}, {depth}, {str(along).lower()}>"
    places = np.full((lines, chunks), -1, np.int32)
    probe = kernel("conv_mma.cuh", PLACES, f"places_kernel<{told}>")
    launch.launch(probe, 1, 1024, places)
    # every chunk has a place of its own
    assert sorted(places.ravel()) == list(range(0, lines * chunks * 16, 16))
    # 16 bytes a thread: eight threads at a time, and eight columns of 16 bytes for them
    copies = places.reshape(-1, 8)
    assert all(len(set(eight // 16 % 8)) == 8 for eight in copies)
    if along or itemsize == 2:  # ldmatrix: the same chunk of eight lines
        for first, chunk in itertools.product(range(0, lines, 8), range(chunks)):
            assert len(set(places[first : first + 8, chunk] // 16 % 8)) == 8
    else:  # a warp reads the floats of four lines and eight neighbouring columns
        lane = np.arange(32)
        for line, column in itertools.product(range(0, lines, 4), range(0, length, 8)):
            at = column + lane // 4
            words = places[line + lane % 4, at // 4] // 4 + at % 4
            assert len(set(words % 32)) == 32


@pytest.mark.parametrize("columns", [32, 64, 128])
def test_stage__touches_all_banks_at_once(kernel, columns):
    source = """
    template <class T> __global__ void pitch_kernel(int* out) {
        if (threadIdx.x == 0) out[0] = T::STAGED_PITCH;
    }"""
    pitch = np.zeros(1, np.int32)
    probe = kernel("conv_mma.cuh", source, f"pitch_kernel<Tile<64, {columns}, 32, 32, 16, 4>>")
    launch.launch(probe, 1, 32, pitch)
    lane = np.arange(16)  # two floats a thread: half a warp at a time
    words = (lane // 4 * pitch + lane % 4 * 2)[:, None] + np.arange(2)
    assert len(set(words.ravel() % 32)) == 32
    assert pitch % 4 == 0  # rows are read 16 bytes at a time


def backend_with(chosen):
    """The CuPy backend with the config of every call replaced by what `chosen` makes of it."""
    backend = registry.load("cupy")

    def choose(function, arguments):
        config = backend.choose(function, arguments)
        return config if function.endswith("_backward") else chosen(function, arguments, config)

    return replace(machine("cupy"), variant=choose, adapter=adapter("cupy"))


def with_tile(**sizes):
    """The backend with parts of every tensor-core tile replaced."""

    def chosen(function, arguments, config):
        known = {name: sizes[name] for name, _ in config.tile if name in sizes}
        made = replace(config, tile=tuple({**dict(config.tile), **known}.items()))
        # smaller tiles leave more partial sums
        return replace(made, workspace_bytes=64 * config.workspace_bytes + 4 * 8 * 4096)

    return backend_with(chosen)


def is_mma(backend, call):
    arguments = {**call.inputs, "out": call.oracle()["out"]}
    return registry.load("cupy").choose(call.function, arguments).algorithm == "mma"


WIDE = {  # channels in whole chunks of 16 bytes
    "same": ((2, 6, 5, 16), (24, 3, 3, 16), SAME),
    "stride_2_dilated": (
        (1, 9, 8, 16),
        (16, 3, 2, 16),
        Conv2d((2, 2), (1, 2, 0, 1), "zeros", (2, 1)),
    ),
    "groups_edge": ((2, 5, 4, 32), (16, 2, 3, 16), Conv2d((1, 2), (1, 1, 2, 0), "edge", groups=2)),
    "odd_channels": ((1, 5, 6, 9), (11, 3, 3, 9), SAME),
}


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "ieee"), ("float32", "tf32x3")])
@pytest.mark.parametrize("name", WIDE)
def test_conv__small_tiles_and_splits(name, dtype, precision):
    x, w, op = WIDE[name]
    backend = with_tile(rows=32, columns=32, splits=2)
    for call in cases.calls(Draw(name), x, w, replace(op, precision=precision), dtype):
        assert backend.verify(call)


def test_conv__tf32():
    for call in cases.calls(
        Draw("tf32"), *WIDE["same"][:2], replace(SAME, precision="tf32"), "float32"
    ):
        assert with_tile(rows=32, columns=32).verify(call)


def test_conv__largest_tile():
    x, w, op = (1, 13, 11, 40), (136, 1, 1, 40), Conv2d()
    for call in cases.calls(Draw("largest"), x, w, op, "float16"):
        assert with_tile(rows=128, columns=128, splits=3).verify(call)
