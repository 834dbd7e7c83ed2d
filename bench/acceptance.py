"""All measurements of a machine in one go, resumable, inside a box of time.

    python -m cnnengine.bench.acceptance --out DIR --minutes 8

In this order: ceilings, a brief verify, single kernels (those known to be slowest against the other
side first, then some of every suite and pass), whole networks, the first steps of a training run
beside the CPU's; then what time is left goes to the functions and kernels that were not reached,
and the short table ends it. Each figure is written to DIR/log.jsonl as it is made, and the same
command goes on where it stopped, behind what failed. At the end DIR holds results.jsonl (as
`cnnengine bench` writes it), report.html and table.txt.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.device import Device, open_device
from ..engine.energy import Meter
from ..engine.errors import InputError, KernelError
from ..kernels.errors import BackendError
from . import kernels, machine, network, page, readme, report, roofline, short_table, work
from .log import Log
from .program import CPU, GPU, Job, Program, jobs, known_ratios, network_key
from .verify import suite as verify

Told = dict[str, Any]
VERIFY, KERNELS, NETWORKS = 0.25, 0.6, 0.85  # shares of the time after which that stage ends
BRIEF = {"nasty": 3, "real": 2}  # shapes of a function: each new one compiles for a second or more
STEPS = 20  # of training, compared with the CPU's


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
        """All stages; the exit code: 1 if a kernel was wrong.

        Raises: BackendError if the device does nothing more; what is known is written all the same.
        """
        for name, stage in (
            ("ceilings", self.ceilings),
            ("verify", lambda: self.verify(VERIFY)),
            ("kernels", lambda: self.kernels(KERNELS)),
            ("networks", self.networks),
            ("training", self.training),
            ("verify", lambda: self.verify(1.0)),
            ("kernels", lambda: self.kernels(1.0)),
        ):
            try:
                self._stage(name, stage)
            except BackendError:
                if self.log.told("ceilings"):
                    self.finish()
                raise
        return self.finish()

    def _stage(self, name: str, stage: Callable[[], None]) -> None:
        """One stage, and the energy that it took added to what it took before."""
        before, meter = len(self.log.lines), Meter(self.device)
        try:
            stage()
        finally:
            if len(self.log.lines) > before:
                used, old = meter.read(), self.log.told("energy").get(name, {"wh": 0.0})
                known = used.wh is not None and old["wh"] is not None
                wh = old["wh"] + used.wh if known else None
                self.log.add("energy", name, {"wh": wh, "label": used.label})

    def _kept(
        self, stage: str, key: str, make: Callable[[], Any], dead: Callable[[str], Any]
    ) -> Any:
        """Write down what `make` makes, or if it raises, what `dead` makes of the reason.

        Raises: BackendError if the device does nothing more.
        """
        try:
            made = make()
        except Exception as error:  # whatever one figure dies of, the others are wanted
            told = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            made = dead(told)
            if not self.device.works():
                self.log.add(stage, key, made)
                raise BackendError(
                    f"{key}: {self.device.name} does nothing more: {told}; the same command goes "
                    "on behind that"
                ) from error
        self.log.add(stage, key, made)
        return made

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

    def verify(self, share: float) -> None:
        """A brief suite, function by function, products first; every failed call is kept."""
        wanted = verify.pick_functions(None)
        for function in sorted(wanted, key=lambda name: name not in verify.PRODUCTS):
            done = self.log.told("verify").get(function)
            if done and not done["counts"]["not reached"]:
                continue
            if self.left(share) <= 0:
                self.note("verify: the time is over")
                return
            made = self._kept("verify", function, functools.partial(self._verify, function, share),
                              _dead_call)  # fmt: skip
            for row in made["failed"]:
                self.note(f"FAILED {function} [{row['case']}] on {row['backend']}: {row['told']}")

    def _verify(self, function: str, share: float) -> Told:
        chosen = replace(verify.get_suite("quick", self.device.name), **BRIEF)
        rows = list(
            verify.run(self.device, [function], chosen, seed=0, until=lambda: self.left(share))
        )
        failed = [row for row in rows if row["state"] == "failed"]
        return {"counts": verify.summary(rows), "failed": failed}

    def kernels(self, share: float) -> None:
        """Rows of single kernels until their share of the time is over."""
        done = self.log.told("kernels")
        for job in jobs(self.program, known_ratios(readme.ROOT / "bench" / "results")):
            if job.key in done:
                continue
            if self.left(share) <= 0:
                self.note("kernels: the time is over")
                return
            made = work.make(job.layer, job.name, job.batch, job.precision)
            assert made is not None
            row = self._kept("kernels", job.key, functools.partial(self._measure, job, made),
                             functools.partial(_dead_row, job, made))  # fmt: skip
            ratio = f"{row['ratio']:.2f}x" if row.get("ratio") else ", ".join(row["failed"])
            self.note(f"{job.key}: {ratio}")

    def _measure(self, job: Job, made: work.Work) -> Told:
        told = self.log.told("ceilings")["ceilings"]
        return kernels.measure_row(
            job.suite, made, self.device, ceilings=roofline.Ceilings(told["copy"], told["gemm"]),
            seconds=self.seconds, rounds=None, against=self.against, compiled=False,
        )  # fmt: skip

    def networks(self) -> None:
        """Training steps and inference of whole networks."""
        done = self.log.told("networks")
        for wanted in self.program.networks:
            key = network_key(wanted)
            if key in done or self.left(NETWORKS) <= 0:
                continue
            rows = self._kept(
                "networks", key, functools.partial(self._network, *wanted),
                functools.partial(_dead_network, *wanted),
            )  # fmt: skip
            self.note(f"{key}: {', '.join(map(short_table.ratio, rows))}")

    def _network(self, arch: str, batch: int, precision: str) -> list[Told]:
        return network.run(
            network.make_setting(arch, batch, precision), self.device, network.MODES,
            against=self.against, compiled=False, seconds=10 * self.seconds, rounds=None,
            note=self.note,
        )  # fmt: skip

    def training(self) -> None:
        """The losses of the first steps on one batch, on this device and in NumPy on the CPU."""
        if self.log.told("training") or self.left() <= 0:
            return
        arch, batch = self.program.training
        told = {"arch": arch, "batch": batch, "ok": False}
        self._kept("training", "training", lambda: told | self._train(arch, batch),
                   lambda why: told | {"failed": why})  # fmt: skip

    def _train(self, arch: str, batch: int) -> Told:
        setting = network.make_setting(arch, batch)
        places = self.device, open_device("cpu", "numpy")
        losses = [list(_losses(setting, device)) for device in places]
        apart = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
        return {"losses": losses, "apart": apart, "ok": apart <= network.GRADIENT_RMS}

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
        lines = list(short_table.lines(self.log, self.program))
        (self.folder / "table.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            self.note(line)
        return int(any("WRONG" in line for line in lines))


def _dead_call(told: str) -> Told:
    row = {"state": "failed", "case": "-", "backend": "-", "told": told}
    return {"counts": verify.summary([row]), "failed": [row]}


def _dead_row(job: Job, made: work.Work, told: str) -> Told:
    return {**kernels.row_of(made, {}, []), "key": job.key, "failed": [told]}


def _dead_network(arch: str, batch: int, precision: str, told: str) -> list[Told]:
    kind = "" if precision == "fp32" else f"/{precision}"
    return [
        {
            "key": f"{arch}/{mode}/batch {batch}{kind}", "precision": precision, "arch": arch,
            "mode": mode, "batch": batch, "backends": {}, "reference": None, "differences": {},
            "failed": [told],
        }
        for mode in network.MODES
    ]  # fmt: skip


def _losses(setting: network.Setting, device: Device) -> Iterator[float]:
    side = network.OurSide(setting, device, ("train",))
    with device.session():
        for _ in range(STEPS):
            yield side.train()


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
