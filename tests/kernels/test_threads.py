"""How the CPU backends share a call's chunks among threads."""

from __future__ import annotations

import os
import threading
import time

import pytest

from cnnengine.kernels.numpy import threads


@pytest.fixture(autouse=True)
def three():
    threads.set_threads(3)
    yield
    threads.set_threads(0)


def test_parallel__every_chunk_once_and_workers_apart():
    for chunks in (0, 1, 2, 3, 50):
        done: list[tuple[int, int]] = []
        threads.parallel(chunks, lambda chunk, worker, done=done: done.append((chunk, worker)))
        assert sorted(chunk for chunk, _ in done) == list(range(chunks))
        assert {worker for _, worker in done} <= set(range(min(3, max(1, chunks))))


def test_parallel__threads_really_work_together():
    """Each chunk waits for the other two: only three threads at once get through."""
    together = threading.Barrier(3)
    threads.parallel(3, lambda chunk, worker: together.wait(30) and None)
    assert not together.broken


@pytest.mark.parametrize("who", [0, 1])
def test_parallel__an_error_comes_after_all_threads_have_stopped(who):
    begun, done = threading.Barrier(3), []

    def task(chunk: int, worker: int) -> None:
        begun.wait(30)
        if worker == who:
            raise ValueError("a chunk failed")
        time.sleep(0.02)
        done.append(worker)

    with pytest.raises(ValueError, match="a chunk failed"):
        threads.parallel(3, task)
    assert sorted([*done, who]) == [0, 1, 2]


def test_parallel__within_itself_and_from_several_threads():
    done: list[tuple[int, int, int]] = []

    def call(caller: int) -> None:
        def outer(chunk: int, _: int) -> None:
            threads.parallel(4, lambda inner, _: done.append((caller, chunk, inner)))

        threads.parallel(5, outer)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert sorted(done) == [(i, j, k) for i in range(4) for j in range(5) for k in range(4)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_parallel__works_in_a_forked_process():
    threads.parallel(3, lambda chunk, worker: None)
    child = os.fork()
    if child == 0:
        together, code = threading.Barrier(3), 1
        try:
            threads.parallel(3, lambda chunk, worker: together.wait(30) and None)
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
