"""Sizes and padding as people write them, turned into the tuples of the contract."""

from __future__ import annotations

from .errors import InputError

Padding = str | int | tuple[int, int] | tuple[int, int, int, int]
Size = int | tuple[int, int]


def two(size: Size) -> tuple[int, int]:
    """A size for rows and columns: 3 → (3, 3)."""
    return (size, size) if isinstance(size, int) else size


def four(
    padding: Padding, kernel: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1)
) -> tuple[int, int, int, int]:
    """Padding as (top, bottom, left, right).

    "same" keeps the size at stride 1 (an even filter gets the extra pixel behind), "valid" is
    none, a number goes on every side, a pair is (rows, columns).
    """
    if padding == "same":
        rows, columns = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    if padding == "valid":
        return 0, 0, 0, 0
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if isinstance(padding, tuple) and len(padding) == 2:
        return padding[0], padding[0], padding[1], padding[1]
    if isinstance(padding, tuple) and len(padding) == 4:
        return padding
    raise InputError(f"padding must be 'same', 'valid', 1, 2 or 4 numbers, not {padding!r}")
