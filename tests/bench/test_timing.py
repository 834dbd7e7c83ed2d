from __future__ import annotations

import contextlib

import numpy as np
import pytest

from cnnengine.bench import timing
from cnnengine.bench.timing import Candidate, Timing, measure


def test_timing__is_median_and_quartiles():
    samples = [(5.0, 9.0), (1.0, 8.0), (2.0, 7.0), (4.0, 6.0), (3.0, 5.0)]
    assert Timing.of(samples, 7) == Timing(3.0, 2.0, 4.0, 1.0, 7.0, 5, 7)


def test_measure__candidates_take_turns_and_each_begins_a_round(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(timing, "warm", lambda candidate, seconds: 1.0)  # one call a turn, no lead
    order = []
    names = ("a", "b", "c")
    candidates = [Candidate(n, lambda n=n: order.append(n)) for n in names]
    timings = measure(candidates, rounds=3)
    assert "".join(order) == "abcbcacab"
    assert [(t.rounds, t.calls) for t in timings.values()] == [(3, 1)] * 3


def test_measure__calls_run_inside_the_candidates_session():
    opened = []

    @contextlib.contextmanager
    def session():
        opened.append(True)
        yield
        opened.pop()

    def call():
        assert opened

    measure([Candidate("a", call, session)], seconds=0.001)
    assert not opened


def test_measure__finds_which_is_slower():
    data = np.ones(200_000)
    work = {"short": lambda: data.sum(), "long": lambda: [data.sum() for _ in range(8)]}
    timings = measure([Candidate(n, c) for n, c in work.items()], seconds=0.1)
    assert 4 < timings["long"].best / timings["short"].best < 16
    assert timings["short"].calls > 1


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (0.5, 100)])
def test_measure__keeps_to_a_number_of_rounds(monkeypatch, seconds, rounds):
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0)
    monkeypatch.setattr(timing, "warm", lambda candidate, budget: 1e-6)
    assert measure([Candidate("a", lambda: None)], seconds=seconds)["a"].rounds == rounds


class Clock:
    """A machine whose other threads run until `spin_until`; time passes in `sleep` alone."""

    def __init__(self, spin_until):
        self.now = 0.0
        self.spin_until = spin_until

    def perf_counter(self):
        return self.now

    def process_time(self):
        return min(self.now, self.spin_until)

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(("spin_until", "left"), [(0.0, 0.001), (0.03, 0.031), (9.0, 0.1)])
def test_settle__waits_until_threads_sleep_but_not_for_ever(monkeypatch, spin_until, left):
    clock = Clock(spin_until)
    monkeypatch.setattr(timing, "time", clock)
    timing.settle()
    assert clock.now == pytest.approx(left, abs=0.0015)
