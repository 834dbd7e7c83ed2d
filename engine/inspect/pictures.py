"""Arrays as PNG pictures inside a page: few colours, so that a page of hundreds stays small.

heat: no colour at 0, over purple and orange to yellow; what lies beneath shows through where values
are low. signed: blue below 0, white at 0, red above. Both have `LEVELS` steps.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

LEVELS = 65  # odd: white is exactly 0
CLEAR_BELOW = 0.6  # of the greatest value: from there on heat hides what lies beneath
COLOURS = 64  # of a small colour photo


def heat(values: np.ndarray, greatest: float) -> str:
    """[H,W] of values from 0 to `greatest` as a data URI; what is below 0 counts as 0."""
    shares = np.linspace(0, 1, LEVELS)
    alpha = np.minimum(shares / CLEAR_BELOW, 1)
    return _palette(_steps(values, 0, greatest), "inferno", alpha)


def signed(values: np.ndarray, greatest: float, *, clear: bool = False) -> str:
    """[H,W] of values from -`greatest` to `greatest` as a data URI; `clear`: no colour at 0."""
    alpha = np.minimum(abs(np.linspace(-1, 1, LEVELS)) / CLEAR_BELOW, 1) if clear else None
    return _palette(_steps(values, -greatest, greatest), "RdBu_r", alpha)


def diverging_rgb(values: np.ndarray, greatest: float) -> str:
    """[H,W,3] of values from -`greatest` to `greatest` as a colour: middle grey is 0."""
    scaled = 127.5 + 127.5 * values / (greatest or 1.0)
    return _uri(Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8)))


def photo(pixels: np.ndarray, longest: int | None = None) -> str:
    """uint8 [H,W,1] or [H,W,3]; with `longest` shrunk to that side and, in colour, to 64 colours.

    A picture without pixels becomes one clear pixel.
    """
    if not pixels.size:
        return _uri(Image.new("LA", (1, 1)))
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if longest is None:
        return _uri(image)
    image.thumbnail((longest, longest), Image.Resampling.BOX)
    return _uri(image.quantize(COLOURS) if image.mode == "RGB" else image)


def scale(kind: str) -> str:
    """The colours of `heat` on black or of `signed`, the lowest on the left."""
    ramp = np.linspace(0 if kind == "heat" else -1, 1, LEVELS)[None]
    return heat(ramp, 1) if kind == "heat" else signed(ramp, 1)


def _steps(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 numbers of the levels; all in the lowest where high is low."""
    share = (values - low) / ((high - low) or 1.0)
    return (share.clip(0, 1) * (LEVELS - 1)).round().astype(np.uint8)


def _palette(steps: np.ndarray, colours: str, alpha: np.ndarray | None = None) -> str:
    image = Image.fromarray(steps)
    table = colormaps[colours](np.linspace(0, 1, LEVELS))[:, :3]
    image.putpalette((table * 255).round().astype(np.uint8).tobytes())
    if alpha is None:
        return _uri(image)
    return _uri(image, transparency=(alpha * 255).round().astype(np.uint8).tobytes())


def _uri(image: Image.Image, **more: bytes) -> str:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True, **more)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
