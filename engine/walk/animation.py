"""The walk as an animation: the filter moves over the image and the output grows (GIF)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pictures import Scale
from .stages import Walk
from .texts import plain

MOST_FRAMES = 120  # a longer walk shows every n-th position
PANEL = 300  # pixels a side, of the image and of the output
MIDDLE = 300  # pixels wide, between them: the products
MARGIN, TITLE, FOOT = 20, 34, 76
MOST_NUMBERED = 5  # rows and columns of a filter whose numbers have room
RULED, NUMBERED = 12, 22  # pixels of a cell that gets lines around it, and its number in it
BACK, INK, SOFT = (255, 255, 255), (28, 33, 40), (110, 118, 129)
WINDOW, RESULT, PENDING = (200, 85, 61), (11, 107, 203), (226, 232, 240)
SLOW, FAST, REST = 900, 120, 2500  # milliseconds a frame: few, many, the last


def gif(walk: Walk, scales: dict[str, Scale]) -> bytes:
    """An animation of the walk over the first channel; `scales` as in `pictures.scales`."""
    drawn = [frame.quantize(palette=_palette(), dither=Image.Dither.NONE)
             for frame in _frames(walk, scales)]  # fmt: skip
    pace = int(np.clip(12_000 / len(drawn), FAST, SLOW))
    file = io.BytesIO()
    drawn[0].save(
        file, "gif", save_all=True, append_images=drawn[1:], loop=0, optimize=True,
        duration=[pace] * (len(drawn) - 1) + [REST],
    )  # fmt: skip
    return file.getvalue()


def positions(walk: Walk) -> list[int]:
    """The output positions, row by row, that the animation shows: all, or every n-th."""
    count = math.prod(walk.stages[0].values.shape[:2])
    every = -(-count // MOST_FRAMES)
    return sorted({*range(0, count, every), count - 1})


@dataclass(frozen=True)
class _Grid:
    """Where an array of cells is drawn: its corner, and pixels a cell."""

    x: float
    y: float
    cell: float

    def box(self, row: int, column: int, rows: int = 1, columns: int = 1) -> tuple[float, ...]:
        x, y = self.x + column * self.cell, self.y + row * self.cell
        return (x, y, x + columns * self.cell - 1, y + rows * self.cell - 1)


def _frames(walk: Walk, scales: dict[str, Scale]) -> Iterator[Image.Image]:
    padded, out = walk.padded()[:, :, 0], walk.stages[0].values[:, :, 0]
    left, right = _grid(padded.shape, MARGIN), _grid(out.shape, 2 * MARGIN + PANEL + MIDDLE)
    around = scales["input"].levels(padded)
    made = scales["convolution"].levels(out)
    order = positions(walk)
    size = (3 * MARGIN + 2 * PANEL + MIDDLE, 2 * MARGIN + TITLE + PANEL + FOOT)
    (r, s), (down, across) = walk.filter.shape, walk.op.stride
    top, _, before, _ = walk.op.padding
    height, width = walk.image.shape[:2]
    for index in order:
        row, column = divmod(index, out.shape[1])
        frame = Image.new("RGB", size, BACK)
        draw = ImageDraw.Draw(frame)
        _titles(draw, walk)
        _paint(frame, around, left)
        if any(walk.op.padding):
            draw.rectangle(left.box(top, before, height, width), outline=SOFT, width=1)
        _rule(draw, padded, around, left)
        draw.rectangle(left.box(row * down, column * across, r, s), outline=WINDOW, width=3)
        levels = np.full((*out.shape, 3), PENDING, np.uint8)
        done = np.arange(out.size).reshape(out.shape) <= index
        levels[done] = made[done][:, None]
        _paint(frame, levels, right)
        _rule(draw, out, made, right, index + 1)
        draw.rectangle(right.box(0, 0, *out.shape), outline=SOFT)
        x0, y0, x1, y1 = right.box(row, column)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=RESULT, width=2)
        _sum(draw, walk, row, column)
        every = "" if len(order) == out.size else f", one in {order[1] - order[0]} is shown"
        _text(
            draw, (MARGIN, size[1] - MARGIN), f"position {index + 1} of {out.size}{every}", SOFT,
            15, "ls",
        )  # fmt: skip
        yield frame


def _grid(shape: tuple[int, ...], x: float) -> _Grid:
    cell = PANEL / max(shape)
    cell = math.floor(cell) if cell >= 1 else cell
    return _Grid(
        x + (PANEL - cell * shape[1]) / 2, MARGIN + TITLE + (PANEL - cell * shape[0]) / 2, cell
    )


def _paint(frame: Image.Image, levels: np.ndarray, grid: _Grid) -> None:
    size = (round(levels.shape[1] * grid.cell), round(levels.shape[0] * grid.cell))
    drawn = Image.fromarray(levels).convert("RGB").resize(size, Image.Resampling.NEAREST)
    frame.paste(drawn, (round(grid.x), round(grid.y)))


def _rule(
    draw: ImageDraw.ImageDraw, values: np.ndarray, levels: np.ndarray, grid: _Grid,
    count: int | None = None,
) -> None:  # fmt: skip
    """Lines between cells, and in the first `count` the numbers, where there is room."""
    if grid.cell < RULED:
        return
    for index, (row, column) in enumerate(np.ndindex(*values.shape)):
        x0, y0, x1, y1 = grid.box(row, column)
        draw.rectangle((x0, y0, x1 + 1, y1 + 1), outline=SOFT)
        if grid.cell >= NUMBERED and (count is None or index < count):
            colour = INK if levels[row, column] > 127 else BACK
            told = plain(float(values[row, column]))
            _text(draw, ((x0 + x1) / 2, (y0 + y1) / 2), told, colour, 14, "mm", grid.cell - 4)


def _titles(draw: ImageDraw.ImageDraw, walk: Walk) -> None:
    (height, width), (p, q) = walk.image.shape[:2], walk.stages[0].values.shape[:2]
    pads = " with padding" if any(walk.op.padding) else ""
    middles = (
        MARGIN + PANEL / 2, 1.5 * MARGIN + PANEL + MIDDLE / 2, 2 * MARGIN + 1.5 * PANEL + MIDDLE
    )  # fmt: skip
    told = (f"image {height} x {width}{pads}", "window x filter", f"output {p} x {q}")
    for x, title in zip(middles, told, strict=True):
        _text(draw, (x, MARGIN + TITLE / 2), title, INK, 17, "mm")


def _sum(draw: ImageDraw.ImageDraw, walk: Walk, row: int, column: int) -> None:
    """The products in a grid, and their sum under it."""
    window = walk.window(row, column)[:, :, 0]
    (r, s), out = walk.filter.shape, walk.stages[0].values
    value = float(out[row, column, 0])
    x, y = 1.5 * MARGIN + PANEL, MARGIN + TITLE
    cell = min(MIDDLE / s, (PANEL - 70) / r)
    numbered = max(r, s) <= MOST_NUMBERED
    grid = _Grid(x + (MIDDLE - cell * s) / 2, y, cell)
    products = window * walk.filter
    most = float(np.abs(products).max()) or 1.0
    for i, j in np.ndindex(r, s):
        box = grid.box(i, j)
        product = float(products[i, j])
        draw.rectangle(box, fill=_tint(product / most), outline=SOFT if numbered else None)
        if numbered:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            told = f"{plain(float(window[i, j]))} x {plain(float(walk.filter[i, j]))}"
            _text(draw, (middle[0], middle[1] - 9), told, SOFT, 12, "mm", cell - 4)
            _text(draw, (middle[0], middle[1] + 9), plain(product), INK, 17, "mm", cell - 4)
    under = y + cell * r + 30
    told = f"sum = {plain(value)}"
    _text(draw, (x + MIDDLE / 2, under), told, RESULT, 24, "mm")
    if walk.relu:
        after = float(walk.stages[1].values[row, column, 0])
        _text(draw, (x + MIDDLE / 2, under + 32), f"ReLU: {plain(after)}", INK, 18, "mm")


def _tint(share: float) -> tuple[int, int, int]:
    """White at 0, towards orange below and blue above."""
    full = np.array((157, 195, 245) if share > 0 else (247, 190, 160), float)
    red, green, blue = np.rint(255 + (full - 255) * min(1.0, abs(share)))
    return int(red), int(green), int(blue)


def _text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int],
    size: float, anchor: str, room: float = math.inf,
) -> None:  # fmt: skip
    font = ImageFont.load_default(size)
    if (width := draw.textlength(text, font=font)) > room:
        font = ImageFont.load_default(size * room / width)
    draw.text(at, text, fill=colour, font=font, anchor=anchor)


def _palette() -> Image.Image:
    """128 greys and the colours that are drawn, with their shades towards white."""
    greys = [(level, level, level) for level in np.rint(np.linspace(0, 255, 128)).astype(int)]
    shades = [
        tuple(round(255 + (c - 255) * share) for c in colour)
        for colour in (INK, SOFT, WINDOW, RESULT, (157, 195, 245), (247, 190, 160))
        for share in np.linspace(0.1, 1, 16)
    ]
    colours = [*greys, PENDING, *shades]
    image = Image.new("P", (1, 1))
    image.putpalette([level for colour in colours for level in colour])
    return image
