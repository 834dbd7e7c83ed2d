"""CuPy's paths that small shapes do not take, in all functions but the convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calls import call_of, same_bits
from cases import dense, loss
from cases.draw import Draw
from machine import machine

from cnnengine.kernels import registry
from cnnengine.kernels.philox import key, random_bits
from cnnengine.kernels.spec import AvgPool2d, Config, Dropout, MaxPool2d, SoftmaxCrossEntropy

if (REASON := registry.missing("cupy")) is not None:
    pytest.skip(f"backend cupy: {REASON}", allow_module_level=True)

from cnnengine.kernels.cupy import dense as cupy_dense
from cnnengine.kernels.cupy import launch, reduce

GROUPS = """#include "group.cuh"
__global__ void probe_kernel(const long long* number, long long* out, int H, int W) {
    const Pixel pixel = pixel_at(*number, H, W);
    out[0] = pixel.n;
    out[1] = pixel.h;
    out[2] = pixel.w;
}
"""


@pytest.mark.skipif(not launch.simulated(), reason="runs a kernel of its own in the simulator")
@pytest.mark.parametrize("number", [0, 2**31, 2**32 - 1, 2**32, 2**40 + 12345])
def test_pixel_at__of_any_number(number, tmp_path):
    file = tmp_path / "probe.cu"
    file.write_text(GROUPS)
    out = np.zeros(3, np.int64)
    probe = launch.Kernel(str(file), "probe_kernel")
    launch.launch(probe, 1, 1, np.array([number]), out, 13, 7)
    assert out.tolist() == [number // 91, number // 7 % 13, number % 7]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pitch", [(8, 8), (3, 2)], ids=["whole groups", "odd"])
def test_pools__of_several_groups_of_channels(pitch, dtype):
    draw = Draw("wide pools")
    x = draw.normal((2, 5, 7, 48), dtype)
    for function, op in (
        ("max_pool2d", MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1))),
        ("avg_pool2d", AvgPool2d((3, 3), (2, 2), (1, 1, 1, 1))),
    ):
        want = ("out", "code") if function == "max_pool2d" else ("out",)
        call = replace(call_of(function, *want, x=x, op=op), pitch={"x": pitch, "out": pitch})
        assert machine("cupy").verify(call)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.999])
def test_dropout__draws_the_stream_of_philox(p):
    count, op, words = 4103, Dropout(p), key(2**40 + 12345, 2**31 + 7, 3)
    for dtype in ("float32", "float16"):
        x = np.ones(count, dtype)
        out = machine("cupy").outputs(call_of("dropout", x=x, op=op, key=words))["out"]
        kept = random_bits(words, count) >= op.threshold
        assert np.array_equal(out != 0, kept)


def test_dropout__is_triton_s_bit_for_bit():
    if (reason := registry.missing("triton")) is not None:
        pytest.skip(f"backend triton: {reason}")
    x = Draw("dropout twice").normal((1031,), "float16")
    call = call_of("dropout", x=x, op=Dropout(0.4), key=key(5, 6, 7))
    first, second = (machine(name).outputs(call)["out"] for name in ("cupy", "triton"))
    assert same_bits(first, second)


@pytest.mark.parametrize("classes", [31, 32, 33, 2049])
def test_softmax_cross_entropy__rows_longer_than_a_warp(classes):
    call = next(loss.calls(Draw("long rows"), (9, classes, 5.0, 0.1), "float32"))
    assert machine("cupy").verify(call)


@pytest.mark.parametrize("label", [-1, 7])
def test_softmax_cross_entropy__a_label_that_is_no_class_is_nan(label):
    logits, labels = np.zeros((2, 7), np.float32), np.array([3, label], np.int32)
    given = {"logits": logits, "labels": labels, "op": SoftmaxCrossEntropy()}
    made = {"loss": np.zeros(2, np.float32), "dlogits": np.zeros((2, 7), np.float32)}
    function = registry.load("cupy").function("softmax_cross_entropy")
    device = machine("cupy").adapter
    arrays = {n: device.to_device(v) for n, v in given.items() if isinstance(v, np.ndarray)}
    out = {n: device.to_device(v) for n, v in made.items()}
    function(**{**given, **arrays, **out})
    found = {n: device.from_device(v) for n, v in out.items()}
    assert np.isnan(found["loss"]).tolist() == [False, True]
    assert np.isnan(found["dlogits"]).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("tile", "splits"), [(64, 3), (128, 1), (128, 2)])
def test_dense__every_tile_and_split(tile, splits, dtype, monkeypatch):
    sizes = (131, 67, 72)
    for call in dense.calls(Draw("dense tiles"), sizes, dtype):
        if call.function == "bias_grad":
            continue
        depth = {"dense": 67, "dense_dgrad": 72, "dense_wgrad": 131}[call.function]
        deep = -(-depth // splits // 16) * 16
        entries = ("tile", tile), ("splits", -(-depth // deep)), ("depth_of_split", deep)
        config = Config("tiled", entries, 1 << 20)
        monkeypatch.setattr(cupy_dense, "choose", lambda *given, config=config: config)
        assert machine("cupy").verify(call)


@pytest.mark.parametrize("sizes", [(64, 25088, 4096), (1, 4096, 1000), (4096, 4096, 4096)])
@pytest.mark.parametrize("function", ["dense", "dense_dgrad", "dense_wgrad"])
def test_choose__splits_cover_the_depth_once(function, sizes):
    n, c, k = sizes
    x, w, dy = (np.broadcast_to(np.float16(0), s) for s in ((n, c), (k, c), (n, k)))
    given = {"dense": {"x": x, "w": w}, "dense_dgrad": {"dy": dy, "w": w, "db": None}}
    config = cupy_dense.choose(function, given.get(function, {"x": x, "dy": dy}))
    depth = {"dense": c, "dense_dgrad": k, "dense_wgrad": n}[function]
    splits, deep = config["splits"], config["depth_of_split"]
    assert deep % 16 == 0
    assert (splits - 1) * deep < depth <= splits * deep


@pytest.mark.parametrize("terms", [1, 7, 256, 257, 66_000])
def test_add_in_order__of_any_number_of_terms(terms):
    parts = Draw(f"terms {terms}").normal((terms, 3), "float32")
    device = machine("cupy").adapter
    out = device.to_device(np.full(3, np.nan, np.float32))
    reduce.add_in_order(device.to_device(parts.ravel()), out, terms, 0.5)
    exact = 0.5 * parts.astype(np.float64).sum(axis=0)
    assert np.abs(device.from_device(out) - exact).max() <= 1e-6 * np.sqrt(terms) * 4


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("channels", [1, 3, 64, 65, 2048])
@pytest.mark.parametrize("pixels", [0, 1, 4096, 64 * 112 * 112])
def test_splits_of_pixels__cover_every_pixel_once(pixels, channels, width):
    splits, of_split = reduce.splits_of_pixels(pixels, channels, width)
    assert splits >= 1
    assert (splits - 1) * of_split < max(pixels, 1) <= splits * of_split
