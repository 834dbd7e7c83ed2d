"""Filters by name, in a line of numbers, or in a file.

They are laid over the image as they are written (cross-correlation, as in every convolutional
network): sobel-x is positive where the image gets brighter to the right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError, unknown_name
from .texts import looks_like_matrix, parse_matrix, read_matrix

FILTERS = {
    "sobel-x": "-1 0 1; -2 0 2; -1 0 1",
    "sobel-y": "-1 -2 -1; 0 0 0; 1 2 1",
    "sharpen": "0 -1 0; -1 5 -1; 0 -1 0",
    "blur": "1/16 2/16 1/16; 2/16 4/16 2/16; 1/16 2/16 1/16",
    "edge": "-1 -1 -1; -1 8 -1; -1 -1 -1",
    "emboss": "-2 -1 0; -1 1 1; 0 1 2",
    "identity": "0 0 0; 0 1 0; 0 0 0",
}
LARGEST = 63  # rows and columns


def read_filter(told: str) -> tuple[str, np.ndarray]:
    """(name, float32[R, S]) of a filter's name, its numbers, or a text file that holds them.

    Raises: InputError for an unknown name, numbers that make no matrix, or sides that have no
    middle pixel (even) or are larger than LARGEST.
    """
    name, values = _find(told)
    rows, columns = values.shape
    if rows % 2 == 0 or columns % 2 == 0:
        raise InputError(
            f"--filter ({name}): both sides must be odd, so that one number lies in the middle; "
            f"it is {rows} x {columns}"
        )
    if max(rows, columns) > LARGEST:
        raise InputError(
            f"--filter ({name}): at most {LARGEST} x {LARGEST} numbers are taken; it is "
            f"{rows} x {columns}"
        )
    return name, values


def _find(told: str) -> tuple[str, np.ndarray]:
    if told in FILTERS:
        return told, parse_matrix(FILTERS[told], told)
    path = Path(told)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a zero in it
        is_file = False
    if is_file:
        return path.name, read_matrix(path, "--filter")
    if looks_like_matrix(told):
        return "own filter", parse_matrix(told, "--filter")
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"--filter {told}: no such file")
    error = unknown_name("filter", told, FILTERS)
    raise InputError(f"{error}; or numbers like '1 0 -1; 2 0 -2; 1 0 -1', or a file of numbers")
