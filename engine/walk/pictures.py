"""Values as grey levels, and the PNG pictures of a walk's stages.

Numbers below zero have no brightness, so what a picture shows is told with it (`Scale.told`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .stages import Walk
from .texts import plain

WHITE = 255.0
SMALLEST_DRAWN = 256  # pixels: smaller pictures are enlarged by a whole number
MOST_OPTIMIZED = 1 << 20  # pixels: four times as slow, for a few per cent of the bytes
KEEPS_BRIGHTNESS = 0.01  # a filter whose sum is that near to 1 leaves even areas as they are


@dataclass(frozen=True)
class Scale:
    """Values to grey levels: `zero` is the level of 0, `step` levels a unit."""

    zero: float
    step: float
    told: str

    def levels(self, values: np.ndarray) -> np.ndarray:
        """uint8 like `values`."""
        return np.clip(np.rint(self.zero + self.step * values), 0, WHITE).astype(np.uint8)


def scale_of(values: np.ndarray, *, as_picture: bool = False) -> Scale:
    """The scale that shows these numbers; `as_picture` keeps 0 black and 255 white."""
    low, high = float(values.min()), float(values.max())
    if as_picture:
        cut = int(((values < -0.5) | (values > WHITE + 0.5)).sum())
        told = "0 is black, 255 white"
        if cut:
            told += f"; {cut / values.size:.2%} of the numbers lie outside and are cut"
        return Scale(0.0, 1.0, told)
    if low >= 0:
        if high == 0:
            return Scale(0.0, 1.0, "every number is 0, which is black")
        return Scale(0.0, WHITE / high, f"0 is black, the largest number ({plain(high)}) white")
    most = max(-low, high)
    return Scale(
        128.0, 127.0 / most,
        f"0 is mid-grey, {plain(most)} white, -{plain(most)} black",
    )  # fmt: skip


def scales(walk: Walk, *, from_picture: bool) -> dict[str, Scale]:
    """The scale of "input" and of every stage; `from_picture`: the image has levels 0 to 255.

    A stage keeps the levels of the picture where the filter keeps its brightness.
    """
    keeps = from_picture and abs(float(walk.filter.sum()) - 1) <= KEEPS_BRIGHTNESS
    found = {"input": scale_of(walk.image, as_picture=from_picture)}
    for stage in walk.stages:
        found[stage.name] = scale_of(stage.values, as_picture=keeps)
    return found


def enlargement(height: int, width: int) -> int:
    """Picture pixels a number, on each side."""
    return max(1, SMALLEST_DRAWN // max(height, width))


def picture(values: np.ndarray, scale: Scale) -> Image.Image:
    """float32[H, W, C], C 1 or 3, as a picture; small ones enlarged."""
    levels = scale.levels(values)
    image = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    times = enlargement(*levels.shape[:2])
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "png", optimize=image.width * image.height < MOST_OPTIMIZED)
    return file.getvalue()
