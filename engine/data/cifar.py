"""The binary version of CIFAR-10: records of one label byte and 3 x 32 x 32 pixel bytes.

A record holds the red plane, the green plane and the blue plane, each row by row. Source: the
description on the CIFAR home page, section "Binary version".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from .files import read_file

SIDE = 32
CHANNELS = 3
RECORD = 1 + CHANNELS * SIDE * SIDE


def parse_cifar(data: bytes, classes: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The records in `data` as uint8[N, 32, 32, 3] and int32[N]; `what` names the file.

    Raises:
        InputError: no whole number of records, or a label is not below `classes`.
    """
    count, rest = divmod(len(data), RECORD)
    if rest or not count:
        raise InputError(
            f"{what}: {len(data)} bytes are not a whole number of {RECORD}-byte records"
        )
    records = np.frombuffer(data, np.uint8).reshape(count, RECORD)
    labels = records[:, 0].astype(np.int32)
    if int(labels.max()) >= classes:
        raise InputError(f"{what}: label {int(labels.max())} is outside 0 … {classes - 1}")
    planes = records[:, 1:].reshape(count, CHANNELS, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def read_cifar(path: Path, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """The CIFAR file at `path` (plain or gzip) as uint8[N, 32, 32, 3] and int32[N].

    Raises:
        InputError: the file is missing, damaged or not of this format.
    """
    return parse_cifar(read_file(path), classes, str(path))
