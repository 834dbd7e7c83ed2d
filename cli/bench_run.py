"""What the benchmark commands share: the device, the machine's facts, ceilings, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import InputError, unknown_name
from . import output

if TYPE_CHECKING:
    from ..bench import report
    from ..bench.roofline import Ceilings
    from ..engine.device import Device

SIDES = ("torch", "none")
BUSY = 0.05  # share of the machine that other work may take before figures are called noisy
FAILED = 1


class Run:
    """What both benchmarks share: device, threads, the machine's facts, and the report."""

    def __init__(
        self, kind: str, device: str, against: str, threads: int, country: str = "",
        **settings: Any,
    ) -> None:  # fmt: skip
        """Open the device, set the threads, begin to count energy. Raises: InputError."""
        from ..bench import machine
        from ..engine.device import open_device
        from ..engine.energy import Meter, intensity_of

        if against not in SIDES:
            raise unknown_name("--against", against, SIDES)
        self.device: Device = open_device(device)
        if self.device.name == "interpreter":
            raise InputError("--device interpreter: there is nothing to time; use cpu or cuda")
        self.meter = Meter(self.device, intensity_of(country))
        self.kind = kind
        self.is_gpu = self.device.name.startswith("cuda")
        wanted = against == "torch"
        self.missing = machine.no_comparison(gpu=self.is_gpu) if wanted else None
        self.against = wanted and self.missing is None
        self.threads = machine.set_threads(threads, torch=self.against)
        self.settings = {
            "device": self.device.name, "backends": list(self.device.backends),
            "against": against, "threads": self.threads, **settings,
        }  # fmt: skip
        self.machine = machine.describe()
        self.ceilings: Ceilings | None = None
        if self.is_gpu:
            with self.device.session():
                self.machine["gpu"] = machine.describe_gpu(self.device)
        self.versions = machine.versions()
        self.notes = machine.warnings(self.machine, self.threads)
        if self.missing:
            self.notes.append(f"no comparison: {self.missing}")
        for told in self.notes:
            output.warn(told)
        output.note(_headline(self.machine, self.versions, self.threads))

    def measure_ceilings(self, precisions: Sequence[str]) -> None:
        """Measure what the machine can do at most, for these precisions."""
        from ..bench import roofline
        from ..bench.work import KINDS

        kinds = [KINDS[name] for name in precisions]
        if self.is_gpu:
            self.ceilings = roofline.measure_gpu(self.device, kinds, against=self.against)
        else:
            self.ceilings = roofline.measure_host()
        rates = [f"{kind} product {output.scaled(rate, 'FLOP/s')}"
                 for kind, rate in self.ceilings.gemm.items()]  # fmt: skip
        output.note(f"ceilings: copy {output.scaled(self.ceilings.copy, 'B/s')}, "
                    f"{', '.join(rates) or 'no product'}")  # fmt: skip

    def finish(
        self, rows: Sequence[report.Row], out: Path | None, html: Path | None, as_json: bool,
        ctx: click.Context,
    ) -> None:  # fmt: skip
        """Print and keep the result; exit code 1 if a result was wrong."""
        from ..bench import report

        busy = max((row.get("busy_elsewhere") or 0.0 for row in rows), default=0.0)
        if busy > BUSY:
            self._note(
                f"other work took up to {busy:.0%} of the machine during a row: figures are noisy"
            )
        for row in rows:
            if self.missing:
                row["baseline_missing"] = self.missing
            for told in row["failed"]:
                self._note(f"WRONG RESULT, no times: {row['key']}: {told}")
            for told in row.get("declined", ()):
                if told not in self.notes:
                    self._note(told, quiet=True)
        energy = self.meter.read()
        result = report.document(
            self.kind, rows, energy=energy.to_json(), machine=self.machine, versions=self.versions,
            settings=self.settings, notes=self.notes,
            ceilings=self.ceilings and self.ceilings.told(),
        )  # fmt: skip
        if out is not None:
            report.append(out, result)
        if html is not None:
            from ..bench import page

            page.write(html, [result])
            output.note(f"wrote {html}")
        if as_json:
            output.print_json(result)
        else:
            columns, lines = report.table(rows)
            output.print_table(columns, lines, left=(*columns[:2], columns[-1]))
            output.note("times: medians, quartiles in brackets; ~: they lie far apart, noisy")
            for told in (report.summary(rows), report.above_roof(rows)):
                if told is not None:
                    output.note(told)
        output.note(f"energy of this benchmark, all sides: {energy}")
        output.note(f"  {energy.sources()}")
        if any(row["failed"] for row in rows):
            ctx.exit(FAILED)

    def _note(self, text: str, *, quiet: bool = False) -> None:
        self.notes.append(text)
        (output.note if quiet else output.warn)(text)


def _headline(machine: dict[str, Any], versions: dict[str, Any], threads: int) -> str:
    blas = ", ".join(
        f"{b['library']} {b['version'] or ''} ({b['core_type'] or 'core type unknown'})"
        for b in machine["blas"]
    )
    software = ", ".join(f"{name} {v}" for name, v in versions.items() if v is not None)
    gpu = f"{machine['gpu']['name']}; " if "gpu" in machine else ""
    return f"{gpu}{machine['cpu']}, {threads} of {machine['cores']} cores; {software}; BLAS: {blas}"
