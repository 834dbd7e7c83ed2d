"""The CPU backend's threads: Python threads over chunks of work, one BLAS thread in each.

NumPy releases the interpreter lock inside its loops and its matrix products, so plain threads
scale; a BLAS that splits every small product over its own threads does not. Work is cut into
chunks by its shape alone, never by the number of threads, and reductions add the chunks in order:
the bits of a result do not depend on how many threads there are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from threadpoolctl import ThreadpoolController

_count = 0


def cores() -> int:
    """The number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_threads() -> int:
    """How many threads `parallel` uses; all cores unless `set_threads` said otherwise."""
    return _count or cores()


def set_threads(count: int) -> None:
    """Use `count` threads from now on; 0: one a core."""
    global _count
    _count = count


class _Job:
    """One thread's share of a call. Whoever takes it first runs it or lets it lie."""

    def __init__(self, work: Callable[[int], None], worker: int) -> None:
        self._work, self._worker = work, worker
        self._untaken, self._running = threading.Lock(), threading.Lock()
        self._running.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the work, unless the caller came first."""
        if not self._untaken.acquire(blocking=False):
            return
        try:
            self._work(self._worker)
        except BaseException as error:
            self.error = error
        finally:
            self._running.release()

    def end(self) -> None:
        """Wait until the work is done; if nobody has begun it, nobody will."""
        if not self._untaken.acquire(blocking=False):
            self._running.acquire()


_jobs: SimpleQueue[_Job] = SimpleQueue()
_started: list[threading.Thread] = []


def _serve(jobs: SimpleQueue[_Job]) -> None:
    while True:
        jobs.get().run()


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _jobs
    _jobs = SimpleQueue()
    _started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def parallel(chunks: int, task: Callable[[int, int], None]) -> None:
    """Run `task(chunk, worker)` for every chunk; `worker` counts threads from 0 (for scratch).

    The calling thread works too, and waits for no thread that wakes when all chunks are taken. The
    first exception is raised after all threads have stopped.
    """
    count = min(get_threads(), chunks)
    if count <= 1:
        for chunk in range(chunks):
            task(chunk, 0)
        return
    tickets = itertools.count()

    def drain(worker: int) -> None:
        while (chunk := next(tickets)) < chunks:
            task(chunk, worker)

    # An executor's futures took 20 to 40 us more a call than this queue does.
    while len(_started) < count - 1:
        name = f"cnnengine-numpy-{len(_started)}"
        _started.append(threading.Thread(target=_serve, args=(_jobs,), name=name, daemon=True))
        _started[-1].start()
    jobs = [_Job(drain, worker) for worker in range(1, count)]
    for job in jobs:
        _jobs.put(job)
    try:
        drain(0)
    finally:
        for job in jobs:
            job.end()
    for job in jobs:
        if job.error is not None:
            raise job.error


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextlib.contextmanager
def session() -> Iterator[None]:
    """While open, every BLAS call uses one thread; the setting before is restored after."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
