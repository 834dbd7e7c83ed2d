"""Tensor-core convolution in CUDA C++: fragments, banks of shared memory, tiles, whole passes."""

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
from cnnengine.kernels.cupy import compile, conv_mma, launch, simulator
from cnnengine.kernels.cupy.conv_mma_tile import WARPS, MmaTile, tile
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


FUNCTIONS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad", "conv2d_relu_pool")


def with_tile(**sizes):
    """The CuPy backend on tensor cores, with parts of every tile replaced."""

    def choose(function, arguments):
        config = registry.load("cupy").choose(function, arguments)
        assert config.algorithm == "mma", config
        known = {name: sizes[name] for name, _ in config.tile if name in sizes}
        made = replace(config, tile=tuple({**dict(config.tile), **known}.items()))
        if function == "conv2d_wgrad":
            return replace(made, workspace_bytes=4 * made["splits"] * arguments["out"].size)
        return replace(made, workspace_bytes=64 * config.workspace_bytes)  # more partial sums

    return replace(machine("cupy"), variant=choose, adapter=adapter("cupy"))


def verify(backend, label, x, w, op, dtype):
    calls = [c for c in cases.calls(Draw(label), x, w, op, dtype) if c.function in FUNCTIONS]
    assert {call.function for call in calls} == set(FUNCTIONS)
    for call in calls:
        assert backend.verify(call)


GEOMETRIES = {  # channels in whole chunks of 16 bytes, but for the last
    "same": ((2, 6, 5, 16), (24, 3, 3, 16), SAME),
    "strided": ((1, 9, 8, 16), (16, 3, 2, 16), Conv2d((2, 2), (1, 2, 0, 1), dilation=(2, 1))),
    "groups_edge": ((2, 5, 4, 32), (16, 2, 3, 16), Conv2d((1, 2), (1, 1, 2, 0), "edge", groups=2)),
    "odd_channels": ((1, 5, 6, 9), (11, 3, 3, 9), SAME),
}


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "ieee"), ("float32", "tf32x3")])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_conv__small_tiles_and_splits(name, dtype, precision):
    x, w, op = GEOMETRIES[name]
    backend = with_tile(rows=32, columns=32, splits=2)
    verify(backend, name, x, w, replace(op, precision=precision), dtype)


def test_conv__one_product_of_tf32():
    x, w, op = GEOMETRIES["same"]
    backend = with_tile(rows=32, columns=32)
    verify(backend, "tf32", x, w, replace(op, precision="tf32"), "float32")


def test_conv__long_sums_of_three_products_are_rounded():
    """Tensor cores cut sums: kept there, 576 terms would lose 5e-6 of what 2e-6 is allowed."""
    backend = with_tile(rows=32, columns=32, splits=1)
    op = replace(SAME, precision="tf32x3")
    verify(backend, "long", (1, 6, 6, 64), (16, 3, 3, 64), op, "float32")


def test_conv__precision_says_nothing_to_two_byte_types():
    x, w, op = GEOMETRIES["same"]
    backend = with_tile(rows=32, columns=32, splits=2)
    verify(backend, "same", x, w, replace(op, precision="tf32x3"), "bfloat16")


def test_conv__largest_tile():
    backend = with_tile(rows=128, columns=128, splits=3)
    verify(backend, "largest", (1, 13, 11, 40), (136, 1, 1, 40), Conv2d(), "float16")


def test_conv__many_steps_go_through_all_stages():
    backend = with_tile(rows=32, columns=32, stages=3, splits=1)
    verify(backend, "deep", (1, 7, 7, 64), (40, 3, 3, 64), SAME, "float16")


def bordered(host):
    """The same images inside a buffer with two rows and one column more, which are zeros."""
    n, h, w, c = host.shape
    buffer = np.zeros((n, h + 2, w + 1, c), host.dtype)
    buffer[:, :h, :w] = host
    return buffer[:, :h, :w]


