"""The stopwatch for GPUs, on a CuPy that only writes down what it is asked."""

from __future__ import annotations

from types import SimpleNamespace

from cnnengine.kernels import stopwatch


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
    monkeypatch.setattr(stopwatch, "cupy", lambda: fake)
    assert stopwatch.Stopwatch()(lambda: done.append("call")) == 250.0
    assert [one for one in done if isinstance(one, str)] == [
        *["fill"] * stopwatch.WRITES, "record 0", "call", "record 1", "wait for 1",
    ]  # fmt: skip
