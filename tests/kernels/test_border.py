"""Convolutions on images with a border of zeros, on every backend; Triton gathers nothing then."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from calls import same_bits
from cases import border as cases
from cases.draw import Draw
from machine import machine

from cnnengine.kernels import registry, spec
from cnnengine.kernels.errors import ShapeError, UnsupportedError
from cnnengine.kernels.spec import grid as grids

TRITON = pytest.mark.skipif(registry.missing("triton") is not None, reason="needs Triton")


@pytest.mark.parametrize("name", cases.LISTED)
def test_conv__on_images_with_a_border(backend, name):
    dtypes = sorted({backend.widest, backend.dtypes[-1]})
    if backend.adapter.every > 1:  # slow: one type for one name
        dtypes = [dtypes[list(cases.LISTED).index(name) % 2]]
    for dtype in dtypes:
        for call in cases.listed(name, dtype):
            backend.verify(call)


@pytest.mark.parametrize("name", ["same_3x3", "few_channels", "strided", "edge"])
def test_conv__a_border_changes_no_bit_in_numpy(name):
    backend = machine("numpy")
    for call in cases.listed(name, "float32"):
        plain = backend.outputs(replace(call, border={}))
        for result, value in backend.outputs(call).items():
            assert same_bits(value, plain[result])


def algorithm(function, arguments):
    return registry.load("triton").choose(function, arguments).algorithm


def told(shape, border=(0, 0), dtype="float16"):
    """A graph's value."""
    return SimpleNamespace(shape=shape, dtype=dtype, border=border, pitch=shape[-1])


@TRITON
@pytest.mark.parametrize("name", cases.LISTED)
def test_choose__gathers_only_where_it_must(name):
    x, w, op, border = cases.LISTED[name]
    y = op.output_shape(x, w)
    values = {"x": told(x, border), "dy": told(y, border), "w": told(w), "op": op}
    expected = "halo" if name in cases.BLOCKS else "implicit-gemm"
    out = {"conv2d": y, "conv2d_dgrad": x, "conv2d_wgrad": w}
    for function, shape in out.items():
        here = expected
        if name == "pointwise" and function == "conv2d_dgrad":
            here = "implicit-gemm"  # 24 filters fill no block of the sum
        assert algorithm(function, {**values, "out": told(shape, border)}) == here, function


@TRITON
@pytest.mark.parametrize(
    ("shape", "border", "dtype", "op", "reason"),
    [
        ((2, 6, 6, 16), (1, 1), "float32", cases.same(3, 3), "IEEE products"),
        ((2, 6, 6, 16), (0, 1), "float16", cases.same(3, 3), r"needs a border of \(1, 1\)"),
        ((2, 6, 6, 20), (1, 1), "float16", cases.same(3, 3), "20 channels are no multiple of 16"),
        ((2, 6, 6, 16), (1, 1), "float16", spec.Conv2d(), "size of x"),
    ],
)
def test_declined__says_why(shape, border, dtype, op, reason):
    from cnnengine.kernels.triton import conv_halo

    w = told((16, 3, 3, shape[3]), dtype=dtype)
    given = {"x": told(shape, border, dtype), "w": w, "op": op}
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(conv_halo.declined("conv2d", given))


@TRITON
def test_declined__a_slice_that_starts_between_blocks():
    """Channels 2 to 66 of 72 in float32: rows lie 288 bytes apart, but the first begins at 8."""
    from cnnengine.kernels.triton import conv_halo

    op, w = spec.Conv2d(precision="tf32"), told((32, 1, 1, 64), dtype="float32")
    wide = np.zeros((2, 6, 6, 72), np.float32)
    value = SimpleNamespace(**{**vars(told((2, 6, 6, 64), dtype="float32")), "pitch": 72})
    for first, gathers in ((2, True), (4, False)):
        value.channel = first
        for x in (wide[..., first : first + 64], value):
            reason = conv_halo.declined("conv2d", {"x": x, "w": w, "op": op})
            assert ("do not start at multiples of 16 bytes" in str(reason)) == gathers


@TRITON
def test_declined__without_a_copy_engine():
    from cnnengine.kernels.triton import conv_halo, gpu

    x, w, op, border = cases.LISTED["same_3x3"]
    given = {"x": told(x, border), "w": told(w), "op": op}
    for architecture, reason in ((80, "no copy engine (needs sm_90)"), (90, None)):
        with gpu.recorded(132, architecture):
            assert conv_halo.declined("conv2d", given) == reason


@TRITON
def test_conv2d__refuses_shifts_without_a_border():
    """A configuration for other borders would give other numbers."""
    x, w, op, border = cases.LISTED["same_3x3"]
    values = {"x": told(x, border), "w": told(w), "out": told(op.output_shape(x, w)), "op": op}
    config = registry.load("triton").choose("conv2d", values)
    shapes = (x, w, op.output_shape(x, w))
    x, w, out = (np.ones(shape, np.float16) for shape in shapes)
    with pytest.raises(UnsupportedError, match=r"needs a border of \(1, 1\), has x \(0, 0\); use"):
        registry.load("triton").function("conv2d").unchecked(x, w, None, out, op=op, config=config)


