"""What commands print: tables on stdout, or one JSON object there and all else on stderr.

rich is loaded on first use.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 200  # columns of a table that goes to no terminal


@functools.cache
def console(stderr: bool = False) -> Console:
    """The console on stdout or stderr; text is printed as it is, without markup."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def note(text: str) -> None:
    """One line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """One line of warning on stderr."""
    note(f"cnnengine: warning: {text}")


def count(what: str, done: int, total: int) -> None:
    """How far something is, like `measured 640 of 10000 images`: on a terminal, till it is done."""
    if sys.stderr.isatty():
        line = f"{what} {done} of {total} images" if done < total else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def print_json(told: dict[str, Any]) -> None:
    """One JSON object on stdout; a number that is not finite becomes null."""
    print(json.dumps(_finite(told), allow_nan=False))


def _finite(told: Any) -> Any:
    if isinstance(told, dict):
        return {str(key): _finite(value) for key, value in told.items()}
    if isinstance(told, (list, tuple)):
        return [_finite(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    left: Iterable[str] = (),
    stderr: bool = False,
    footer: Sequence[object] | None = None,
) -> None:
    """A table; columns are right-aligned, those named in `left` left-aligned and wrapped."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False,
        pad_edge=False, show_footer=footer is not None,
    )  # fmt: skip
    left = set(left)
    for i, name in enumerate(columns):
        is_left = name in left
        table.add_column(
            name, justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold",
            footer=str(footer[i]) if footer is not None else "",
        )  # fmt: skip
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _print(table, stderr)


def print_facts(
    facts: Iterable[tuple[str, object]], *, title: str | None = None, stderr: bool = False
) -> None:
    """Two columns: what, and its value."""
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False,
        pad_edge=False, padding=(0, 2, 0, 0),
    )  # fmt: skip
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, str(value))
    _print(table, stderr)


def _print(table: Table, stderr: bool) -> None:
    """Print it; in a pipe or a file without the blanks that fill its lines."""
    to = console(stderr)
    if to.is_terminal:
        to.print(table)
        return
    with to.capture() as captured:
        to.print(table)
    for line in captured.get().splitlines():
        to.file.write(f"{line.rstrip()}\n")


def percent(share: float | None) -> str:
    """0.875 → "87.50 %"; a dash where there is none."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f} %"


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` decimals; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def scaled(value: float, unit: str = "") -> str:
    """With a metric prefix: 1234567, "FLOP" → "1.23 MFLOP"."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or prefix == "T":
            break
        value /= 1000
    whole = value == int(value) and not prefix
    digits = 0 if whole or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {prefix}{unit}".rstrip()


def duration(seconds: float) -> str:
    """Like "12 s", "3:05 min" or "1:02:03 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
