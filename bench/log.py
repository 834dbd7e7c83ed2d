"""A log of what is done, a JSON object a line, from which an interrupted program goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..engine.errors import InputError

Told = dict[str, Any]


class Log:
    """DIR/log.jsonl: what is done already, a line each."""

    def __init__(self, folder: Path, identity: Told) -> None:
        """Open or begin it. Raises: InputError if it is of another device or version."""
        self.path = folder / "log.jsonl"
        self.lines: list[Told] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self.path.read_text() if self.path.exists() else ""
        except OSError as error:
            raise InputError(f"--out {folder}: {error.strerror}") from None
        whole = text.splitlines()
        if text and not text.endswith("\n"):
            whole.pop()  # it was stopped while it wrote that line
            self.path.write_text("".join(f"{line}\n" for line in whole))
        for number, line in enumerate(whole, 1):
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError:
                raise InputError(f"{self.path} line {number} is not JSON") from None
        if not self.lines:
            self.add("run", "run", identity)
        elif (before := self.lines[0].get("told")) != identity:
            raise InputError(f"{folder} holds a run of {before}, this is {identity}; "
                             "take another --out")  # fmt: skip

    def add(self, stage: str, key: str, told: Any) -> None:
        """Write one thing that is done."""
        line = {"stage": stage, "key": key, "told": told}
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def told(self, stage: str) -> dict[str, Any]:
        """Key → what was told of it, of one stage."""
        return {line["key"]: line["told"] for line in self.lines if line["stage"] == stage}
