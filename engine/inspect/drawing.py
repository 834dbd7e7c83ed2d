"""The way from the image to the answer, drawn: one box a step, all to the same scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .view import Step

TALLEST, DEEPEST = 84.0, 76.0  # units of the drawing: of the highest image, the most channels
THINNEST = 2.0
SLANT = (0.30, 0.28)  # how far to the right and up a pixel of width goes
FAMILIES = {"input": "input", "convolution": "conv", "max pool": "pool", "average pool": "pool",
            "average of each channel": "pool", "dense layer": "dense"}  # fmt: skip


def way(steps: Sequence[Step]) -> str:
    """A list of boxes with captions: height and width by pixels, thickness by channels."""
    pixels = max(max(size(step)[:2]) for step in steps)
    channels = max(size(step)[2] for step in steps)
    items = "\n".join(
        f'<li><figure>{_box(step, TALLEST / pixels, DEEPEST / channels)}'
        f"<figcaption>{_caption(step, steps[0])}</figcaption></figure></li>"
        for step in steps
    )  # fmt: skip
    return f'<ol class="way">\n{items}\n</ol>'


def size(step: Step) -> tuple[int, int, int]:
    """(H, W, C) of a step; numbers without places are one pixel."""
    return step.shape if len(step.shape) == 3 else (1, 1, step.shape[-1])  # type: ignore[return-value]


def shape(step: Step) -> str:
    """Like `14&times;14&times;64` (H, W, C), or `256 numbers`."""
    return times(*step.shape) if len(step.shape) == 3 else f"{step.shape[-1]} numbers"


def times(*sizes: int) -> str:
    """The sizes with a times sign between them, for HTML."""
    return "&nbsp;&times;&nbsp;".join(map(str, sizes))


def sees(step: Step, image: Step) -> str:
    """What one value of a step sees of the image, in words."""
    tall, wide = step.sees
    if (tall, wide) == image.shape[:2]:
        return "the whole picture"
    return "1 pixel" if tall == wide == 1 else f"{times(tall, wide)} pixels"


def _caption(step: Step, image: Step) -> str:
    field = "" if step is image else f"<span>sees {sees(step, image)}</span>"
    name = escape(step.name).replace("_", "_<wbr>").replace("/", "/<wbr>")
    return f"<b>{name}</b><span>{step.kind}</span><span>{shape(step)}</span>{field}"


def _box(step: Step, scale: float, depth: float) -> str:
    """The three visible sides; the slanted one is the picture, H high and W wide."""
    h, w, c = size(step)
    tall, thick = max(h * scale, THINNEST), max(c * depth, THINNEST)
    right, up = (max(w * scale, THINNEST) * part for part in SLANT)
    side = [(0, up), (thick, up), (thick, up + tall), (0, up + tall)]
    top = [(0, up), (right, 0), (right + thick, 0), (thick, up)]
    face = [(thick, up), (thick + right, 0), (thick + right, tall), (thick, up + tall)]
    polygons = "".join(
        f'<polygon class="{name}" points="{" ".join(f"{x + 1:.1f},{y + 1:.1f}" for x, y in at)}"/>'
        for name, at in (("side", side), ("top", top), ("face", face))
    )
    width, height = thick + right + 2, tall + up + 2
    return (
        f'<svg class="{FAMILIES.get(step.kind, "conv")}" role="img" '
        f'aria-label="box of {shape(step)}" width="{width:.1f}" height="{height:.1f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}">{polygons}</svg>'
    )
