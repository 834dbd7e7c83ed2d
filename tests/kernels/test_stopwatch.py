"""The stopwatch for GPUs, on a CuPy that only writes down what it is asked."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace


def test_stopwatch__empties_the_cache_then_times_the_call_alone(monkeypatch):
    done = []

    def event():
        number = sum(isinstance(one, int) for one in done)
        done.append(number)
        return SimpleNamespace(
            record=lambda: done.append(f"record {number}"),
            synchronize=lambda: done.append(f"wait for {number}"),
        )

    cold = SimpleNamespace(fill=lambda value: done.append("fill"))
    cuda = SimpleNamespace(Event=event, get_elapsed_time=lambda begun, ended: 0.25)
    fake = SimpleNamespace(empty=lambda size, dtype: cold, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delitem(sys.modules, "cnnengine.kernels.stopwatch", raising=False)
    stopwatch = importlib.import_module("cnnengine.kernels.stopwatch")
    try:
        assert stopwatch.Stopwatch()(lambda: done.append("call")) == 250.0
    finally:
        del sys.modules["cnnengine.kernels.stopwatch"]
    assert [one for one in done if isinstance(one, str)] == [
        "fill", "record 0", "call", "record 1", "wait for 1",
    ]  # fmt: skip
