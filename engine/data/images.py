"""One picture file, of any mode and size, to uint8[H, W, C].

Transparent pictures are laid on white, 16-bit ones are scaled to 8 bits, the orientation that a
camera noted is applied, and grey is ITU-R 601 luma. A picture of other proportions is scaled to
cover the wanted size and what hangs over is cut equally on both sides (bilinear, antialiased).
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import InputError

Size = int | tuple[int, int]

_GREY_MODES = ("1", "L", "LA", "La")
_DAMAGED = (  # what Pillow's readers were seen to raise, or may, at bytes that make no sense
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError,
    NotImplementedError, struct.error, zlib.error,
)  # fmt: skip

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs, the error says


def height_width(size: Size) -> tuple[int, int]:
    """(height, width) from a size in pixels: one number means a square.

    Raises:
        InputError: a side is below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise InputError(f"image size {height}x{width}: both sides must be at least 1 pixel")
    return height, width


def check_channels(channels: int) -> None:
    """Refuse a number of channels that is neither 1 (grey) nor 3 (RGB).

    Raises:
        InputError: any other number.
    """
    if channels not in (1, 3):
        raise InputError(f"channels {channels}: pictures have 1 (grey) or 3 (RGB)")


def read_image(path: str | Path, size: Size | None, channels: int | None) -> np.ndarray:
    """The picture at `path` as uint8[H, W, C].

    `size` is (height, width) in pixels or one number for a square, `channels` is 1 or 3; None keeps
    what the picture has.

    Raises:
        InputError: the file is missing, not a picture, damaged, or too large to be honest.
    """
    wanted = None if size is None else height_width(size)
    if channels is not None:
        check_channels(channels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                return convert(upright, wanted, channels)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a decompression bomb"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; name pictures in it") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable picture ({reason})") from error


def convert(image: Image.Image, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """A Pillow image as uint8[H, W, C], scaled and cut to `size` = (height, width).

    Raises:
        ValueError: the mode has no stated range of brightness (floating point, 32 bits).
    """
    flat = _on_white(_eight_bits(image))
    if channels is None:
        channels = 1 if flat.mode == "L" else 3
    flat = flat.convert("L" if channels == 1 else "RGB")
    if size is not None and (flat.height, flat.width) != size:
        flat = ImageOps.fit(flat, (size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(flat, dtype=np.uint8).reshape(flat.height, flat.width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits so that 65535 becomes 255; anything else as it is."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"mode {image.mode} has no stated range of brightness")
    scaled = (values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF
    return Image.fromarray(scaled.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    """The picture without transparency, in mode L or RGB."""
    base = "L" if image.mode in _GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(base)
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert(base)
