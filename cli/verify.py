"""`cnnengine verify`: every kernel on fresh random inputs beside float64, as a certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

from . import options, output

FAILED = 1
PATIENCE = 10.0  # seconds without a line of progress
TABLE = ("op", "case", "type", "backend", "tile", "rel. RMS", "allowed", "max ulp", "verdict")


@click.command("verify")
@click.option("--device", default="auto", show_default=True,
              help="cpu, cuda, cuda:N, auto (the CPU, until GPUs have been tried), or interpreter: "
              "GPU kernels without a GPU.")  # fmt: skip
@click.option("--kernels", default="auto", show_default=True,
              help="auto: every backend of the device; or one.")  # fmt: skip
@click.option("--ops", metavar="LIST",
              help="Functions or families, like conv2d,pool.  [default: all]")  # fmt: skip
@click.option("--suite", default="quick", show_default=True,
              help="quick: each shape in one type; full: in all, and all layers.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N",
              help="Names the random inputs; a fresh one is drawn and printed.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True), metavar="M",
              help="Stop after M minutes and say what is left.  [default: none]")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="A line for every call, not only the worst.")
@options.JSON
@click.pass_context
def command(
    ctx: click.Context, device: str, kernels: str, ops: str | None, suite: str, seed: int | None,
    minutes: float | None, every: bool, as_json: bool,
) -> None:  # fmt: skip
    """Check every kernel against float64 on this machine.

    Fresh random inputs, layers of real networks and shapes that kernels like least; outputs full
    of NaN and guard elements around every array; two runs that must agree to the bit. Each op
    shows the call that came nearest to its limit. Exit code 1 if any call fails.
    """
    import secrets
    import time

    from ..bench import machine
    from ..bench.verify import devices
    from ..bench.verify import suite as suites

    functions = suites.pick_functions(ops)
    opened = devices.open_for_verify(device, kernels)
    chosen = suites.get_suite(suite, opened.name)
    seed = secrets.randbits(32) if seed is None else seed
    for told in (*filter(None, [opened.warning]), *opened.declined):
        output.warn(told)
    output.note(f"verify: {opened.name}, kernels {', '.join(opened.backends)}, suite {suite}, "
                f"--seed {seed} repeats it")  # fmt: skip
    rows: list[suites.Row] = []
    told_at = time.monotonic()
    end = math.inf if minutes is None else told_at + 60 * minutes
    for row in suites.run(opened, functions, chosen, seed, until=lambda: end - time.monotonic()):
        rows.append(row)
        if time.monotonic() - told_at > PATIENCE:
            told_at = time.monotonic()
            output.note(f"{_calls(len(rows))} judged, now {row['function']}")
        if row["state"] == "failed":
            output.note(f"FAILED {_case(row)}: {row['told']}")
    counts = suites.summary(rows)
    if as_json:
        output.print_json({
            "device": opened.name, "backends": list(opened.backends), "suite": suite, "seed": seed,
            "machine": machine.describe(), "versions": machine.versions(),
            "counts": counts, "rows": rows,
        })  # fmt: skip
    else:
        _print(rows, every)
        output.note(_told(counts, seed))
    if counts["failed"] or not counts["passed"]:
        ctx.exit(FAILED)


def _case(row: dict[str, Any]) -> str:
    return f"{row['function']} [{row['case']}] {row['kind']} on {row['backend']}"


def _tile(row: dict[str, Any]) -> str:
    tile = " ".join(f"{name}={value}" for name, value in row["tile"].items())
    return f"{row['algorithm'] or '-'} {tile}".strip()


def _line(row: dict[str, Any], calls: int) -> tuple[str, ...]:
    figures = [
        "-" if row[name] is None else f"{row[name]:{form}}"
        for name, form in (("rms", ".1e"), ("allowed", ".1e"), ("ulps", ".2f"))
    ]
    verdict = row["state"] if calls == 1 else f"{row['state']} ({calls})"
    verdict = verdict.replace("failed", "FAILED")
    return (
        row["function"], row["case"], row["kind"], row["backend"], _tile(row), *figures, verdict,
    )  # fmt: skip


def _print(rows: Sequence[dict[str, Any]], every: bool) -> None:
    from ..bench.verify import suite as suites

    taken = [(row, 1) for row in rows if row["state"] in ("passed", "failed")]
    lines = taken if every else suites.worst_rows(rows)
    left = TABLE[:5]
    output.print_table(TABLE, [_line(row, calls) for row, calls in lines], left=left)
    for backend, reason, functions, calls in suites.refusals(rows):
        listed = ", ".join(functions)
        if backend == "-":
            output.note(f"not reached, {reason}: {listed}")
        else:
            output.note(f"not taken by {backend}, {_calls(calls)} of {listed}: {reason}")


def _calls(count: int) -> str:
    return f"{count} call{'' if count == 1 else 's'}"


def _told(counts: dict[str, int], seed: int) -> str:
    told = f"{_calls(counts['passed'])} passed, {counts['failed']} failed"
    for state in ("not taken", "not reached"):
        told += f", {counts[state]} {state}" if counts[state] else ""
    if not counts["passed"]:
        told += "; nothing was verified"
    return f"{told} (--seed {seed})"
