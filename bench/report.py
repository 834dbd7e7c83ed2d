"""Results: one JSON object a run, lines of a file that grows, tables, and what changed.

    {"format": 1, "kind": "kernels" | "network" | "accuracy" | "targets", "created", "machine",
     "versions", "settings", "notes", "ceilings",
     "rows": [{"key", "ours", "baseline", "baseline_name", "ratio",
     "candidates": {name: {"median", "q1", "q3", "best", ...}}, "failed", ...}]}

Times are seconds; ratio is the speed of ours over the baseline's: baseline / ours, of medians
(best_ratio: of the smallest samples). The baseline is the fastest of the other side's ways.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from ..engine.errors import InputError

FORMAT = 1
NOISY = 0.3  # (q3 - q1) / median from which a figure is marked
Row = dict[str, Any]
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def document(kind: str, rows: Sequence[Row], **told: Any) -> dict[str, Any]:
    """The result of one run; `told` has machine, versions, settings and notes."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"format": FORMAT, "kind": kind, "created": now, **told, "rows": list(rows)}


def append(path: Path, result: Mapping[str, Any]) -> None:
    """Add the result as one line to the file. Raises: InputError."""
    try:
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
    except OSError as error:
        raise InputError(f"--out: cannot write {path}: {error.strerror}") from None


def read(path: Path) -> list[dict[str, Any]]:
    """The results in a file: one JSON object, or one a line. Raises: InputError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"cannot read {path}: {reason}") from None
    try:
        results = [json.loads(text)]
    except json.JSONDecodeError:
        results = [_line(path, n, line) for n, line in enumerate(text.splitlines(), 1) if line]
    for result in results:
        if not isinstance(result, dict) or "format" not in result:
            raise InputError(f"{path} is no result of cnnengine bench")
        if result["format"] != FORMAT:
            raise InputError(
                f"{path} has result format {result['format']}; this version reads {FORMAT}"
            )
        if not all(name in result for name in ("machine", "settings", "rows")):
            raise InputError(f"{path} is damaged: a result without machine, settings or rows")
    if not results:
        raise InputError(f"{path} is empty")
    return results


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {number} is not JSON: {error.msg}") from None


def milliseconds(seconds: float | None) -> str:
    """Like "1.234"; a dash where there is none."""
    if seconds is None:
        return "-"
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def timing(row: Row, name: str | None) -> str:
    """A candidate's median with its quartiles, marked "~" where they are far apart."""
    if name is None or name not in row.get("candidates", ()):
        return "-"
    told = row["candidates"][name]
    noisy = "~" if told["q3"] - told["q1"] > NOISY * told["median"] else ""
    quartiles = f"{milliseconds(told['q1'])}-{milliseconds(told['q3'])}"
    return f"{noisy}{milliseconds(told['median'])} ({quartiles})"


