"""The ratchet: figures of compiled kernels that stand in the repository and may not get worse.

    rows = {"vgg16 conv3_2: conv2d _conv2d_kernel": {"sm_90": {"registers": 115, ...}}}
    ratchet.hold("triton", "3.9.0", rows, broken=rules(rows))

A table is `results/compile/<compiler>-<major.minor>.json`, one row for each launch and
architecture. Registers are those of one thread, `spill_bytes` what a thread keeps in memory for
want of registers, `shared_bytes` what a block takes, `mma` and `tma` count tensor-core
instructions and tensor copies, `loop` is the length of the hot loop in instructions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..engine.errors import InputError
from ..engine.files import make_folder, write_bytes

FOLDER = Path(__file__).parent / "results" / "compile"
MODES = ("--update", "--missing", "--quick")
WORSE_IF_MORE = ("registers", "spill_bytes", "shared_bytes", "loop")
WORSE_IF_LESS = ("mma", "tma")

Figures = Mapping[str, int]
Rows = Mapping[str, Mapping[str, Figures]]  # label → architecture ("sm_90") → figures


def mode(arguments: Sequence[str]) -> str:
    """What a compile check is to do: "update", "missing", "quick" or, without an option, "".

    Raises: InputError for anything else.
    """
    if not arguments:
        return ""
    if len(arguments) > 1 or arguments[0] not in MODES:
        raise InputError(f"takes one of {', '.join(MODES)}, or none, not {' '.join(arguments)}")
    return arguments[0].removeprefix("--")


def table_file(compiler: str, version: str) -> Path:
    """Where the table of a compiler's minor version stands: triton, 3.9.0 → triton-3.9.json."""
    return FOLDER / f"{compiler}-{'.'.join(version.split('.')[:2])}.json"


def read(file: Path) -> dict[str, Any]:
    """The rows of a table. Raises: InputError when it is missing or damaged."""
    if not file.exists():
        raise InputError(f"there is no table {file.name}; write it with --update")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["launches"]
        return {label: {name: dict(row) for name, row in by.items()} for label, by in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged ({error}); write it anew with --update") from None


def write(file: Path, compiler: str, version: str, rows: Rows) -> None:
    """Replace a table, one line a row. Raises: InputError."""
    lines = []
    for label in sorted(rows):
        inner = [f"  {_text(a)}: {_text(dict(r))}" for a, r in sorted(rows[label].items())]
        lines.append(f" {_text(label)}: {{\n" + ",\n".join(inner) + "\n }")
    head = f'{{"{compiler}": {_text(version)}, "launches": {{\n'
    make_folder(file.parent)
    write_bytes(file, (head + ",\n".join(lines) + "\n}}\n").encode())


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def worse(now: Rows, before: Rows) -> list[str]:
    """One line for each figure that is worse than it was, or that has no predecessor."""
    told = []
    for label, by_architecture in now.items():
        for architecture, figures in by_architecture.items():
            where, old = f"{label}, {architecture}", before.get(label, {}).get(architecture)
            if old is None:
                told.append(f"{where}: not in the table")
                continue
            for name, value in figures.items():
                if name not in old:
                    told.append(f"{where}: {name} is not in the table")
                elif value > old[name] if name in WORSE_IF_MORE else value < old[name]:
                    told.append(f"{where}: {name} {old[name]} -> {value}")
    return told


def better(now: Rows, before: Rows) -> int:
    """How many figures are better than they were."""
    return sum(
        value < old[name] if name in WORSE_IF_MORE else value > old[name]
        for label, by_architecture in now.items()
        for architecture, figures in by_architecture.items()
        if (old := before.get(label, {}).get(architecture)) is not None
        for name, value in figures.items()
        if name in old
    )


def gone(now: Rows, before: Rows) -> list[str]:
    """One line for each row of the table that is compiled no more."""
    return [
        f"{label}, {architecture}: in the table, compiled no more"
        for label, by_architecture in before.items()
        for architecture in by_architecture
        if architecture not in now.get(label, {})
    ]


def spills(rows: Rows) -> list[str]:
    """One line for each row that spills."""
    return [
        f"{label}, {architecture}: spills {row['spill_bytes']} bytes"
        for label, by_architecture in rows.items()
        for architecture, row in by_architecture.items()
        if row["spill_bytes"]
    ]


def hold(
    compiler: str, version: str, now: Rows, *, mode: str = "", broken: Sequence[str] = ()
) -> int:
    """Compare `now` with the table, or write it; prints one line a finding; the exit code.

    `mode` as `mode` tells it: "update" and "missing" write, and of the table "quick" compares the
    rows that there are in `now`. `broken` are lines about rules that hold whatever the table says:
    any of them fails.

    Raises: InputError.
    """
    file, told = table_file(compiler, version), list(broken)
    if mode in ("update", "missing"):
        write(file, compiler, version, now)
        print("\n".join([*told, f"{file.name}: {len(now)} launches written"]))
        return 1 if told else 0
    before = read(file)
    if mode == "quick":
        before = {
            label: {a: row for a, row in by_architecture.items() if a in now[label]}
            for label, by_architecture in before.items()
            if label in now
        }
    told += worse(now, before) + gone(now, before)
    print("\n".join(told) or f"{len(now)} launches: none worse than in {file.name}")
    if not told and (count := better(now, before)):
        print(f"{count} figures are better than in {file.name}; keep them with --update")
    return 1 if told else 0
