"""The IDX format of MNIST and its kin: a big-endian header, then unsigned bytes.

Header: two zero bytes, the element type (0x08 = unsigned byte), the number of dimensions, then one
32-bit length per dimension. Source: the description on the MNIST home page.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from ..errors import InputError
from .files import read_file

_UNSIGNED_BYTE = 0x08


def parse_idx(data: bytes, dimensions: int, what: str) -> np.ndarray:
    """The array in the IDX bytes `data`, uint8 with `dimensions` axes; `what` names the file.

    Raises:
        InputError: wrong magic number, cut short, or bytes left over.
    """
    head = 4 + 4 * dimensions
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if data[:4] != magic[: len(data)] or not data:
        raise InputError(
            f"{what}: not an IDX file of bytes with {dimensions} dimensions"
            f" (magic number 0x{data[:4].hex()}, expected 0x{magic.hex()})"
        )
    if len(data) < head:
        raise InputError(f"{what}: truncated in its header ({len(data)} of {head} bytes)")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    expected = head + math.prod(shape)
    if len(data) != expected:
        trouble = "truncated" if len(data) < expected else "has trailing bytes"
        raise InputError(
            f"{what}: {trouble} ({len(data)} bytes, its header {list(shape)} means {expected})"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def parse_pair(
    images: bytes, labels: bytes, classes: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """One split from the bytes of its two files: uint8[N, H, W, 1] and int32[N].

    Raises:
        InputError: a file is not sound, the counts differ, or a label is not below `classes`.
    """
    pixels = parse_idx(images, 3, f"{what} (images)")
    marks = parse_idx(labels, 1, f"{what} (labels)")
    if len(pixels) != len(marks):
        raise InputError(f"{what}: {len(pixels)} images but {len(marks)} labels")
    if len(marks) and int(marks.max()) >= classes:
        raise InputError(f"{what}: label {int(marks.max())} is outside 0 … {classes - 1}")
    return pixels[..., None], marks.astype(np.int32)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in the IDX file at `path` (plain or gzip), uint8 with `dimensions` axes.

    Raises:
        InputError: the file is missing, damaged or not IDX.
    """
    return parse_idx(read_file(path), dimensions, str(path))