def percent(share: float | None) -> str:
    """Like "63 %"; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(rows: Sequence[Row]) -> Table:
    """Columns and cells for people: ours, the best of the other side, and the others' medians.

    Of accuracies and of targets: what was found beside what it is held to.
    """
    if rows and "accuracy" in rows[0]:
        return _accuracies(rows)
    if rows and "bound" in rows[0]:
        return ("target",), [(row["told"],) for row in rows]
    is_network = bool(rows) and "arch" in rows[0]
    names = (
        ("arch", "mode", "batch", "precision")
        if is_network
        else ("layer", "pass", "batch", "precision")
    )
    rate = "images_per_second" if is_network else "gflops"
    unit = "images/s" if is_network else "GFLOP/s"
    share = () if is_network else ("of roof",)
    host = ("host µs",) if any("host_seconds" in row for row in rows) else ()
    columns = (
        *names, "ours ms", "by", unit, *share, *host, "best of torch ms", "which", "speed",
        "others ms",
    )  # fmt: skip
    lines = []
    for row in rows:
        mine, theirs = row.get("ours_name"), row.get("baseline_name")
        others = ", ".join(
            f"{name.removeprefix('torch ')} {milliseconds(told['median'])}"
            f" ({_ratio(told['median'] / row['ours'])})"
            for name, told in row.get("candidates", {}).items()
            if name not in (mine, theirs)
        )
        verdict = "WRONG RESULT" if row["failed"] else _ratio(row.get("ratio"))
        lines.append(
            (
                *(str(row.get(name, "fp32")) for name in names), timing(row, mine), mine or "-",
                _number(row.get(rate)), *(percent(row.get("roofline")) for _ in share),
                *(_number(1e6 * row["host_seconds"] if "host_seconds" in row else None)
                  for _ in host),
                timing(row, theirs), (theirs or "-").removeprefix("torch "), verdict, others,
            )
        )  # fmt: skip
    return columns, lines


def _accuracies(rows: Sequence[Row]) -> Table:
    columns = ("arch", "data", "device", "epochs", "test accuracy", "the CPU's", "seconds")
    lines = []
    for row in rows:
        cpu = row.get("cpu_accuracy")
        told = "WRONG RESULT" if row["failed"] else f"{row['accuracy']:.2%}"
        lines.append(
            (
                row["arch"], row["data"], row.get("device", "-"), str(row["epochs"]), told,
                "-" if cpu is None else f"{cpu:.2%}", _number(row.get("seconds")),
            )
        )  # fmt: skip
    return columns, lines


def summary(rows: Sequence[Row]) -> str | None:
    """One line over all rows that have a ratio: geometric mean, range, and wins."""
    ratios = [row["ratio"] for row in rows if row.get("ratio")]
    if not ratios:
        return None
    wins = sum(ratio >= 1 for ratio in ratios)
    return (
        f"ours vs. the best of torch: geometric mean {geometric_mean(ratios):.2f}x, from "
        f"{min(ratios):.2f}x to {max(ratios):.2f}x; not slower in {wins} of {len(ratios)} rows"
    )


def above_roof(rows: Sequence[Row]) -> str | None:
    """Why some rows pass the roofline, in a line; None where none does."""
    if not any((row.get("roofline") or 0) > 1 for row in rows):
        return None
    return (
        "more than 100 % of the roof: operations are counted as in the plain sum, Winograd's "
        "algorithm makes fewer; and bytes that stay in a cache are not fetched again"
    )


def compare(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What changed: rows in both by key, keys in one only, and how the runs differ.

    The last row of a key counts. `speedup` is old time / new time of ours; `clear` says whether the
    quartiles of the two lie apart (None: not known), so that the change is more than noise.
    """
    before, after = _by_key(old), _by_key(new)
    rows = []
    for key, row in after.items():
        if key in before and row.get("ours") and before[key].get("ours"):
            rows.append(
                {
                    "key": key,
                    "ours": [before[key]["ours"], row["ours"]],
                    "speedup": before[key]["ours"] / row["ours"],
                    "clear": _apart(before[key], row),
                    "ratio": [before[key].get("ratio"), row.get("ratio")],
                }
            )
    shared = {row["key"] for row in rows}
    return {
        "rows": rows,
        "only_old": [key for key in before if key not in shared],
        "only_new": [key for key in after if key not in shared],
        "differences": _differences(old[-1], new[-1]),
    }


def _apart(old: Row, new: Row) -> bool | None:
    """Whether the middle halves of two rows' times of ours do not meet."""
    told = [row.get("candidates", {}).get(row.get("ours_name")) for row in (old, new)]
    if any(not t or "q1" not in t for t in told):
        return None
    first, second = told
    return first["q1"] > second["q3"] or second["q1"] > first["q3"]


def _by_key(results: Sequence[dict[str, Any]]) -> dict[str, Row]:
    timed = (result for result in results if result.get("kind") not in ("accuracy", "targets"))
    return {row["key"]: row for result in timed for row in result["rows"]}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where the two runs were not made alike, a line each."""
    pairs = [
        ("processor", old["machine"].get("cpu"), new["machine"].get("cpu")),
        ("GPU", *((told["machine"].get("gpu") or {}).get("name") for told in (old, new))),
        ("threads", old["settings"].get("threads"), new["settings"].get("threads")),
    ]
    versions = old.get("versions", {}), new.get("versions", {})
    pairs += [(n, v, versions[1].get(n)) for n, v in versions[0].items() if n != "revision"]
    return [f"{name}: {a} → {b}" for name, a, b in pairs if a != b]


def comparison_table(told: Mapping[str, Any]) -> Table:
    """Columns and cells for people of what `compare` found; "~" marks a speed that may be noise."""
    columns = ("row", "ours before ms", "ours after ms", "speed", "ratio before", "ratio after")
    lines = [
        (
            row["key"], *map(milliseconds, row["ours"]),
            "~" * (row["clear"] is False) + _ratio(row["speedup"]),
            *map(_ratio, row["ratio"]),
        )
        for row in told["rows"]
    ]  # fmt: skip
    return columns, lines
