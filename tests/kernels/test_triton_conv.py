"""Triton's convolutions where they part ways: many channels and filters, many taps, long sums."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from calls import call_of
from cases import conv as cases
from cases.draw import Draw
from machine import adapter, machine

from cnnengine.kernels import registry
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.kernels.triton import conv, conv_dgrad, gpu, launch, tiles

SAME = (1, 1, 1, 1)
GEOMETRIES = ("odd_pool", "edge_groups", "edge_uneven", "dilated_stride_2")

# x (N, H, W, C), w (K, R, S, C / groups), parameters: at least 16 channels and filters
DEEP = {
    "uneven": ((2, 7, 6, 33), (20, 3, 3, 33), Conv2d((2, 1), (1, 2, 0, 1))),
    "dilated": ((1, 9, 9, 16), (17, 3, 2, 16), Conv2d((2, 3), (2, 1, 1, 0), dilation=(2, 3))),
    "more_taps_than_bits": ((1, 5, 6, 16), (16, 6, 6, 16), Conv2d(padding=(2, 3, 3, 2))),
    "edge": ((1, 5, 4, 17), (16, 3, 3, 17), Conv2d((1, 1), SAME, "edge")),
    "groups": ((1, 5, 6, 34), (36, 3, 2, 17), Conv2d(padding=SAME, groups=2)),
    "whole_steps": ((2, 8, 8, 64), (32, 3, 3, 64), Conv2d(padding=SAME)),
}


def backend_with(**tile):
    """The Triton backend with parts of every product's tile replaced."""
    backend = registry.load("triton")

    def choose(function, arguments):
        config = backend.choose(function, arguments)
        known = {name: tile[name] for name, _ in config.tile if name in tile}
        made = replace(config, tile=tuple({**dict(config.tile), **known}.items()))
        if function in ("conv2d", "conv2d_wgrad"):
            return replace(made, workspace_bytes=4 * made["splits"] * arguments["out"].size)
        if function == "conv2d_dgrad":
            shape, op, splits = arguments["out"].shape, arguments["op"], made["splits"]
            used = tiles.Tile(**{n: v for n, v in made.tile if n != "splits"})
            count = conv_dgrad.scratch_floats(
                shape, op, used, arguments.get("db") is not None, splits
            )
            return replace(made, workspace_bytes=4 * sum(count))
        # smaller tiles leave more partial sums
        return replace(made, workspace_bytes=max(config.workspace_bytes, 1) * 256)

    return replace(machine("triton"), variant=choose, adapter=adapter("triton"))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_conv__small_tiles_and_splits(name):
    backend = backend_with(rows=32, columns=16, depth=32, group=2, splits=3)
    for call in cases.listed(name, "float32"):
        assert backend.verify(call)


@pytest.mark.parametrize("name", DEEP)
def test_conv__many_channels(name):
    dtype = "float16" if name == "whole_steps" else "float32"
    for call in cases.calls(Draw(f"deep:{name}"), *DEEP[name], dtype):
        assert machine("triton").verify(call)


def test_conv__many_channels_with_offsets_of_64_bits(monkeypatch):
    monkeypatch.setattr(launch, "LARGE", 1)
    for call in cases.calls(Draw("deep:long"), *DEEP["groups"], "float32"):
        assert machine("triton").verify(call)


@pytest.mark.parametrize("name", ["uneven", "edge"])
def test_conv__split_sums(name):
    draw = Draw(f"split:{name}")
    for call in cases.calls(draw, *DEEP[name], "float32"):
        assert backend_with(rows=64, columns=32, depth=16, splits=3).verify(call)


def test_conv2d_wgrad__shares_of_depthwise_filters():
    calls = cases.listed("depthwise_twice", "float16")
    (call,) = (c for c in calls if c.function == "conv2d_wgrad")
    assert backend_with(rows=4, columns=8, splits=3).verify(call)


def test_choose__takes_filters_of_one_channel_for_what_they_are():
    backend, w = registry.load("triton"), SimpleNamespace(shape=(32, 3, 3, 1), dtype="float16")
    for groups, algorithm in ((32, "depthwise"), (8, "depthwise"), (4, "implicit-gemm")):
        x = SimpleNamespace(shape=(2, 9, 9, groups), dtype="float16")
        out = SimpleNamespace(shape=(2, 7, 7, 32), dtype="float16")
        given = {"x": x, "w": w, "out": out, "op": Conv2d(groups=groups)}
        assert backend.choose("conv2d", given).algorithm == algorithm


def layer(images):
    """The arguments of conv5 of VGG16, in so far as `choose` looks at them."""
    x = SimpleNamespace(shape=(images, 14, 14, 512), dtype="float16")
    w = SimpleNamespace(shape=(512, 3, 3, 512), dtype="float16")
    return {"x": x, "w": w, "out": x, "dy": x, "op": Conv2d(padding=SAME)}


@pytest.mark.parametrize("function", ["conv2d", "conv2d_dgrad"])
def test_choose__splits_the_sums_of_a_small_batch(function):
    with launch.recorded(132, 90):
        few, many = (registry.load("triton").choose(function, layer(n)) for n in (1, 64))
    tiles = -(-196 // few["rows"]) * (512 // few["columns"])
    assert few["splits"] > 1
    assert 66 < tiles * few["splits"] <= 132
    assert few.workspace_bytes == 4 * few["splits"] * 196 * 512
    assert many["splits"] == 1
    assert many.workspace_bytes == 0


@pytest.mark.parametrize(("version", "flat"), [("3.6.0", False), ("3.9.0", True)])
def test_conv2d__of_few_channels_is_ieee_on_every_compiler(monkeypatch, version, flat):
    monkeypatch.setattr(gpu.triton, "__version__", version)
    x, w, out = (np.ones(s, np.float32) for s in ((1, 8, 8, 3), (16, 3, 3, 3), (1, 6, 6, 16)))
    with gpu.recorded(148, 100) as launches:  # as for a GPU, but on arrays of the host
        conv.conv2d.unchecked(x, w, None, out, op=Conv2d())
    assert launches[0].constants["FLAT"] is flat
    monkeypatch.setattr(gpu, "architecture", lambda: 100)
    call = call_of("conv2d", x=x, w=w, b=None, op=Conv2d())
    machine("triton").verify(call)  # the way that is taken then is right, too
