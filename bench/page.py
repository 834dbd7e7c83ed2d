"""One page of results for a browser: tables that sort, ratio bars, rooflines; nothing is fetched.

Style and script are files beside this one and stand inside the page, so it opens offline. Every
figure is in the page as text; without the script the tables just do not sort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from ..engine.energy import Energy, Part
from ..engine.errors import InputError
from . import plot, report
from .report import Row

Result = Mapping[str, Any]
WIDEST = 4.0  # a ratio whose bar is as wide as its cell
FILES = resources.files(str(__package__)) / "page_files"


def write(path: Path, results: Sequence[Result]) -> None:
    """Write the page of these results. Raises: InputError."""
    try:
        path.write_text(page(results), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--html: cannot write {path}: {error.strerror}") from None


def page(results: Sequence[Result]) -> str:
    """The whole page as text."""
    style, script = ((FILES / name).read_text("utf-8") for name in ("page.css", "page.js"))
    body = "\n".join(_section(result, number) for number, result in enumerate(results, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cnnengine: measured speed</title>
<style>
{style}</style>
</head>
<body>
<h1>cnnengine: measured speed</h1>
<p>Speed is the time of the best of the other side divided by ours, of medians: above 1, ours is
faster. Brackets hold the quartiles; <abbr title="quartiles far apart">~</abbr> marks a noisy
figure. Every result was checked before it was timed: kernels beside float64, networks beside torch,
and beside float64 where the two disagree.</p>
<p><label>Show rows with <input type="search" id="filter" placeholder="3x3 wgrad"></label></p>
{body}
<script>
{script}</script>
</body>
</html>
"""


def _section(result: Result, number: int) -> str:
    rows: Sequence[Row] = result["rows"]
    told = report.summary(rows)
    parts = [f'<section aria-labelledby="result-{number}">',
             f'<h2 id="result-{number}">{escape(_title(result))}</h2>', _facts(result)]  # fmt: skip
    if result.get("notes"):
        notes = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
        parts.append(f'<div class="notes">Notes<ul>{notes}</ul></div>')
    parts += [f"<p><strong>{escape(told)}</strong></p>"] if told else []
    above = report.above_roof(rows)
    parts += [f"<p>{escape(above)}</p>"] if above else []
    parts += [_table(rows), plot.roofline(rows, result.get("ceilings"), number), "</section>"]
    return "\n".join(parts)


def _title(result: Result) -> str:
    settings = result["settings"]
    what = settings.get("suite") or settings.get("arch") or ""
    batches = settings.get("batches") or [settings.get("batch")]
    told = ", ".join(str(b) for b in batches if b is not None)
    return f"{result.get('kind', 'results')} {what}" + (f", batch {told}" if told else "")


def _facts(result: Result) -> str:
    machine, settings = result["machine"], result["settings"]
    gpu = machine.get("gpu")
    facts = [
        ("GPU", f"{gpu['name']}, compute capability {gpu['capability']}" if gpu else None),
        ("processor", machine.get("cpu")),
        ("threads", settings.get("threads")),
        ("versions", ", ".join(f"{n} {v}" for n, v in result.get("versions", {}).items() if v)),
        ("measured", result.get("created")),
        ("energy", _energy(result.get("energy"))),
    ]
    cells = "".join(
        f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts if value
    )
    return f"<dl>{cells}</dl>"


def _energy(told: Mapping[str, Any] | None) -> str | None:
    """What the whole benchmark used, all sides together; None in results of older versions."""
    if told is None:
        return None
    energy = Energy(**{**told, "parts": tuple(Part(**part) for part in told["parts"])})
    return f"{energy} in all ({energy.sources()})"


def _table(rows: Sequence[Row]) -> str:
    columns, lines = report.table(rows)
    head = "".join(f'<th scope="col"><button type="button">{escape(c)}</button></th>'
                   for c in columns)  # fmt: skip
    body: list[str] = []
    for row, line in zip(rows, lines, strict=True):
        cells = [_cell(text) for text in line]
        if row.get("ratio"):
            speed = columns.index("speed")
            cells[speed] = _bar(row["ratio"], line[speed])
        state = ' class="wrong"' if row["failed"] else ""
        body.append(f"<tr{state}>{''.join(cells)}</tr>")
    joined = "\n".join(body)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{joined}\n</tbody></table></div>"
    )


def _cell(text: str) -> str:
    first = text.lstrip("~").split(" ")[0].rstrip("x")
    try:
        key = f' class="number" data-sort="{float(first)}"'
    except ValueError:
        key = ""
    return f"<td{key}>{escape(text)}</td>"


def _bar(ratio: float, text: str) -> str:
    """A cell with a bar as long as the ratio, and the mark of equal speed on it."""
    side = "faster" if ratio >= 1 else "slower"
    width = 100 * min(ratio, WIDEST) / WIDEST
    return (
        f'<td data-sort="{ratio}" class="bar {side}"><span class="track">'
        f'<span class="fill" style="width:{width:.1f}%"></span>'
        f'<span class="even" style="left:{100 / WIDEST:.0f}%"></span></span>{escape(text)}</td>'
    )
