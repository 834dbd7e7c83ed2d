"""`cnnengine verify`: every kernel on fresh random inputs beside float64, as a certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from ..engine.device import Device

FAILED = 1
PATIENCE = 10.0  # seconds without a line of progress
TABLE = ("op", "case", "type", "backend", "tile", "rel. RMS", "allowed", "max ulp", "verdict")


@click.command("verify")
@click.option("--device", default="auto", show_default=True,
              help="cpu, cuda, cuda:N, auto (the CPU, until GPUs have been tried), or interpreter: "
              "GPU kernels without a GPU.")  # fmt: skip
@click.option("--kernels", default="auto", show_default=True,
              help="auto: every backend of the device (interpreter: triton); or one.")  # fmt: skip
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
    shows the call that came nearest to its limit. Exit code 1 if any call fails, or none was made.
    """
    import secrets
    import time

    from ..bench.verify import devices
    from ..bench.verify import suite as suites
    from ..engine.errors import InputError

    if minutes is not None and math.isnan(minutes):
        raise InputError(f"--minutes {minutes}: must be a number of minutes")
    functions = suites.pick_functions(ops)
    opened = devices.open_for_verify(device, kernels)
    chosen = suites.get_suite(suite, opened.name)
    seed = secrets.randbits(32) if seed is None else seed
    for told in (*filter(None, [opened.warning]), *opened.declined):
        output.warn(told)
    described = _machine(opened)
    place = f"{opened.name} ({described['gpu']['name']})" if "gpu" in described else opened.name
    output.note(f"verify: {place}, kernels {', '.join(opened.backends)}, suite {suite}, "
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
            **_certificate(opened, described), "suite": suite, "ops": functions, "seed": seed,
            "counts": counts, "rows": rows,
        })  # fmt: skip
    else:
        _print(rows, every)
        output.note(_told(counts, seed))
    if counts["failed"]:
        wrong = dict.fromkeys(row["function"] for row in rows if row["state"] == "failed")
        output.note(f"--ops {','.join(wrong)} --seed {seed} repeats what failed")
    if counts["failed"] or not counts["passed"]:
        ctx.exit(FAILED)


def _machine(device: Device) -> dict[str, Any]:
    """What this runs on, the GPU included where it is one."""
    from ..bench import machine

    told = machine.describe()
    if device.name.startswith("cuda"):
        with device.session():
            told["gpu"] = machine.describe_gpu(device)
    return told


def _certificate(device: Device, described: dict[str, Any]) -> dict[str, Any]:
    """When, where and with what the calls were made."""
    import datetime

    from ..bench import machine

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "created": now, "device": device.name, "backends": list(device.backends),
        "machine": described, "versions": machine.versions(),
    }  # fmt: skip


def _case(row: dict[str, Any]) -> str:
    return f"{row['function']} [{row['case']}] {row['kind']} on {row['backend']}"


def _tile(row: dict[str, Any]) -> str:
    tile = " ".join(f"{name}={value}" for name, value in row["tile"].items())
    return f"{row['algorithm'] or '-'} {tile}".strip()


def _line(row: dict[str, Any], calls: int, failed: int) -> tuple[str, ...]:
    figures = [
        "-" if row[name] is None else f"{row[name]:{form}}"
        for name, form in (("rms", ".1e"), ("allowed", ".1e"), ("ulps", ".2f"))
    ]
    verdict = "FAILED" if failed else row["state"]
    if calls > 1:
        verdict += f" {failed} of {calls}" if failed else f" ({calls})"
    return (
        row["function"], row["case"], row["kind"], row["backend"], _tile(row), *figures, verdict,
    )  # fmt: skip


def _print(rows: Sequence[dict[str, Any]], every: bool) -> None:
    from ..bench.verify import suite as suites

    taken = [
        (row, 1, int(row["state"] == "failed"))
        for row in rows
        if row["state"] in ("passed", "failed")
    ]
    lines = taken if every else suites.worst_rows(rows)
    output.print_table(TABLE, [_line(*line) for line in lines], left=TABLE[:5])
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
    if counts["not taken"]:
        told += f", {counts['not taken']} not taken"
    if count := counts["not reached"]:
        told += f", {count} function{'' if count == 1 else 's'} not reached or not to the end"
    if not counts["passed"]:
        told += "; nothing was verified"
    return f"{told} (--seed {seed})"
