"""Files that are whole or not there: write to a temporary name, fsync, rename.

Every failure of the disk (full, no permission, not a folder) becomes one InputError line, and what
stood under the name before stays as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from .errors import InputError

CHECKSUM = "crc32"  # safetensors itself has none over the numbers
META = "cnnengine"  # one key: safetensors orders several in no fixed way, and bytes must not change


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step. Raises: InputError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; what stood there before is whole"
        ) from None


def check_free(path: Path, overwrite: bool) -> None:
    """Touch nothing. Raises: InputError when no file may be written at `path`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; give --overwrite to replace it, or another --out")


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays and one JSON object of metadata as safetensors, atomically. Raises: InputError.

    The bytes depend on the content only.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    told = json.dumps({**meta, CHECKSUM: checksum(contiguous)}, sort_keys=True)
    write_bytes(path, safetensors.numpy.save(contiguous, metadata={META: told}))


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, metadata) of a file made by `save_tensors`. Raises: InputError."""
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get(META, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no readable safetensors file: {error}") from None
    if not isinstance(meta, dict):
        raise InputError(f"{path} was not written by cnnengine: it has no {META!r} metadata")
    expected, found = meta.pop(CHECKSUM, None), checksum(tensors)
    if found != expected:
        raise InputError(f"{path} is damaged: its CRC-32 is {found}, it was written as {expected}")
    return tensors, meta


def checksum(tensors: Mapping[str, np.ndarray]) -> int:
    """CRC-32 over names, types, shapes and bytes of contiguous arrays, by name."""
    total = 0
    for name, array in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return total


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises: InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror or error}") from None
