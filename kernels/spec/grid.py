"""Where the pixels of an NHWC array lie: in order, or with a border of zeros around the images.

An activation may be `buffer[:, :H, :W]` of a buffer [N, H + rows, W + columns, C]. What belongs to
the buffer alone is its border, and holds zeros: a function that takes bordered arrays counts on
them in what it reads and writes them in what it writes. So a convolution finds the zeros of its
padding in memory and never asks which pixels lie outside. (Strides do not tell whether there are
rows below a single image: then none are read or written.)
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ShapeError
from .contract import ITEMSIZE, Array, address, dtype_name


class Grid(NamedTuple):
    """Pixel (n, h, w) begins at element ((n * lines + h) * line + w) * pitch."""

    lines: int  # rows from image to image: H and the rows of the border
    line: int  # pixels from row to row: W and the columns of the border
    pitch: int  # elements from pixel to pixel: C, more for a slice of channels


def grid(array: Array) -> Grid:
    """The grid of an NHWC array, or of a graph's value, which may have a `border`.

    What an axis of extent 1 leaves open: a single column has no border, and what lies between
    images of a single row counts as columns. Raises: ShapeError.
    """
    if (found := _grid(array)) is None:
        raise ShapeError(f"not NHWC: shape={tuple(array.shape)}, strides={array.strides} bytes")
    return found


def _grid(array: Array) -> Grid | None:
    n, h, w, c = array.shape
    strides = getattr(array, "strides", None)
    if strides is None:
        rows, columns = getattr(array, "border", (0, 0))
        return Grid(h + rows, w + columns, getattr(array, "pitch", c))
    if 0 in array.shape:
        return Grid(h, w, c)
    image, row, pixel = (stride // array.dtype.itemsize for stride in strides[:3])
    pitch = pixel if w > 1 else row if h > 1 else image if n > 1 else c
    if pitch <= 0:
        return None
    line = w if w == 1 else row // pitch if h > 1 else image // pitch if n > 1 else w
    lines = image // (line * pitch) if n > 1 and line > 0 else h
    steps = (lines * line * pitch, line * pitch, pitch, 1)
    fits = all(
        extent == 1 or stride == step * array.dtype.itemsize
        for extent, stride, step in zip(array.shape, strides, steps, strict=True)
    )
    return Grid(lines, line, pitch) if fits and pitch >= c and line >= w and lines >= h else None


def border(array: Array) -> tuple[int, int]:
    """(rows below, columns to the right) of the border of an NHWC array or graph's value."""
    lines, line, _ = grid(array)
    return lines - array.shape[1], line - array.shape[2]


def start(array: Array) -> int:
    """The byte where an array begins; of a graph's value, in the memory that it lies within."""
    if getattr(array, "strides", None) is None:
        return getattr(array, "channel", 0) * ITEMSIZE[dtype_name(array)]
    return address(array)


def positions(array: Array) -> int:
    """The pixels of an NHWC array and of its border."""
    lines, line, _ = grid(array)
    return array.shape[0] * lines * line


def bordered(function: str, **arrays: Array | None) -> None:
    """Require NHWC order; slices of channels and a border are allowed (None is left out)."""
    for name, array in arrays.items():
        if array is not None and _grid(array) is None:
            raise ShapeError(
                f"{function}: {name} must be NHWC (channels together, pixels in order, perhaps "
                f"with a border of zeros to the right and below); "
                f"shape={tuple(array.shape)}, strides={array.strides} bytes"
            )
