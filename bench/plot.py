"""The roofline of a result as SVG: what each row computes, over how much it computes a byte.

Both axes are logarithmic. The roof is the lower of copy rate x intensity and product rate; a
filled point is ours, a hollow one the best of the other side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .report import Row
from .work import KINDS

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50


class _Axes:
    """Places of (FLOP a byte, FLOP a second) on the picture."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x0, self.x1 = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
        self.y0, self.y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
        self.x1, self.y1 = max(self.x1, self.x0 + 1), max(self.y1, self.y0 + 1)

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.x0) / (self.x1 - self.x0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (math.log10(value) - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def clip(self, value: float) -> float:
        """An intensity within the picture."""
        return min(max(value, 10.0**self.x0), 10.0**self.x1)


def roofline(rows: Sequence[Row], ceilings: Mapping[str, Any] | None, number: int) -> str:
    """The picture with its caption; empty where there are no ceilings or no row computes."""
    drawn = [r for r in rows if r.get("flops") and r.get("bytes") and r.get("ours")]
    if not ceilings or not drawn:
        return ""
    used = dict.fromkeys(KINDS[r["precision"]] for r in drawn)
    roofs = {k: v for k, v in ceilings["gemm"].items() if k in used}
    points = [(r["flops"] / r["bytes"], r["flops"] / r[side], side, r)
              for side in ("baseline", "ours") for r in drawn if r.get(side)]  # fmt: skip
    ridges = [flat / ceilings["copy"] / 2 for flat in roofs.values()]  # so that the slope shows
    axes = _Axes(
        [*(x for x, *_ in points), *ridges], [*(y for _, y, *_ in points), *roofs.values()]
    )
    shapes = [*_grid(axes), *_roofs(axes, ceilings["copy"], roofs)]
    shapes += [_point(axes, *point) for point in points]
    joined, title = "\n".join(shapes), f"roofline-{number}"
    return f"""<figure>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{title}">
<title id="{title}">FLOP a second over FLOP a byte: ours, the other side, and the roof</title>
{joined}
</svg>
<figcaption>Roofline: the roof is what a copy and a matrix product reach on this machine.
<span class="key ours"></span> ours <span class="key baseline"></span> best of the other side.
Winograd's algorithm multiplies less than the definition and may stand above.</figcaption>
</figure>"""


def _scaled(power: int) -> str:
    """10^power with its metric prefix: 9 -> "1 G"."""
    for least, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if power >= least:
            return f"{10 ** (power - least)} {prefix}"
    return f"{10.0**power:g}"


def _grid(axes: _Axes) -> list[str]:
    shapes = []
    for power in range(axes.x0, axes.x1 + 1):
        x = axes.x(10.0**power)
        shapes.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        shapes.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                      f"{10.0**power:g}</text>")  # fmt: skip
    for power in range(axes.y0, axes.y1 + 1):
        y = axes.y(10.0**power)
        shapes.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        shapes.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                      f"{_scaled(power)}</text>")  # fmt: skip
    middle = (LEFT + WIDTH - RIGHT) / 2
    shapes.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">FLOP a byte</text>')
    shapes.append(f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" '
                  'text-anchor="middle">FLOP a second</text>')  # fmt: skip
    return shapes


def _roofs(axes: _Axes, copy: float, roofs: Mapping[str, float]) -> list[str]:
    """One roof a type: the slope of the copy up to the flat of the product."""
    shapes = []
    for kind, flat in roofs.items() or [("", 10.0**axes.y1)]:
        first = axes.clip(10.0**axes.y0 / copy)
        ridge, last = axes.clip(flat / copy), 10.0**axes.x1
        corners = [
            (first, first * copy),
            (ridge, min(flat, ridge * copy)),
            (last, min(flat, last * copy)),
        ]
        path = " ".join(f"{axes.x(x):.1f},{axes.y(min(y, 10.0**axes.y1)):.1f}" for x, y in corners)
        shapes.append(f'<polyline class="roof" points="{path}"/>')
        shapes.append(f'<text class="roof" x="{WIDTH - RIGHT}" y="{axes.y(flat) - 5:.1f}" '
                      f'text-anchor="end">{escape(kind)}</text>')  # fmt: skip
    return shapes


def _point(axes: _Axes, x: float, y: float, side: str, row: Row) -> str:
    told = f"{row['key']}: {row[f'{side}_name']}, {y / 1e9:.1f} GFLOP/s"
    share = row.get("roofline" if side == "ours" else "baseline_roofline")
    told += f", {100 * share:.0f} % of the roof" if share else ""
    return (
        f'<circle class="{side}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="5">'
        f"<title>{escape(told)}</title></circle>"
    )
