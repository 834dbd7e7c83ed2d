"""Peak memory of a side: a fresh process that imports, builds, and runs a few steps or passes.

Two figures, both of resident memory as Linux counts it (/proc/self/status):
peak: the most that the whole process held while it ran them (VmHWM, set back once the network
stood and had run once, which is when torch.compile compiles), interpreter and libraries included;
growth: that peak less what was resident (VmRSS) after a tiny network had run in the same mode and
was gone, so that libraries which load when first used do not count: about what the network, its
optimizer, activations and scratch memory take (the arrays that both sides start from are gone).

getrusage's peak is of no use here: it also counts what the parent process held when it forked. The
process is this module, run with SIDE ARCH BATCH MODE THREADS PRECISION.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..engine.device import open_device
from ..engine.errors import InputError
from . import machine, network

STEPS = 5
TINY = ("lenet", 1)  # network and batch of the first run
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> int:
    """VmHWM (peak) or VmRSS (now) of this process in bytes."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure_memory(
    side: str, arch: str, batch: int, mode: str, count: int, precision: str = "fp32"
) -> dict[str, int]:
    """peak_bytes and growth_bytes of `side` ("cnnengine", "torch contiguous", …).

    Raises: InputError where /proc does not tell.
    """
    if not STATUS.exists():
        raise InputError(f"--memory needs Linux: {STATUS} is not here")
    told = [side, arch, str(batch), mode, str(count), precision]
    command = [sys.executable, "-P", "-m", __name__, *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"--memory: the process of {side} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _run(
    side: str, arch: str, batch: int, precision: str, mode: str, built: Callable[[], object]
) -> None:
    """Build the side, do one step or pass, call `built`, and do some more."""
    setting = network.make_setting(arch, batch, precision)
    session = contextlib.nullcontext()
    if side == network.OurSide.name:
        device = open_device("cpu")
        runner = network.OurSide(setting, device, (mode,))
        session = device.session()
    else:
        from .torch_side import TorchSide

        runner = TorchSide(setting, mode, side.removeprefix("torch "))
    setting.weights.clear()  # the side has its own
    with session:
        getattr(runner, mode)()
        built()
        for _ in range(STEPS):
            getattr(runner, mode)()


def _main(side: str, arch: str, batch: int, mode: str, count: int, precision: str) -> None:
    machine.set_threads(count, torch=side != network.OurSide.name)
    _run(side, *TINY, precision, mode, lambda: None)
    gc.collect()
    base = _status("VmRSS")
    _run(
        side, arch, batch, precision, mode, lambda: CLEAR.write_text("5")
    )  # 5: the peak begins anew
    peak = _status("VmHWM")
    print(json.dumps({"peak_bytes": peak, "growth_bytes": peak - base}))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), sys.argv[6])
