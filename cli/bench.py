"""`cnnengine bench`: networks and kernels beside PyTorch, and what changed between two results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import InputError, unknown_name
from . import options, output

if TYPE_CHECKING:
    from ..bench import report
    from ..engine.device import Device

SIDES = ("torch", "none")
BUSY = 0.05  # share of the machine that other work may take before figures are called noisy
FAILED = 1

_DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu.")
_AGAINST = click.option("--against", default="torch", show_default=True,
                        help="torch, or none: our figures alone.")  # fmt: skip
_THREADS = click.option("--threads", type=click.IntRange(0), default=0, metavar="N",
                        help="Threads on both sides; 0: one a core.")  # fmt: skip
_REPEATS = click.option("--repeats", type=click.IntRange(2), metavar="N",
                        help="Interleaved rounds, instead of --seconds.")  # fmt: skip
_OUT = click.option("--out", type=Path, metavar="FILE.jsonl",
                    help="Add the result to that file, one JSON object a line.")  # fmt: skip


def _seconds(default: float) -> Callable[..., Any]:
    return click.option(
        "--seconds", type=click.FloatRange(0, min_open=True), default=default, show_default=True,
        help="Time for each candidate of a row (at least 5 rounds).",
    )  # fmt: skip


def _batch(help_text: str) -> Callable[..., Any]:
    return click.option("--batch", type=click.IntRange(1), metavar="N", help=help_text)


@click.group("bench", invoke_without_command=True)
@click.pass_context
def bench(ctx: click.Context) -> None:
    """Time kernels and networks beside PyTorch.

    Every figure follows a correctness check in the same run; wrong results end with exit code 1.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


command = bench


class Run:
    """What both benchmarks share: device, threads, the machine's facts, and the report."""

    def __init__(self, kind: str, device: str, against: str, threads: int, **settings: Any) -> None:
        """Open the device and set the threads. Raises: InputError."""
        from ..bench import machine
        from ..engine.device import open_device

        if against not in SIDES:
            raise unknown_name("--against", against, SIDES)
        self.device: Device = open_device(device)
        self.kind = kind
        self.missing = machine.torch_missing() if against == "torch" else None
        self.against = against == "torch" and self.missing is None
        self.threads = machine.set_threads(threads, torch=self.against)
        self.settings = {
            "device": self.device.name, "backends": list(self.device.backends),
            "against": against, "threads": self.threads, **settings,
        }  # fmt: skip
        self.machine = machine.describe()
        self.versions = machine.versions()
        self.notes = machine.warnings(self.machine, self.threads)
        if self.missing:
            self.notes.append(f"no comparison: {self.missing}")
        for told in self.notes:
            output.warn(told)
        output.note(_headline(self.machine, self.versions, self.threads))

    def finish(
        self, rows: Sequence[report.Row], out: Path | None, as_json: bool, ctx: click.Context
    ) -> None:
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
        result = report.document(
            self.kind, rows, machine=self.machine, versions=self.versions,
            settings=self.settings, notes=self.notes,
        )  # fmt: skip
        if out is not None:
            report.append(out, result)
        if as_json:
            output.print_json(result)
        else:
            columns, lines = report.table(rows)
            output.print_table(columns, lines, left=(*columns[:2], columns[-1]))
            if (told := report.summary(rows)) is not None:
                output.note(told)
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
    return f"{machine['cpu']}, {threads} of {machine['cores']} cores; {software}; BLAS: {blas}"


@bench.command("network")
@click.option("--arch", default="vgg-small", show_default=True,
              shell_complete=options.complete_arch, help=options.SETTINGS["arch"])  # fmt: skip
@_batch("Images a step or pass.  [default: 64]")
@click.option("--mode", default="both", show_default=True, help="train, infer or both.")
@_DEVICE
@_AGAINST
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True,
              help="Time torch.compile too; compiling takes a minute or more.")  # fmt: skip
@click.option("--memory", "with_memory", is_flag=True,
              help="Measure peak memory of each side in fresh processes.")  # fmt: skip
