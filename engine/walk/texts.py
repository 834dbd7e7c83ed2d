"""Matrices as people write them: `1 0 -1; 2 0 -2; 1 0 -1`, in a line or in a file."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import InputError

LARGEST_FILE = 1 << 20  # bytes of a text file
MOST_TOLD = 49
LARGEST_NUMBER = 1e6  # so that no sum of products passes float32


def looks_like_matrix(text: str) -> bool:
    """Whether a text is meant as numbers: it begins with one, or with the end of a row."""
    first = re.match(r"[\s;,]*([^\s;,]*)", text)
    return (
        bool(text.strip()) and first is not None and (not first[1] or _number(first[1]) is not None)
    )


def parse_matrix(text: str, source: str) -> np.ndarray:
    """float32[rows, columns]: rows end with semicolons or lines, numbers with blanks or commas.

    Numbers may be fractions like 1/9. Raises: InputError that begins with `source`.
    """
    rows = [line for line in re.split(r"[;\n]", text) if line.strip()]
    if not rows:
        raise InputError(f"{source}: there are no numbers")
    parsed = [_row(row, number, source) for number, row in enumerate(rows, 1)]
    lengths = [len(row) for row in parsed]
    odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is not None:
        raise InputError(
            f"{source}: every row must have as many numbers: row 1 has {lengths[0]}, "
            f"row {odd + 1} has {lengths[odd]}"
        )
    return np.array(parsed, np.float32)


def read_matrix(path: Path, source: str) -> np.ndarray:
    """The matrix in a text file, as `parse_matrix`; what follows a # is left out.

    Raises: InputError.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"{source}: cannot read {path}: {error.strerror or error}") from None
    if len(content) > LARGEST_FILE:
        raise InputError(f"{source}: {path} is larger than {LARGEST_FILE} bytes, not a few numbers")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{source}: {path} is not a text file with numbers") from None
    lines = (line.partition("#")[0] for line in text.splitlines())
    return parse_matrix("\n".join(lines), f"{source}: {path}")


def _row(text: str, number: int, source: str) -> list[float]:
    values = []
    for word in re.split(r"[\s,]+", text.strip(" \t\r,")):
        value = _number(word)
        if value is None:
            raise InputError(f"{source}: {word!r} in row {number} is not a number")
        if not math.isfinite(value) or abs(value) > LARGEST_NUMBER:
            raise InputError(
                f"{source}: {word} in row {number}: numbers must lie between "
                f"-{LARGEST_NUMBER:,.0f} and {LARGEST_NUMBER:,.0f}"
            )
        values.append(value)
    return values


def _number(word: str) -> float | None:
    try:
        return float(Fraction(word)) if "/" in word else float(word)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def plain(value: float) -> str:
    """A number as short as it can be told: 4, -0.5, 0.0625, 1.23e+04."""
    return str(int(value)) if value == round(value) and abs(value) < 1e5 else f"{value:.4g}"


def plain_matrix(values: np.ndarray) -> str:
    """Like "1 0 -1; 2 0 -2"; of more than MOST_TOLD numbers only how many."""
    if values.size > MOST_TOLD:
        return f"{values.shape[0]} x {values.shape[1]} numbers"
    return "; ".join(" ".join(plain(float(v)) for v in row) for row in values)
