"""What `cnnengine bench network --steps` prints: where the time of a step goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import output


def show(row: Mapping[str, Any]) -> None:
    """Each call of a row's steps, in order, then the kernels that took the most."""
    from ..bench.steps import by_kernel

    steps = row.get("steps")
    if not steps:  # its results were wrong
        return
    lines = [
        (
            i, step["layer"], step["op"], "x".join(map(str, step["output"])), step["backend"],
            step["algorithm"], *_figures(step),
        )
        for i, step in enumerate(steps, 1)
    ]  # fmt: skip
    whole = f"{1e3 * sum(step['seconds'] for step in steps):.3f}"
    columns = ("", "layer", "op", "output", "backend", "algorithm", "ms", "share", "GFLOP/s")
    left = ("layer", "op", "backend", "algorithm")
    output.print_table(
        columns, lines, left=left, title=f"{row['key']}, call by call",
        footer=("", "all", "", "", "", "", whole, "", ""),
    )  # fmt: skip
    totals = [
        (total["op"], total["backend"], total["algorithm"], total["calls"], *_figures(total))
        for total in by_kernel(steps)
    ]
    columns = ("op", "backend", "algorithm", "calls", "ms", "share", "GFLOP/s")
    output.print_table(columns, totals, left=left, title=f"{row['key']}, by kernel")


def _figures(told: Mapping[str, Any]) -> tuple[str, str, str]:
    rate = told["gflops"]
    share = f"{told['share']:.1%}"
    return f"{1e3 * told['seconds']:.3f}", share, "" if rate is None else f"{rate:.0f}"