@_THREADS
@_seconds(5.0)
@_REPEATS
@options.JSON
@_OUT
@click.pass_context
def network_command(
    ctx: click.Context, arch: str, batch: int | None, mode: str, device: str, against: str,
    compiled: bool, with_memory: bool, threads: int, seconds: float, repeats: int | None,
    as_json: bool, out: Path | None,
) -> None:  # fmt: skip
    """Time a training step and inference of a whole network.

    A training step is forward, backward and an SGD update, in float32. Beside it stand torch
    contiguous, channels_last and torch.compile, on the same weights and the same batch.
    """
    from ..bench import network
    from ..engine.models import get_model

    if mode not in (*network.MODES, "both"):
        raise unknown_name("mode", mode, (*network.MODES, "both"))
    get_model(arch)
    modes = network.MODES if mode == "both" else (mode,)
    batch = batch or 64
    run = Run("network", device, against, threads, arch=arch, batch=batch, modes=list(modes),
              seconds=seconds, repeats=repeats, compile=compiled)  # fmt: skip
    rows = network.run(
        network.make_setting(arch, batch), run.device, modes, against=run.against,
        compiled=compiled, seconds=seconds, rounds=repeats, note=output.note,
    )  # fmt: skip
    if with_memory and not any(row["failed"] for row in rows):
        _measure_memory(rows, run.threads)
    run.finish(rows, out, as_json, ctx)


def _measure_memory(rows: Sequence[report.Row], threads: int) -> None:
    from ..bench.memory import measure_memory

    output.note(
        "memory: peak resident memory of a fresh process, and how far that is above what it held "
        "after a tiny network had run in it"
    )
    for row in rows:
        row["memory"] = {}
        for side in row["candidates"]:
            told = measure_memory(side, row["arch"], row["batch"], row["mode"], threads)
            row["memory"][side] = told
            mib = {name: value / 2**20 for name, value in told.items()}
            output.note(
                f"  {row['mode']}, {side}: peak {mib['peak_bytes']:.0f} MiB, "
                f"growth {mib['growth_bytes']:.0f} MiB"
            )


@bench.command("kernels")
@click.option("--suite", default="vgg-small", show_default=True,
              help="vgg-small, vgg16, alexnet, resnet50, odd or edge.")  # fmt: skip
@_batch("Images a call; the suite's own unless given.")
@click.option("--layers", metavar="LIST", help="Layers by number, like 1,3-5.  [default: all]")
@click.option("--passes", metavar="LIST",
              help="Of forward, forward+relu, forward+relu+pool, dgrad, wgrad, max_pool, avg_pool."
              "  [default: all]")  # fmt: skip
@_DEVICE
@_AGAINST
@_THREADS
@_seconds(0.5)
@_REPEATS
@options.JSON
@_OUT
@click.pass_context
def kernels_command(
    ctx: click.Context, suite: str, batch: int | None, layers: str | None, passes: str | None,
    device: str, against: str, threads: int, seconds: float, repeats: int | None, as_json: bool,
    out: Path | None,
) -> None:  # fmt: skip
    """Time single kernels, layer by layer.

    Each backend that takes a call stands beside torch contiguous, channels_last and, for forward
    passes, oneDNN with filters packed beforehand. Results are first held to float64.
    """
    from ..bench import kernels, suites, work

    chosen = suites.get_suite(suite)
    picked = suites.pick_layers(chosen, layers)
    names = tuple(passes.split(",")) if passes else work.PASSES
    for name in names:
        if name not in work.PASSES:
            raise unknown_name("pass", name, work.PASSES)
    batch = batch or chosen.batch
    run = Run("kernels", device, against, threads, suite=suite, batch=batch, passes=list(names),
              seconds=seconds, repeats=repeats)  # fmt: skip
    rows = []
    for row in kernels.run(chosen, picked, names, run.device, batch=batch, seconds=seconds,
                           rounds=repeats, against=run.against):  # fmt: skip
        rows.append(row)
        output.note(f"{row['key']}: {row['ratio']:.2f}x" if row.get("ratio") else row["key"])
    if not rows:
        raise InputError(f"--passes {passes}: no layer of --suite {suite} has such a pass")
    run.finish(rows, out, as_json, ctx)


@bench.command("compare")
@click.argument("old", type=Path)
@click.argument("new", type=Path)
@options.JSON
def compare_command(old: Path, new: Path, as_json: bool) -> None:
    """Show what changed from one result file to another."""
    from ..bench import report

    told = report.compare(report.read(old), report.read(new))
    for line in told["differences"]:
        output.warn(f"the runs differ in {line}")
    for where, path in (("only_old", old), ("only_new", new)):
        if told[where]:
            output.note(f"only in {path}: {', '.join(told[where])}")
    if as_json:
        output.print_json(told)
        return
    columns, lines = report.comparison_table(told)
    output.print_table(columns, lines, left=columns[:1])
