"""Triton's convolutions where they part ways: many channels and filters, many taps, long sums."""

from __future__ import annotations

import pytest
from cases import conv as cases
from cases.draw import Draw
from machine import machine

from cnnengine.kernels import registry
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.kernels.triton import launch

SAME = (1, 1, 1, 1)

# x (N, H, W, C), w (K, R, S, C / groups), parameters: at least 16 channels and filters
DEEP = {
    "uneven": ((2, 7, 6, 33), (20, 3, 3, 33), Conv2d((2, 1), (1, 2, 0, 1))),
    "dilated": ((1, 9, 9, 16), (17, 3, 2, 16), Conv2d((2, 3), (2, 1, 1, 0), dilation=(2, 3))),
    "more_taps_than_bits": ((1, 5, 6, 16), (16, 6, 6, 16), Conv2d(padding=(2, 3, 3, 2))),
    "edge": ((1, 5, 4, 17), (16, 3, 3, 17), Conv2d((1, 1), SAME, "edge")),
    "groups": ((1, 5, 6, 34), (36, 3, 2, 17), Conv2d(padding=SAME, groups=2)),
    "whole_steps": ((2, 8, 8, 64), (32, 3, 3, 64), Conv2d(padding=SAME)),
}


@pytest.mark.parametrize("name", DEEP)
def test_conv__many_channels(name):
    dtype = "float16" if name == "whole_steps" else "float32"
    for call in cases.calls(Draw(f"deep:{name}"), *DEEP[name], dtype):
        assert machine("triton").verify(call)


def test_conv__many_channels_with_offsets_of_64_bits(monkeypatch):
    monkeypatch.setattr(launch, "LARGE", 1)
    for call in cases.calls(Draw("deep:long"), *DEEP["groups"], "float32"):
        assert machine("triton").verify(call)
