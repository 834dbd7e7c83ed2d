"""Writing tile tables: the user's, entry by entry, and a whole one for the repository.

The format and who is asked first are told in `kernels/tiling.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.errors import InputError
from ..engine.files import make_folder, write_bytes
from ..kernels import tiling
from ..kernels.tiling import Entry, Impossible, Machine, Problem


def user_file(machine: Machine) -> Path:
    """The user's table for the machine's architecture."""
    return tiling.user_folder() / tiling.table_name(machine.architecture)


def clear_damaged(file: Path) -> str | None:
    """Put a table that cannot be read aside, and tell what was wrong with it, in one line.

    Raises: InputError.
    """
    try:
        _entries(file)
    except ValueError as error:
        aside = file.with_name(f"{file.name}.damaged")
        try:
            file.replace(aside)
        except OSError as failed:
            raise InputError(f"cannot move {file} aside: {failed.strerror or failed}") from None
        return f"{file}: {error}; it now is {aside.name}, and a new one is begun"
    return None


def _entries(file: Path) -> list[dict[str, Any]]:
    """All entries as they stand there. Raises: ValueError."""
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found, entries = content["format"], content["entries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from None
    if found != tiling.FORMAT or not isinstance(entries, list):
        raise ValueError(f"its format is {found!r}, this version writes {tiling.FORMAT}")
    return entries


def known(machine: Machine, backend: str, impossible: Impossible) -> dict[Problem, Entry]:
    """The user's entries that were measured on this machine, by problem."""
    entries, _ = tiling.read(user_file(machine), backend, impossible)
    return {entry.problem: entry for entry in entries if _is_of(entry.provenance, machine)}


def _is_of(provenance: Any, machine: Machine) -> bool:
    return isinstance(provenance, dict) and all(
        provenance.get(name) == getattr(machine, name) for name in ("device", "compiler")
    )


def keep(entry: Entry, machine: Machine) -> None:
    """Put an entry into the user's table in place of an older one of this machine, at once.

    Raises: InputError.
    """
    file, made = user_file(machine), _plain(entry)
    try:
        entries = _entries(file)
    except ValueError as error:
        raise InputError(f"{file}: {error}; run again to put it aside") from None
    others = [
        old
        for old in entries
        if not (
            isinstance(old, dict)
            and all(old.get(name) == made[name] for name in made if name in _KEY)
            and _is_of(old.get("provenance"), machine)
        )
    ]
    make_folder(file.parent)
    _write(file, [*others, made])
    tiling.forget()


_KEY = set(Problem.__dataclass_fields__)


def _plain(entry: Entry) -> dict[str, Any]:
    """The entry as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(entry.as_json()))


def _write(file: Path, entries: Sequence[dict[str, Any]]) -> None:
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    text = f'{{"format": {tiling.FORMAT}, "entries": [\n{lines}\n]}}\n'
    write_bytes(file, text.encode())


def export(file: Path, machine: Machine, backend: str, impossible: Impossible) -> int:
    """Write a table for the repository: its own entries, and this machine's in their place.

    Returns the number of entries. Raises: InputError.
    """
    committed = tiling.committed_folder() / tiling.table_name(machine.architecture)
    entries, wrong = tiling.read(committed, backend, impossible)
    if wrong:
        raise InputError(f"{committed}: {wrong[0]}")
    mine = known(machine, backend, impossible)
    kept = [entry for entry in entries if entry.problem not in mine]
    others = [old for old in _entries(committed) if old["backend"] != backend]
    made = sorted(map(_plain, [*kept, *mine.values()]), key=lambda e: json.dumps(e))
    _write(file, [*others, *made])
    return len(others) + len(made)


def replace_modelled(architecture: int, made: Sequence[Entry]) -> int:
    """Put modelled entries into the committed table in place of all older ones.

    Problems that were measured keep what was measured. Returns the number of entries. Raises:
    InputError.
    """
    file = tiling.committed_folder() / tiling.table_name(architecture)
    try:
        kept = [e for e in _entries(file) if e["provenance"]["kind"] != "modelled"]
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    measured = [{name: entry[name] for name in _KEY} for entry in kept]
    new = [e for e in map(_plain, made) if {name: e[name] for name in _KEY} not in measured]
    _write(file, [*kept, *new])
    return len(kept) + len(new)
