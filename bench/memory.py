"""Peak memory of a side: a fresh process that imports, builds, and runs a few steps or passes.

Two figures, both of resident memory as Linux counts it (/proc/self/status):
peak: the most that the whole process ever held (VmHWM), interpreter and libraries included;
growth: that peak less what was resident once everything was imported (VmRSS), so about what the
network, its activations and the libraries' scratch memory take.

The peak is that of the process image, not getrusage's, which would also count what the parent
process held when it forked. The process is this module, run with SIDE ARCH BATCH MODE THREADS.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ..engine.device import open_device
from ..engine.errors import InputError
from . import machine

STEPS = 5
STATUS = Path("/proc/self/status")


def _status() -> dict[str, int]:
    """VmHWM and VmRSS of this process in bytes."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[0] in _FIELDS}


_FIELDS = ("VmHWM:", "VmRSS:")


def measure_memory(side: str, arch: str, batch: int, mode: str, count: int) -> dict[str, int]:
    """peak_bytes and growth_bytes of `side` ("cnnengine", "torch contiguous", …).

    Raises: InputError where /proc does not tell.
    """
    if not STATUS.exists():
        raise InputError(f"--memory needs Linux: {STATUS} is not here")
    command = [sys.executable, "-P", "-m", __name__, side, arch, str(batch), mode, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"--memory: the process of {side} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(side: str, arch: str, batch: int, mode: str, count: int) -> None:
    from . import network

    if side != network.OurSide.name:
        from .torch_side import TorchSide
    machine.set_threads(count, torch=side != network.OurSide.name)
    base = _status()["VmRSS"]
    setting = network.make_setting(arch, batch)
    if side == network.OurSide.name:
        runner = network.OurSide(setting, open_device("cpu"), (mode,))
        session = runner.device.session()
    else:
        import contextlib

        runner = TorchSide(setting, mode, side.removeprefix("torch "))
        session = contextlib.nullcontext()
    with session:
        for _ in range(STEPS):
            getattr(runner, mode)()
    peak = _status()["VmHWM"]
    print(json.dumps({"peak_bytes": peak, "growth_bytes": peak - base}))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
