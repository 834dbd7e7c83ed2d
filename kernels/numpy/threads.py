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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

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


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="cnnengine-numpy")


def parallel(chunks: int, task: Callable[[int, int], None]) -> None:
    """Run `task(chunk, worker)` for every chunk; `worker` counts threads from 0 (for scratch).

    The calling thread works too. The first exception is raised after all threads have stopped.
    """
    threads = min(get_threads(), chunks)
    if threads <= 1:
        for chunk in range(chunks):
            task(chunk, 0)
        return
    tickets = itertools.count()

    def drain(worker: int) -> None:
        while (chunk := next(tickets)) < chunks:
            task(chunk, worker)

    futures = [_pool(threads - 1).submit(drain, worker) for worker in range(1, threads)]
    try:
        drain(0)
    finally:
        for future in futures:
            future.exception()
    for future in futures:
        future.result()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextlib.contextmanager
def session() -> Iterator[None]:
    """While open, every BLAS call uses one thread; the setting before is restored after."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