def test_conv__images_with_a_border():
    rng, of = np.random.default_rng(5), MmaTile(32, 32, 32)
    x, w = (rng.integers(-2, 3, s).astype(np.float16) for s in ((3, 5, 4, 16), (8, 3, 3, 16)))
    y = rng.integers(-2, 3, (3, 5, 4, 8)).astype(np.float16)
    results = []
    for place in (np.copy, bordered):
        out, dx, dw = place(y), place(x), np.zeros(w.shape, np.float32)
        conv_mma.forward(place(x), w, None, place(y), out, SAME, True, of)
        conv_mma.dgrad(place(y), w, dx, place(x), None, SAME, of, None)
        conv_mma.wgrad(place(x), place(y), dw, SAME, of, 1, None)
        results.append((out, dx, dw))
    for plain, in_border in zip(*results, strict=True):
        assert np.array_equal(plain, in_border)
        assert plain.any()


@pytest.mark.parametrize("channels", [16, 9])
def test_wgrad__anywhere_in_memory(channels):
    rng, of = np.random.default_rng(6), MmaTile(32, 32, 32)
    x = rng.integers(-2, 3, (1, 5, 4, channels)).astype(np.float16)
    dy = rng.integers(-2, 3, (1, 5, 4, 8)).astype(np.float16)
    expected, memory = np.zeros((8, 3, 3, channels), np.float32), np.empty(72 * channels + 8)
    conv_mma.wgrad(x, dy, expected, SAME, of, 1, None)
    for offset in (1, 2):
        flat = memory.view(np.float32)[offset : offset + expected.size]
        out = flat.reshape(expected.shape)
        conv_mma.wgrad(x, dy, out, SAME, of, 1, None)
        assert np.array_equal(out, expected)
    assert expected.any()


def test_choose__says_why_not_on_tensor_cores():
    def chosen(x, w, op, dtype="float16"):
        x, w = np.zeros(x, dtype), np.zeros(w, dtype)
        out = np.zeros(op.output_shape(x.shape, w.shape), dtype)
        return registry.load("cupy").choose("conv2d", {"x": x, "w": w, "out": out, "op": op})

    assert chosen((1, 8, 8, 3), (64, 3, 3, 3), SAME).algorithm == "mma"
    plain = chosen((1, 8, 8, 64), (64, 3, 3, 64), SAME, "float32")
    assert plain.algorithm == "direct"
    assert "no IEEE products of float32" in plain.reason
    depthwise = chosen((1, 8, 8, 64), (64, 3, 3, 1), replace(SAME, groups=64))
    assert depthwise.algorithm == "direct"
    assert "1 channels and 1 filters a group" in depthwise.reason


@pytest.mark.parametrize("itemsize", [2, 4])
def test_tile__fits_every_gpu(itemsize):
    for rows, columns in ((1, 1), (802816, 64), (10**6, 512), (64, 1000), (0, 40)):
        for processors in (1, 108, 132):
            made = tile(rows, columns, itemsize, processors=processors)
            assert made.threads in (128, 256)
            assert made.shared_bytes(itemsize) <= 99 * 1024  # of sm_86 and sm_89
    assert tile(802816, 64, 2, processors=132).items()[:2] == (("rows", 128), ("columns", 64))
    assert tile(49, 512, 2, processors=132).items()[:2] == (("rows", 32), ("columns", 32))


@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels__of_the_largest_tile_do_not_spill(architecture):
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    largest = MmaTile(128, 128, 32).name
    for file, name in (
        ("conv_mma_dgrad.cu", f"conv2d_dgrad_mma_kernel<bfloat16, bfloat16, {largest}, 1, true>"),
        ("conv_mma_wgrad.cu", f"conv2d_wgrad_mma_kernel<bfloat16, {largest}, 1, false, true>"),
    ):
        told = compile.figures(compile.compiled(Kernel(file, name), architecture)[1])
        assert told["spill_bytes"] == 0
        assert told["registers"] <= 128  # so that two blocks fit


def test_warps__are_those_of_whole_fragments():
    for (rows, columns), (high, wide) in WARPS.items():
        assert rows % high == columns % wide == high % 16 == wide % 16 == 0
