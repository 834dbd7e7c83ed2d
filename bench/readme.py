"""Keeps the README's speed tables equal to the results under bench/results.

    python -m cnnengine.bench.readme            write the tables anew
    python -m cnnengine.bench.readme --check    exit 1 if they are not up to date

The tables stand between two marks. Each folder of results is a kind of machine, `cpu` or a GPU's
name; without a GPU's folder the README says that there is no such figure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from ..engine.errors import InputError
from . import report, targets

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed: made by cnnengine.bench.readme -->", "<!-- end of speed -->"
NO_GPU = "There is no GPU result yet."
Result = Mapping[str, Any]


def tables(folder: Path) -> str:
    """The text between the marks, from every result file below `folder`."""
    parts, has_gpu = [], False
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != "compile"):
        found = [(file, told) for file in sorted(place.glob("*.jsonl"))
                 for told in report.read(file)]  # fmt: skip
        if not found:
            continue
        has_gpu = has_gpu or any(told["machine"].get("gpu") for _, told in found)
        parts.append(_machine(found[-1][1]))
        parts.append(_networks(found))
        parts.append(_kernels(found))
        if found[-1][1]["machine"].get("gpu"):
            parts.append(_targets(found))
    if not has_gpu:
        parts.append(NO_GPU)
    return "\n\n".join(part for part in parts if part)


def _machine(result: Result) -> str:
    machine, versions = result["machine"], result.get("versions", {})
    gpu = machine.get("gpu")
    name = f"{gpu['name']}, {machine['cpu']}" if gpu else machine["cpu"]
    if (cpu_id := machine.get("cpu_id")) and not gpu:
        name += f" (family/model/stepping {cpu_id}, {result['settings'].get('threads')} threads)"
    told = ", ".join(f"{n} {v}" for n, v in versions.items() if v and n != "revision")
    return f"On {name}; {told}:"


def _link(file: Path) -> str:
    return f"[{file.stem}](bench/results/{file.parent.name}/{file.name})"


def _networks(found: Sequence[tuple[Path, Result]]) -> str:
    rows = [(file, row) for file, told in found if told.get("kind") == "network"
            for row in told["rows"] if row.get("ours")]  # fmt: skip
    if not rows:
        return ""
    lines = ["| network | cnnengine | best of torch | speed | memory, ours | torch | figures |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for file, row in rows:
        mode = "training step" if row["mode"] == "train" else "inference"
        ours = f"{_ms(row['ours'])}, {row['images_per_second']:,.0f} images/s"
        theirs = "-"
        if row.get("baseline"):
            theirs = f"{_ms(row['baseline'])} ({row['baseline_name'].removeprefix('torch ')})"
        ratio = f"**{row['ratio']:.2f}x**" if row.get("ratio") else "-"
        memory = (_memory(row, row["ours_name"]), _memory(row, row.get("baseline_name")))
        name = f"{row['arch']} {mode}, batch {row['batch']}"
        name += f", {row['precision']}" if row.get("precision", "fp32") != "fp32" else ""
        cells = (name, ours, theirs, ratio, *memory, _link(file))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory(row: Mapping[str, Any], side: str | None) -> str:
    told = row.get("memory", {}).get(side)
    return f"{told['peak_bytes'] / 2**20:.0f} MiB" if told else "-"


def _kernels(found: Sequence[tuple[Path, Result]]) -> str:
    lines = ["| single kernels | rows | speed, geometric mean | least | most | figures |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for file, told in found:
        ratios = [row["ratio"] for row in told["rows"] if row.get("ratio")]
        if told.get("kind") != "kernels" or not ratios:
            continue
        settings = told["settings"]
        batches = settings.get("batches") or [settings["batch"]]
        name = f"{settings['suite']}, batch {', '.join(map(str, batches))}"
        name += f", {', '.join(settings.get('precisions', ['fp32']))}"
        speeds = [geometric_mean(ratios), min(ratios), max(ratios)]
        cells = (name, str(len(ratios)), *(f"{s:.2f}x" for s in speeds), _link(file))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _targets(found: Sequence[tuple[Path, Result]]) -> str:
    """What became of every target, shortfalls first."""
    verdicts = targets.judge(row for _, told in found for row in told["rows"])
    order = (targets.SHORT, targets.REACHED, targets.UNMEASURED)
    verdicts.sort(key=lambda verdict: order.index(verdict.state))
    return "\n".join(["Targets:", "", *(f"- {verdict}" for verdict in verdicts)])


def _ms(seconds: float) -> str:
    return f"{report.milliseconds(seconds)} ms"


def renewed(text: str, made: str) -> str:
    """The README's text with new tables. Raises: InputError where it has no marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(f"README.md has no place for the tables: {BEGIN} … {END}")
    return f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}"


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the tables or, with `--check`, compare them; returns the exit code."""
    if set(arguments) - {"--check"}:
        print("usage: python -m cnnengine.bench.readme [--check]", file=sys.stderr)
        return 2
    readme = root / "README.md"
    if not readme.exists():
        print(f"{os.fspath(readme)} is not here: run this from a source folder", file=sys.stderr)
        return 2
    text = readme.read_text("utf-8")
    made = renewed(text, tables(root / "bench" / "results"))
    if "--check" in arguments:
        if made == text:
            return 0
        print("README.md: the speed tables are not those of bench/results; "
              "run python -m cnnengine.bench.readme", file=sys.stderr)  # fmt: skip
        return 1
    readme.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
