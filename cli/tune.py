"""`cnnengine tune`: measure which tiles this GPU likes best, and keep them for later runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import InputError
from . import options, output

if TYPE_CHECKING:
    from ..bench.tune import Row, Task
    from ..engine.device import Device

FAILED = 1
TABLE = ("call", "state", "tile", "µs", "rule's µs", "gain", "timed")


@click.command("tune")
@click.option("--suite", default="vgg16", show_default=True,
              help="Layers of a suite, as in `bench kernels`.")  # fmt: skip
@click.option("--arch", metavar="NAME", help="The layers of a network's training step instead.",
              shell_complete=options.complete_arch)  # fmt: skip
@click.option("--layers", metavar="LIST", help="Layers of the suite by number, like 1,3-5.")
@click.option("--passes", metavar="LIST",
              help="Of forward, forward+pool, dgrad, wgrad.  [default: all]")  # fmt: skip
@click.option("--types", default="bf16", show_default=True, metavar="LIST",
              help="Of bf16, fp16, fp32, tf32x3, tf32.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, metavar="N",
              help="Images a call.")  # fmt: skip
@click.option("--device", default="cuda", show_default=True, help="cuda, or cuda:N.")
@click.option("--minutes", type=click.FloatRange(0), default=10.0, show_default=True,
              help="Begin no candidate after that time; run again to go on.")  # fmt: skip
@click.option("--export", type=Path, metavar="FILE",
              help="Write a table for the repository, with what was measured here.")  # fmt: skip
@options.JSON
@click.pass_context
def command(
    ctx: click.Context, suite: str, arch: str | None, layers: str | None, passes: str | None,
    types: str, batch: int, device: str, minutes: float, export: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure tiles on this GPU and keep the best of each call.

    Every candidate is held to float64 before it is timed beside the tile that is used without a
    measurement. The best enters the table in your cache folder, which later runs ask first; a run
    that is stopped goes on where it was. Exit code 1 if a tile in use gives wrong results.
    """
    from ..bench import tile_tables, tune
    from ..engine.device import open_device

    if math.isnan(minutes):
        raise InputError(f"--minutes {minutes}: must be a number of minutes")
    asked = _asked(suite, arch, layers, passes, types, batch)
    opened = open_device(device, instead="; tiles are measured on a GPU only")
    if not opened.name.startswith("cuda"):
        raise InputError(f"--device {device}: tiles are those of a GPU; use --device cuda")
    bench = tune.on_cuda(opened)
    tasks = asked(opened)
    if told := tile_tables.clear_damaged(tile_tables.user_file(bench.machine)):
        output.warn(told)
    output.note(f"tune: {bench.machine.device}, {bench.machine.compiler}, {len(tasks)} calls; "
                f"{tile_tables.user_file(bench.machine)}")  # fmt: skip
    rows = []
    for row in tune.run(tasks, bench, minutes):
        rows.append(row)
        output.note(f"{len(rows)}/{len(tasks)} {row.label}: {row.state}{_gain(row)}")
        for wrong in row.wrong:
            output.warn(f"{row.label}: wrong results, not entered: {wrong}")
    if export is not None:
        count = tile_tables.export(export, bench.machine, bench.backend.name, bench.impossible)
        output.note(f"{export}: {count} entries")
    left = len(tasks) - len(rows)
    if as_json:
        output.print_json({"machine": asdict(bench.machine), "facts": dict(bench.facts),
                           "rows": [asdict(row) for row in rows], "not_reached": left})  # fmt: skip
    else:
        output.print_table(TABLE, [_line(row) for row in rows], left=TABLE[:3])
    if left:
        output.note(f"{left} calls not reached in {minutes:g} minutes; the same command goes on")
    if any(row.state == "refused" for row in rows):
        ctx.exit(FAILED)


def _asked(
    suite: str, arch: str | None, layers: str | None, passes: str | None, types: str, batch: int
) -> Callable[[Device], Sequence[Task]]:
    """The calls that were asked for, once there is a device to ask. Raises: InputError."""
    from ..bench import suites, tune

    if arch is not None:
        for name, value in (("--layers", layers), ("--passes", passes)):
            if value is not None:
                raise InputError(f"{name} {value}: not with --arch, whose step is tuned whole")
        steps = tune.network_steps(arch, batch, types.split(","))
        return lambda device: list(tune.network_tasks(steps, device.backends))
    picked = suites.pick_layers(suites.get_suite(suite), layers)
    names = passes.split(",") if passes else tuple(tune.PASSES)
    tasks = list(tune.layer_tasks(picked, names, types.split(","), batch))
    if not tasks:
        raise InputError(f"--passes {passes}: no layer of --suite {suite} has such a pass")
    return lambda device: tasks


def _gain(row: Row) -> str:
    if row.median_us is None or row.rule_us is None:
        return ""
    return f", {row.rule_us / row.median_us:.2f}x"


def _line(row: Row) -> tuple[Any, ...]:
    tile = " ".join(f"{name}={value}" for name, value in (row.tile or {}).items())
    times = (output.number(t, 1) for t in (row.median_us, row.rule_us))
    return row.label, row.state, tile or "-", *times, _gain(row).strip(", ") or "-", row.timed
