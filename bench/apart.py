"""Networks in processes of their own, which can be ended: compiling cannot be interrupted.

A GPU's kernels are compiled when a network first runs, one after the other, for a second or more
each, and stay in the compilers' caches on disk. So while the acceptance program verifies, each of
its networks runs once in a process of its own (`Prepared`), and what these have compiled when they
are ended is there when the network is measured. And torch.compile takes minutes: `compiled_rows`
gives it so long and no longer. The process is this module, run with WHAT DEVICE and, in JSON,
further arguments of `prepare` or `compiled`. It ends with whoever started it, and with it end the
compilers that it has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from ..engine.device import open_device
from ..kernels.numpy import threads
from . import accuracy, network

Told = dict[str, Any]
ACCURACY = "accuracy"  # in the place of a network: the training run, cut to one epoch
SPARE = 2  # processors that are left to whoever waits


def _command(what: str, device: str, *told: Any) -> list[str]:
    return [sys.executable, "-P", "-m", __name__, what, device, *map(json.dumps, told)]


class Process:
    """A process of this module, the first of a group of its own."""

    def __init__(self, what: str, device: str, *told: Any, **streams: Any) -> None:
        """Start it; `streams` as `subprocess.Popen` takes them. Its input is open until `end`."""
        theirs, self._ours = os.pipe()
        try:
            self.popen = subprocess.Popen(
                _command(what, device, *told), stdin=theirs, process_group=0, **streams
            )
        except BaseException:
            os.close(self._ours)
            raise
        finally:
            os.close(theirs)

    def end(self) -> None:
        """End it, if it still runs, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        os.close(self._ours)
        for stream in (self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()
        self.popen.wait()


def end_with_starter() -> None:
    """From here on this process and its group end when the other end of its input is closed."""

    def watch() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class Prepared:
    """Processes that compile a program's kernels, as many as there are processors for."""

    def __init__(self, device: str, jobs: Sequence[tuple[Any, ...]]) -> None:
        """Start one for each of the first `jobs`: (architecture, batch, precision, mode)."""
        most = max(1, threads.cores() - SPARE)
        quiet = subprocess.DEVNULL
        # what they leave where they are ended (a training run, say) goes with this folder
        self._place = tempfile.TemporaryDirectory(
            prefix="cnnengine-prepared-", ignore_cleanup_errors=True
        )
        env = {**os.environ, "TMPDIR": self._place.name}
        self._processes = [
            Process("prepare", device, *job, stdout=quiet, stderr=quiet, env=env)
            for job in jobs[:most]
        ]

    def end(self) -> None:
        """End those that still run: from here on the machine is for measuring."""
        for process in self._processes:
            process.end()
        self._place.cleanup()


def prepare(device: str, arch: str, batch: int, precision: str, mode: str) -> None:
    """Run a network once. Whatever fails here is told by the stage that measures it."""
    opened = open_device(device)
    if arch == ACCURACY:
        config = accuracy.config_of(accuracy.MINI, opened, epochs=1)
        accuracy.train(config, accuracy.load(config.data), opened)
        return
    setting = network.make_setting(arch, batch, precision)
    with opened.session():
        getattr(network.OurSide(setting, opened, (mode,)), mode)()


def compiled(
    device: str, arch: str, batch: int, precision: str, mode: str, seconds: float
) -> list[Told]:
    """The row of a network with torch.compile among the ways."""
    return network.run(
        network.make_setting(arch, batch, precision), open_device(device), (mode,), against=True,
        compiled=True, seconds=seconds, rounds=None,
        note=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip


def compiled_rows(device: str, *told: Any, limit: float) -> Told | None:
    """`rows`: what `compiled` gives, by a process of its own; `why` there are none if it failed.

    None if it was ended after `limit` seconds.
    """
    pipe = subprocess.PIPE
    process = Process("compiled", device, *told, stdout=pipe, stderr=pipe, text=True)
    try:
        out, err = process.popen.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.end()
    if process.popen.returncode != 0:
        last = (err.strip().splitlines() or ["no message"])[-1]
        return {"rows": [], "why": f"no figure: {last}"}
    return {"rows": json.loads(out.splitlines()[-1]), "why": None}


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say."""
    what, device, *told = arguments
    given = [json.loads(word) for word in told]
    if what == "prepare":
        prepare(device, *given)
        return
    with contextlib.redirect_stdout(sys.stderr):  # torch's own words
        rows = compiled(device, *given)
    print(json.dumps(rows))


if __name__ == "__main__":
    end_with_starter()
    main(sys.argv[1:])
