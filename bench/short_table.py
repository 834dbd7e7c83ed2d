"""What the acceptance program found, in a line a thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..engine.energy import amount
from . import report, work
from .log import Log, Told
from .program import Program, jobs, network_key
from .verify import suite as verify


def lines(log: Log, program: Program) -> Iterator[str]:
    """The table of what a log tells of a program; a line of what is wrong has WRONG in it."""
    verified = log.told("verify")
    counts = {s: sum(t["counts"][s] for t in verified.values()) for s in ("passed", "failed")}
    wrong = " WRONG" if counts["failed"] else ""
    whole = [name for name, told in verified.items() if not told["counts"]["not reached"]]
    left = len(verify.pick_functions(None)) - len(whole)
    missed = f", {left} functions not reached" if left else ""
    yield f"verify: {counts['passed']} passed, {counts['failed']} failed{wrong}{missed}"
    kernels = list(log.told("kernels").values())
    networks = [row for rows in log.told("networks").values() for row in rows]
    yield f"kernels: {len(kernels)} of {len(jobs(program, {}))} rows"
    for name in work.PASSES:
        told = report.summary([row for row in kernels if row["pass"] == name])
        if told:
            yield f"{name}: {told}"
    for row in networks:
        yield f"{row['key']}: {ratio(row)}"
    for key in map(network_key, program.networks):
        if key not in log.told("networks"):
            yield f"{key}: not reached"
    for row in (*kernels, *networks):
        if row["failed"]:
            yield f"{row['key']}: WRONG {'; '.join(row['failed'])}"
    for told in log.told("training").values():
        yield f"training {told['arch']}: {_training(told)}{'' if told['ok'] else ' WRONG'}"
    if not log.told("training"):
        yield f"training {program.training[0]}: not reached"
    yield f"energy: {', '.join(f'{n} {_energy(told)}' for n, told in log.told('energy').items())}"


def ratio(row: dict[str, Any]) -> str:
    """Images a second of a network's row, and the speed against the other side."""
    if not row.get("ours"):
        return f"{row['mode']} no figure"
    told = f"{row['mode']} {row['images_per_second']:.0f} images/s"
    return f"{told} ({row['ratio']:.2f}x)" if row.get("ratio") else told


def _training(told: Told) -> str:
    if "failed" in told:
        return told["failed"]
    return f"{len(told['losses'][0])} losses within {told['apart']:.1e} of the CPU's"


def _energy(told: Told) -> str:
    return "unknown" if told["wh"] is None else f"{amount(told['wh'])} Wh ({told['label']})"
