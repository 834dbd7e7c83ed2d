"""All measurements of a machine in one go, resumable, inside a box of time.

    python -m cnnengine.bench.acceptance --out DIR --minutes 8

In this order: ceilings, a brief verify, single kernels (those known to be slowest against the other
side first, then some of every suite and pass), whole networks, the accuracy that training reaches
and its first steps beside the CPU's, networks beside torch.compile; then what time is left goes to
the functions and kernels that were not reached, and the short table ends it, on a GPU with what
became of each target (`targets`). Each figure is written to DIR/log.jsonl as it is made, and the
same command goes on where it stopped, behind what failed. At the end DIR holds results.jsonl (as
`cnnengine bench` writes it), report.html and table.txt. With --data fashion-mnist training on all
of its images is part of it (--data-dir DIR: its files, if `cnnengine data fetch` has not brought
them).
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.config import TrainConfig
from ..engine.data import Splits, load
from ..engine.device import Device, open_device
from ..engine.errors import InputError, KernelError
from ..kernels.errors import BackendError
from . import (
    accuracy,
    apart,
    kernels,
    machine,
    network,
    page,
    readme,
    report,
    roofline,
    short_table,
    unmeasured,
    work,
)  # fmt: skip
from .boxed import Boxed, ended_in_order
from .program import CPU, GPU, Job, Program, compiled_key, jobs, known_ratios, network_key
from .verify import suite as verify

Told = dict[str, Any]
VERIFY, KERNELS, NETWORKS = 0.2, 0.45, 0.8  # shares of the time after which that stage ends
COMPILE = 45.0  # seconds: with less, torch.compile is not begun
# shapes of a function, few: each compiles for a second; first what kernels' rows do not reach
BRIEF = {"nasty": 3, "real": 2, "aimed_first": True}


class Acceptance(Boxed):
    """One run of the program on a device."""

    def __init__(
        self, device: Device, folder: Path, minutes: float, program: Program | None = None,
        note: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Open the folder. Raises: InputError."""
        is_gpu = device.name.startswith("cuda")
        self.machine = machine.describe()
        identity = {"device": device.name, "versions": machine.versions()}
        if is_gpu:
            self.machine["gpu"] = machine.describe_gpu(device)
            identity["gpu"] = self.machine["gpu"]["name"]
        super().__init__(device, folder, minutes, identity, clock)
        self.note = note
        self.program = program or (GPU if is_gpu else CPU)
        self.seconds = 0.15 if is_gpu else 0.05  # for each candidate of a row
        self.against = machine.no_comparison(gpu=is_gpu) is None
        self.prepares = is_gpu  # networks' kernels are compiled while this verifies
        self.settings: Told = {}  # of the training for accuracy, in the place of the default ones
        self.data: dict[str, Splits] = {}  # that are read already

    def train_on(self, splits: dict[str, Splits]) -> None:
        """Make the accuracy on these data sets, too, part of the program."""
        self.data |= splits
        names = dict.fromkeys((*self.program.accuracy, *splits))
        self.program = replace(self.program, accuracy=tuple(names))

    def run(self) -> int:
        """All stages; the exit code: 1 if a kernel was wrong.

        Raises: BackendError if the device does nothing more; what is known is written all the same.
        """
        for name, stage in (
            ("ceilings", self.ceilings),
            ("verify", self.prepare_and_verify),
            ("kernels", lambda: self.kernels(KERNELS)),
            ("networks", self.networks),
            ("accuracy", self.accuracy),
            ("training", self.training),
            ("compiled", self.compiled),
            ("verify", lambda: self.verify(1.0)),
            ("kernels", lambda: self.kernels(1.0)),
        ):
            try:
                self.stage(name, stage)
            except BackendError:
                if self.log.told("ceilings"):
                    self.finish()
                raise
            self.write()  # whoever ends this before its time finds what is known
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

    def prepare_and_verify(self) -> None:
        """`verify`, while the networks' kernels are compiled beside it."""
        jobs = []
        if self.prepares:
            done = self.log.told("networks")
            jobs = [(*wanted, mode) for mode in network.MODES for wanted in self.program.networks
                    if network_key(wanted) not in done]  # fmt: skip
        if jobs and not self.log.told("accuracy"):
            jobs.insert(1, (apart.ACCURACY, 0, "", ""))
        prepared = apart.Prepared(self.device.name, jobs)
        try:
            self.verify(VERIFY)
        finally:
            prepared.end()

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
            made = self.kept("verify", function, functools.partial(self._verify, function, share),
                              unmeasured.verified)  # fmt: skip
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
            row = self.kept("kernels", job.key, functools.partial(self._measure, job, made),
                             functools.partial(unmeasured.kernel, job, made))  # fmt: skip
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
            rows = self.kept(
                "networks", key, functools.partial(self._network, *wanted),
                functools.partial(unmeasured.networks, *wanted),
            )  # fmt: skip
            self.note(f"{key}: {', '.join(map(short_table.ratio, rows))}")

    def _network(self, arch: str, batch: int, precision: str) -> list[Told]:
        return network.run(
            network.make_setting(arch, batch, precision), self.device, network.MODES,
            against=self.against, compiled=False, seconds=10 * self.seconds, rounds=None,
            note=self.note,
        )  # fmt: skip

    def accuracy(self) -> None:
        """What training reaches on the test images of the program's data sets."""
        for data in self.program.accuracy:
            if data in self.log.told("accuracy"):
                continue
            if self.left() <= 0:
                self.note("accuracy: the time is over")
                return
            config = accuracy.config_of(data, self.device, **self.settings)
            made = self.kept("accuracy", data, functools.partial(self._accuracy, config),
                              functools.partial(accuracy.dead_row, config))  # fmt: skip
            if made is None:
                self.note(f"accuracy on {data}: the time is over; it begins anew next time")

    def _accuracy(self, config: TrainConfig) -> Told | None:
        splits = self.data.get(config.data) or load(config.data)
        made = accuracy.train(config, splits, self.device, lambda: self.left() > 0)
        return made and made | {"cpu_accuracy": accuracy.of_the_cpu(config)}

    def compiled(self) -> None:
        """Networks beside torch.compile, each in a process that ends with the time."""
        for wanted in self.program.compiled if self.against else ():
            key = compiled_key(wanted)
            if key in self.log.told("compiled"):
                continue
            limit = self.left()
            if limit < COMPILE:
                self.note(f"{key}: not begun, {COMPILE:.0f} seconds are too few")
                return
            ask = functools.partial(apart.compiled_rows, self.device.name, *wanted,
                                    10 * self.seconds, limit=limit)  # fmt: skip
            made = self.kept("compiled", key, ask, lambda why: {"rows": [], "why": why})
            told = "ended, the time is over; it begins anew next time"
            if made is not None:
                told = made["why"] or ", ".join(map(short_table.ratio, made["rows"]))
            self.note(f"{key}: {told}")

    def training(self) -> None:
        """The losses of the first steps on one batch, on this device and in NumPy on the CPU."""
        if self.log.told("training") or self.left() <= 0:
            return
        arch, batch = self.program.training
        told = {"arch": arch, "batch": batch, "ok": False}
        first = functools.partial(accuracy.first_steps, arch, batch, self.device)
        self.kept("training", "training", lambda: told | first(),
                  lambda why: told | {"failed": why})  # fmt: skip

    def finish(self) -> int:
        """Write all and say the short table; the exit code."""
        lines = self.write()
        for line in lines:
            self.note(line)
        return int(any("WRONG" in line for line in lines))

    def write(self) -> list[str]:
        """Write the results, the page and the short table; its lines."""
        results = [
            report.document(
                kind, found, machine=self.machine, versions=machine.versions(), notes=[],
                settings={"device": self.device.name, "suite": "acceptance", "threads": None,
                          "batches": list(self.program.batches),
                          "precisions": list(self.program.precisions)},
                ceilings=self.log.told("ceilings")["ceilings"],
            )
            for kind, found in short_table.results(self.log).items() if found
        ]  # fmt: skip
        (self.folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results))
        page.write(self.folder / "report.html", results)
        lines = list(short_table.lines(self.log, self.program))
        (self.folder / "table.txt").write_text("\n".join(lines) + "\n")
        return lines


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser("python -m cnnengine.bench.acceptance", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--data", metavar="NAME", help="a data set to train on, too")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where its files are")
    told = parser.parse_args(arguments)
    try:
        if not told.minutes > 0:
            raise InputError(f"--minutes {told.minutes}: must be more than 0")
        splits = accuracy.splits_of(told.data, told.data_dir)
        made = Acceptance(open_device(told.device), told.out, told.minutes)
        made.train_on(splits)
        with ended_in_order():
            return made.run()
    except (InputError, KernelError) as error:
        print(f"acceptance: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
