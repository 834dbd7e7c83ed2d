"""Peak memory of a side: a fresh process that imports, builds, and runs a few steps or passes.

Two figures. On a CPU they are of resident memory as Linux counts it (/proc/self/status):
peak: the most that the whole process held while it ran them (VmHWM, set back once the network
stood and had run once, which is when torch.compile compiles), interpreter and libraries included;
growth: that peak less what was resident (VmRSS) after a tiny network had run in the same mode and
was gone, so that libraries which load when first used do not count: about what the network, its
optimizer, activations and scratch memory take (the arrays that both sides start from are gone).
On a GPU they are of its own memory (cudaMemGetInfo), counted from the process's first use of it.
Both sides keep there what they once took, so what is taken at the end is the peak; what other
processes take or free meanwhile counts, too.

getrusage's peak is of no use here: it also counts what the parent process held when it forked. The
process is this module, run with SIDE ARCH BATCH MODE THREADS PRECISION DEVICE.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from pathlib import Path

from ..engine.device import open_device
from ..engine.errors import InputError
from ..kernels import cuda
from . import machine, network

STEPS = 5
TINY = ("lenet", 1)  # network and batch of the first run
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> int:
    """VmHWM (peak) or VmRSS (now) of this process in bytes."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure_memory(
    side: str, arch: str, batch: int, mode: str, count: int, precision: str = "fp32",
    device: str = "cpu",
) -> dict[str, int]:  # fmt: skip
    """peak_bytes and growth_bytes of `side` ("cnnengine", "torch contiguous", …).

    Raises: InputError where /proc does not tell.
    """
    if device == "cpu" and not STATUS.exists():
        raise InputError(f"--memory needs Linux: {STATUS} is not here")
    told = [side, arch, str(batch), mode, str(count), precision, device]
    command = [sys.executable, "-P", "-m", __name__, *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"--memory: the process of {side} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


class _Resident:
    """The resident memory of this process, in bytes."""

    def now(self) -> int:
        return _status("VmRSS")

    def begin(self) -> None:
        """The peak begins anew."""
        CLEAR.write_text("5")

    def peak(self) -> int:
        return _status("VmHWM")


class _OnDevice:
    """The memory of a GPU that was taken since this was made, in bytes."""

    def __init__(self, index: int) -> None:
        self._before = 0
        cuda.Gpu(index)  # what CUDA itself takes is taken now
        self._before = self.now()

    def now(self) -> int:
        free, total = cuda.cupy().cuda.runtime.memGetInfo()
        return total - free - self._before

    def begin(self) -> None:
        """Nothing: what was taken is not given back."""

    peak = now


def _run(
    side: str, arch: str, batch: int, precision: str, mode: str, device: str,
    memory: _Resident | _OnDevice,
) -> int:  # fmt: skip
    """Build the side, do one step or pass, and some more; their peak."""
    setting = network.make_setting(arch, batch, precision)
    session = contextlib.nullcontext()
    if side == network.OurSide.name:
        opened = open_device(device)
        runner = network.OurSide(setting, opened, (mode,))
        session = opened.session()
    else:
        from .torch_side import TorchSide

        place = "cpu" if device == "cpu" else "cuda"
        runner = TorchSide(setting, mode, side.removeprefix("torch "), place=place)
    setting.weights.clear()  # the side has its own
    with session:
        getattr(runner, mode)()
        memory.begin()
        for _ in range(STEPS):
            getattr(runner, mode)()
        return memory.peak()


def _main(
    side: str, arch: str, batch: int, mode: str, count: int, precision: str, device: str
) -> None:
    machine.set_threads(count, torch=side != network.OurSide.name)
    memory = _Resident() if device == "cpu" else _OnDevice(int(device.partition(":")[2] or 0))
    _run(side, *TINY, precision, mode, device, memory)
    gc.collect()
    base = memory.now()
    peak = _run(side, arch, batch, precision, mode, device, memory)
    print(json.dumps({"peak_bytes": peak, "growth_bytes": peak - base}))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), *sys.argv[6:])