@TRITON
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_conv_halo__borders_that_differ(dtype):
    """The source has its border; the others have another one, or none, or are not aligned."""
    x, w, op, border = cases.LISTED["same_3x3"]
    w = (24 if dtype == "float32" else 20, *w[1:])  # 20 two-byte channels are not aligned
    for call in cases.conv.calls(Draw(f"differ:{dtype}"), x, w, op, dtype):
        for other in ((0, 0), (2, 1)):
            borders = dict.fromkeys(("residual", "mask", "out"), other)
            if "pool" in call.function or (dtype == "float32" and other == (0, 0)):
                continue
            assert machine("triton").verify(
                cases.with_borders(call, {**borders, "x": border, "dy": border})
            )


@TRITON
def test_conv_halo__slices_of_channels():
    x, w, op, border = cases.LISTED["same_3x3"]
    for call in cases.conv.calls(Draw("slices"), x, w, op, "float16"):
        names = [n for n in cases.IMAGES if n in call.inputs or n in call.want]
        if call.function == "conv2d_wgrad":
            names.remove("out")
        bordered = cases.with_borders(call, dict.fromkeys(cases.IMAGES, border))
        assert machine("triton").verify(replace(bordered, pitch=dict.fromkeys(names, (8, 16))))


@TRITON
def test_conv_halo__small_tiles_and_splits():
    backend = registry.load("triton")

    def choose(function, arguments):
        config = backend.choose(function, arguments)
        assert config.algorithm == "halo"
        tile = {**dict(config.tile), "rows": 16, "columns": 16, "depth": 16}
        if function == "conv2d_wgrad":
            tile["splits"] = 3
        size = max(config.workspace_bytes, 4 * 3 * 16 * 9 * 32) * 16
        return replace(config, tile=tuple(tile.items()), workspace_bytes=size)

    tested = replace(machine("triton"), variant=choose)
    x, w, border = (2, 4, 5, 16), (32, 3, 3, 16), (1, 1)
    for call in cases.conv.calls(Draw("small tiles"), x, w, cases.same(3, 3), "bfloat16"):
        if "pool" not in call.function:
            assert tested.verify(cases.with_borders(call, dict.fromkeys(cases.IMAGES, border)))


@TRITON
def test_conv_halo__offsets_of_64_bits(monkeypatch):
    from cnnengine.kernels.triton import border, conv_halo, conv_halo_wgrad

    for file in (border, conv_halo, conv_halo_wgrad):
        monkeypatch.setattr(file, "LARGE", 1)
    for call in cases.listed("many_positions", "float16"):
        assert machine("triton").verify(call)


def test_grid__is_that_of_the_buffer():
    buffer = np.zeros((2, 6, 8, 12), np.float32)
    view = buffer[:, :5, :6, 4:8]
    assert grids.grid(view) == (6, 8, 12)
    assert grids.border(view) == (1, 2)
    assert grids.positions(view) == 2 * 6 * 8
    assert grids.grid(view[:1]) == (5, 8, 12)  # nothing tells what lies below one image
    assert grids.grid(view[:, :1]) == (1, 48, 12)  # nor where the rows below a single one begin
    assert grids.grid(view[:, :, :1]) == (6, 1, 96)  # nor what lies beside a single column
    assert grids.grid(told((2, 5, 6, 4), (1, 2))) == (6, 8, 4)


@pytest.mark.parametrize("view", [np.s_[..., ::2], np.s_[:, ::-1], np.s_[::-1]])
def test_conv2d__refuses_what_is_no_border(view):
    x = np.zeros((2, 6, 8, 12), np.float32)[view]
    w, out = np.zeros((4, 1, 1, x.shape[3]), np.float32), np.zeros((*x.shape[:3], 4), np.float32)
    with pytest.raises(ShapeError, match="conv2d: x must be NHWC .* perhaps with a border"):
        spec.conv2d(x, w, None, out, op=spec.Conv2d())


def test_relu__refuses_a_border():
    buffer = np.zeros((2, 4, 4, 8), np.float32)
    with pytest.raises(ShapeError, match="x must be C-contiguous; .* strides="):
        spec.relu(buffer[:, :3, :3], np.zeros((2, 3, 3, 8), np.float32))
    with pytest.raises(ShapeError, match=r"x must be C-contiguous; .* border=\(1, 1\)"):
        spec.relu(told((2, 3, 3, 8), (1, 1)), told((2, 3, 3, 8)))


def test_native__refuses_a_border():
    if (reason := registry.missing("native")) is not None:
        pytest.skip(f"backend native: {reason}")
    call = next(cases.listed("same_3x3", "float32"))
    tested = machine("native")
    with pytest.raises(UnsupportedError, match="takes no array with a border of zeros, x has one"):
        tested.run(call, {n: v.shape for n, v in call.oracle().items()})
