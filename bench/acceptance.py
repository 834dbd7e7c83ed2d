"""All measurements of a machine in one go, resumable, inside a box of time.

    python -m cnnengine.bench.acceptance --out DIR --minutes 8

In this order: ceilings, verify, single kernels (those known to be slowest against the other side
first), whole networks, the first steps of a training run beside the CPU's, and the short table.
Each figure is written to DIR/log.jsonl as it is made; the same command goes on where it stopped.
At the end DIR holds results.jsonl (as `cnnengine bench` writes it), report.html and table.txt.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.device import Device, open_device
from ..engine.errors import InputError, KernelError
from . import kernels, machine, network, page, readme, report, roofline, suites, work
from .log import Log
from .verify import suite as verify

Told = dict[str, Any]
KERNELS, NETWORKS = 0.6, 0.85  # shares of the time after which that stage ends
STEPS = 20  # of training, compared with the CPU's


@dataclass(frozen=True)
class Job:
    """One row of kernels: a layer of a suite, a pass, a batch size, a precision."""

    suite: str
    layer: suites.Layer
    name: str
    batch: int
    precision: str

    @property
    def key(self) -> str:
        """As the row is called in a result."""
        told = "" if self.precision == "fp32" else f"/{self.precision}"
        return f"{self.suite}/{self.layer}/{self.name}/batch {self.batch}{told}"


@dataclass(frozen=True)
class Program:
    """What is measured on a kind of device."""

    suites: tuple[str, ...]
    passes: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    networks: tuple[tuple[str, int, str], ...]
    training: tuple[str, int]


GPU = Program(
    tuple(name for name in suites.SUITES if name != "vgg-small"),
    ("forward+relu", "dgrad", "wgrad", "forward+relu+pool", "max_pool"), (64, 8, 1),
    ("bf16", "tf32x3", "tf32"),
    (("vgg-small", 256, "bf16"), ("vgg16", 64, "bf16"), ("vgg-small", 256, "tf32")),
    ("vgg-small", 256),
)  # fmt: skip
CPU = Program(
    ("vgg-small", "odd"), ("forward+relu", "dgrad", "wgrad"), (1,), ("fp32",),
    (("lenet", 8, "fp32"), ("vgg-small", 16, "fp32")), ("lenet", 8),
)  # fmt: skip


def jobs(program: Program, known: dict[str, float]) -> list[Job]:
    """Every row of kernels: known ones by their ratio, worst first, then the others in turn."""
    made = [
        Job(name, layer, one, batch, precision)
        for precision in program.precisions
        for batch in program.batches
        for one in program.passes
        for name in program.suites
        for layer in suites.get_suite(name).layers
        if "pool" not in one or layer.pool is not None
    ]
    return sorted(made, key=lambda job: known.get(job.key, math.inf))


class Acceptance:
    """One run of the program on a device."""

    def __init__(
        self, device: Device, folder: Path, minutes: float, program: Program | None = None,
        note: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Open the folder. Raises: InputError."""
        self.device, self.folder, self.note = device, folder, note
        is_gpu = device.name.startswith("cuda")
        self.program = program or (GPU if is_gpu else CPU)
        self.seconds = 0.15 if is_gpu else 0.05  # for each candidate of a row
        self.against = machine.torch_missing() is None
        self._clock, self._begun, self._minutes = clock, clock(), minutes
        self.machine = machine.describe()
        if is_gpu:
            self.machine["gpu"] = machine.describe_gpu(device)
        identity = {"device": device.name, "versions": machine.versions()}
        if is_gpu:
            identity["gpu"] = self.machine["gpu"]["name"]
        self.log = Log(folder, identity)

    def left(self, share: float = 1.0) -> float:
        """Seconds until that share of the time is over."""
        return share * 60 * self._minutes - (self._clock() - self._begun)

    def run(self) -> int:
        """All stages; the exit code: 1 if a kernel was wrong."""
        self.ceilings()
        self.verify()
        self.kernels()
        self.networks()
        self.training()
        return self.finish()

    def ceilings(self) -> None:
        """What the machine can do at most."""
        if self.log.told("ceilings"):
            return
        if self.device.name.startswith("cuda"):
            kinds = [work.KINDS[name] for name in self.program.precisions]
            made = roofline.measure_gpu(self.device, kinds, against=self.against)
        else:
            made = roofline.measure_host()
        self.log.add("ceilings", "ceilings", made.told())

    def verify(self) -> None:
        """The quick suite, function by function; every failed call is kept."""
        done = self.log.told("verify")
        chosen = verify.get_suite("quick", self.device.name)
        for function in verify.pick_functions(None):
            if function in done:
                continue
            if self.left(KERNELS) <= 0:
                self.note("verify: the time is over")
                return
            rows = list(verify.run(self.device, [function], chosen, seed=0))
            failed = [row for row in rows if row["state"] == "failed"]
            self.log.add("verify", function, {"counts": verify.summary(rows), "failed": failed})
            for row in failed:
                self.note(f"FAILED {function} [{row['case']}] on {row['backend']}: {row['told']}")

    def kernels(self) -> None:
        """Rows of single kernels until their share of the time is over."""
        done = self.log.told("kernels")
        told = self.log.told("ceilings")["ceilings"]
        ceilings = roofline.Ceilings(told["copy"], told["gemm"])
        for job in jobs(self.program, known_ratios(readme.ROOT / "bench" / "results")):
            if job.key in done:
                continue
            if self.left(KERNELS) <= 0:
                self.note("kernels: the time is over")
                return
            made = work.make(job.layer, job.name, job.batch, job.precision)
            assert made is not None
            row = kernels.measure_row(
                job.suite, made, self.device, ceilings=ceilings, seconds=self.seconds,
                rounds=None, against=self.against, compiled=False,
            )  # fmt: skip
            self.log.add("kernels", job.key, row)
            ratio = f"{row['ratio']:.2f}x" if row.get("ratio") else ", ".join(row["failed"])
            self.note(f"{job.key}: {ratio}")

    def networks(self) -> None:
        """Training steps and inference of whole networks."""
        done = self.log.told("networks")
        for arch, batch, precision in self.program.networks:
            key = f"{arch}/batch {batch}/{precision}"
            if key in done or self.left(NETWORKS) <= 0:
                continue
            rows = network.run(
                network.make_setting(arch, batch, precision), self.device, network.MODES,
                against=self.against, compiled=False, seconds=10 * self.seconds, rounds=None,
                note=self.note,
            )  # fmt: skip
            self.log.add("networks", key, rows)
            self.note(f"{key}: {', '.join(_ratio(row) for row in rows)}")

    def training(self) -> None:
        """The losses of the first steps on one batch, on this device and in NumPy on the CPU."""
        if self.log.told("training") or self.left() <= 0:
            return
        setting = network.make_setting(*self.program.training)
        losses = [
            list(_losses(setting, device)) for device in (self.device, open_device("cpu", "numpy"))
        ]
        apart = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
        told = {"arch": setting.arch, "batch": setting.batch, "losses": losses, "apart": apart,
                "ok": apart <= network.GRADIENT_RMS}  # fmt: skip
        self.log.add("training", "training", told)

    def finish(self) -> int:
        """Write the results and the short table."""
        rows = {
            "kernels": list(self.log.told("kernels").values()),
            "network": [row for rows in self.log.told("networks").values() for row in rows],
        }
        results = [
            report.document(
                kind, found, machine=self.machine, versions=machine.versions(), notes=[],
                settings={"device": self.device.name, "suite": "acceptance", "threads": None,
                          "batches": list(self.program.batches)},
                ceilings=self.log.told("ceilings")["ceilings"],
            )
            for kind, found in rows.items() if found
        ]  # fmt: skip
        file = self.folder / "results.jsonl"
        file.write_text("".join(json.dumps(result) + "\n" for result in results))
        page.write(self.folder / "report.html", results)
        lines = list(self._table(rows))
        (self.folder / "table.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            self.note(line)
        return int(any("WRONG" in line for line in lines))

    def _table(self, rows: dict[str, list[Told]]) -> Iterator[str]:
        verified = self.log.told("verify")
        counts = {s: sum(t["counts"][s] for t in verified.values()) for s in ("passed", "failed")}
        wrong = " WRONG" if counts["failed"] else ""
        yield f"verify: {counts['passed']} passed, {counts['failed']} failed{wrong}"
        kernel_rows = rows["kernels"]
        for name in work.PASSES:
            told = report.summary([row for row in kernel_rows if row["pass"] == name])
            if told:
                yield f"{name}: {told}"
        for row in rows["network"]:
            yield f"{row['key']}: {_ratio(row)}"
        for row in (*kernel_rows, *rows["network"]):
            if row["failed"]:
                yield f"{row['key']}: WRONG {'; '.join(row['failed'])}"
        for told in self.log.told("training").values():
            verdict = "" if told["ok"] else " WRONG"
            yield (f"training {told['arch']}: {STEPS} losses within {told['apart']:.1e} of the "
                   f"CPU's{verdict}")  # fmt: skip


def _ratio(row: Told) -> str:
    if not row.get("ours"):
        return f"{row['mode']} no figure"
    told = f"{row['mode']} {row['images_per_second']:.0f} images/s"
    return f"{told} ({row['ratio']:.2f}x)" if row.get("ratio") else told


def _losses(setting: network.Setting, device: Device) -> Iterator[float]:
    side = network.OurSide(setting, device, ("train",))
    with device.session():
        for _ in range(STEPS):
            yield side.train()


def known_ratios(folder: Path) -> dict[str, float]:
    """Row → its latest ratio in the results that are kept."""
    found: dict[str, float] = {}
    for file in sorted(folder.rglob("*.jsonl")) if folder.exists() else ():
        for result in report.read(file):
            rows = [row for row in result["rows"] if row.get("ratio")]
            found |= {row["key"]: row["ratio"] for row in rows}
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser("python -m cnnengine.bench.acceptance", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    told = parser.parse_args(arguments)
    try:
        if not told.minutes > 0:
            raise InputError(f"--minutes {told.minutes}: must be more than 0")
        return Acceptance(open_device(told.device), told.out, told.minutes).run()
    except (InputError, KernelError) as error:
        print(f"acceptance: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
