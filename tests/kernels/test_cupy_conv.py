"""What is the direct convolution's alone: tiles and splits that small shapes do not need."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import conv as cases
from cases.draw import Draw
from machine import adapter, machine

from cnnengine.kernels import registry
from cnnengine.kernels.cupy import conv, conv_direct, launch
from cnnengine.kernels.cupy.conv_direct import Window
from cnnengine.kernels.cupy.launch import Target
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("cupy")) is not None:
    pytest.skip(f"backend cupy: {REASON}", allow_module_level=True)


def backend_with(**tile):
    """The CuPy backend with parts of every direct tile replaced."""
    backend = registry.load("cupy")

    def choose(function, arguments):
        if function == "conv2d_relu_pool_backward":
            return backend.choose(function, arguments)
        config = conv._choose_direct(function, arguments, "")
        known = {name: tile[name] for name, _ in config.tile if name in tile}
        made = replace(config, tile=tuple({**dict(config.tile), **known}.items()))
        if function == "conv2d_wgrad":
            return replace(made, workspace_bytes=4 * made["splits"] * arguments["out"].size)
        # smaller tiles leave more partial sums
        return replace(made, workspace_bytes=config.workspace_bytes * 16)

    return replace(machine("cupy"), variant=choose, adapter=adapter("cupy"))


@pytest.mark.parametrize("name", ["filter_7_stride_2", "edge_uneven", "groups", "empty_batch"])
def test_conv__one_tap_at_a_time_and_splits(name):
    backend = backend_with(window_r=1, window_s=1, splits=3)
    for call in cases.listed(name, "float32"):
        assert backend.verify(call)


@pytest.mark.parametrize("name", ["odd_pool", "dilated_stride_2"])
def test_conv__other_tiles(name):
    backend = backend_with(chunk=16, filters=8, thread_rows=4, thread_columns=2, taps=8)
    for call in cases.listed(name, "bfloat16"):
        assert backend.verify(call)


def test_conv__tiles_on_all_sides():
    # three tiles of rows, two of columns, three of filters, whole vectors of channels
    op = Conv2d(padding=(1, 1, 1, 1))
    for call in cases.calls(Draw("tiles"), (2, 18, 17, 24), (136, 3, 3, 24), op, "float32"):
        assert machine("cupy").verify(call)


@pytest.mark.parametrize("architecture", sorted(launch.SHARED_LIMIT))
@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), (1, 1), (1, 1)),
        Window((11, 11), (4, 4), (1, 1)),
        Window((31, 31), (1, 1), (1, 1)),
        Window((3, 3), (1, 1), (40, 40)),
        Window((1, 200), (7, 1), (1, 3)),
    ],
)
def test_choose_tile__fits_every_gpu(window, architecture, monkeypatch):
    monkeypatch.setattr(launch._Process, "simulated", Target(architecture))
    for channels, filters, itemsize in ((3, 64, 4), (512, 512, 4), (64, 8, 2)):
        tile = conv_direct.choose_tile((56, 56), channels, filters, window, itemsize)
        served = Window((tile.window_r, tile.window_s), window.stride, window.step)
        assert tile.shared_bytes(served, itemsize) <= launch.shared_limit() - 4096
        assert served.taps in (window.taps, (1, 1))


def test_choose_tile__takes_the_larger_tile_unless_it_is_half_empty():
    window = Window((3, 3), (1, 1), (1, 1))
    columns = [conv_direct.choose_tile((n, n), 64, 64, window, 4).columns for n in (7, 8, 14, 56)]
    assert columns == [8, 8, 16, 16]


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("chunk", [4, 8, 16])
def test_tile__neighbouring_filters_meet_no_bank_twice(chunk, itemsize):
    # eight threads read four neighbouring elements each; a bank is four bytes wide
    pitch = conv_direct.Tile(chunk, 8, 4, 4, 3, 3).pitch(itemsize)
    for c in range(0, chunk, 4):
        banks = [
            (lane * pitch + c + element) * itemsize // 4 % 32
            for lane in range(conv_direct.FILTER_LANES)
            for element in range(0, 4, 4 // itemsize)
        ]
        assert len(set(banks)) == len(banks)
