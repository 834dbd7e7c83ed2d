"""What the acceptance program found, in a line a thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..engine.energy import amount
from . import report, targets, work
from .log import Log, Told
from .program import Program, compiled_key, jobs, network_key
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
    found = results(log)
    kernels, networks = found["kernels"], found["network"]
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
    for key in map(compiled_key, program.compiled):
        told = log.told("compiled").get(key, {"why": "not reached"})
        if told["why"]:
            yield f"{key}: {told['why']}"
    for row in (*kernels, *networks, *found["accuracy"]):
        if row["failed"]:
            yield f"{row['key']}: WRONG {'; '.join(row['failed'])}"
    for told in log.told("training").values():
        yield f"training {told['arch']}: {_training(told)}{'' if told['ok'] else ' WRONG'}"
    if not log.told("training"):
        yield f"training {program.training[0]}: not reached"
    for row in found["accuracy"]:
        yield f"{row['key']}: {_accuracy(row)}"
    for data in program.accuracy:
        if data not in log.told("accuracy"):
            yield f"accuracy on {data}: not reached"
    yield f"energy: {', '.join(f'{n} {_energy(told)}' for n, told in log.told('energy').items())}"
    for row in found["targets"]:
        yield f"target {row['told']}"


def results(log: Log) -> dict[str, list[Told]]:
    """Kind of result → the rows that a log has of it.

    A network's row beside torch.compile, made later, stands in the place of that without; what is
    wrong stays beside what is right.
    """
    compiled = (told["rows"] for told in log.told("compiled").values())
    told = [*log.told("networks").values(), *compiled]
    found = {
        "kernels": list(log.told("kernels").values()),
        "network": list(
            {(row["key"], bool(row["failed"])): row for rows in told for row in rows}.values()
        ),
        "accuracy": list(log.told("accuracy").values()),
    }
    on_a_gpu = log.lines[0]["told"].get("gpu") is not None
    verdicts = targets.judge(row for rows in found.values() for row in rows) if on_a_gpu else []
    return found | {"targets": [verdict.to_json() for verdict in verdicts]}


def ratio(row: dict[str, Any]) -> str:
    """Images a second of a network's row, and the speed against the other side."""
    if not row.get("ours"):
        return f"{row['mode']} no figure"
    told = f"{row['mode']} {row['images_per_second']:.0f} images/s"
    if row.get("ratio"):
        ways = [f"{name} {value:.2f}x" for name, value in row.get("ratios", {}).items()]
        more = f"; {', '.join(ways)}" if len(ways) > 1 else ""
        told += f" ({row['ratio']:.2f}x{more})"
    if "host_seconds" in row:
        told += f", host {1e6 * row['host_seconds']:.0f} µs a step"
    return told


def _accuracy(row: Told) -> str:
    if row["failed"]:
        return "no figure"
    told = f"{row['accuracy']:.2%} on the test images after {row['epochs']} epochs"
    cpu = row["cpu_accuracy"]
    return f"{told}, the CPU {'not known' if cpu is None else f'{cpu:.2%}'}"


def _training(told: Told) -> str:
    if "failed" in told:
        return told["failed"]
    return f"{len(told['losses'][0])} losses within {told['apart']:.1e} of the CPU's"


def _energy(told: Told) -> str:
    return "unknown" if told["wh"] is None else f"{amount(told['wh'])} Wh ({told['label']})"
