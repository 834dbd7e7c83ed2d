"""Files that are whole or not there: write to a temporary name, fsync, rename.

Every failure of the disk (full, no permission, not a folder) becomes one InputError line, and what
stood under the name before stays as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from .errors import InputError

CHECKSUM = "crc32"  # safetensors itself has none over the numbers
PART = 16 << 20  # bytes of a file that are looked at together
TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "I64": "i8", "U8": "u1"}
Content = bytes | mmap.mmap  # of a file, read or mapped
META = "cnnengine"  # one key: safetensors orders several in no fixed way, and bytes must not change


def write_bytes(path: Path, content: Content) -> None:
    """Replace `path` by `content` in one step. Raises: InputError."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(content)

    _replace(path, write)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Replace `path` in one step by the file that `write` makes. Raises: InputError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        told = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
        raise InputError(f"cannot write {path}: {told}; what stood there before is whole") from None


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    _replace(path, lambda temporary: _save(temporary, contiguous, told))


def _save(path: Path, tensors: dict[str, np.ndarray], told: str) -> None:
    """Raises: OSError, SafetensorError."""
    safetensors.numpy.save_file(tensors, path, metadata={META: told})


def load_tensors(
    path: Path, *, mapped: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, metadata) of a file made by `save_tensors`. Raises: InputError.

    With `mapped` the arrays are read-only and stay in the file until they are looked at; `forget`
    gives back the memory that looking took. Our own writing replaces files and never changes one.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get(META, "null"))
            if mapped:
                tensors = _mapped(path)
            else:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no readable safetensors file: {error}") from None
    if not isinstance(meta, dict):
        raise InputError(
            f"{path} was not written by cnnengine: it has no {META!r} metadata; of weights, "
            "cnnengine import makes a model"
        )
    expected, found = meta.pop(CHECKSUM, None), checksum(tensors)
    if found != expected:
        raise InputError(f"{path} is damaged: its CRC-32 is {found}, it was written as {expected}")
    return tensors, meta


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file that has been found whole, in a map of the file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    tensors = {}
    for name, told in header.items():
        if told["dtype"] not in TYPES:
            raise ValueError(f"{name} is {told['dtype']}; known: {', '.join(TYPES)}")
        kind, count = np.dtype(TYPES[told["dtype"]]), math.prod(told["shape"])
        start = 8 + size + told["data_offsets"][0]
        tensors[name] = np.frombuffer(memory, kind, count, start).reshape(told["shape"])
    return tensors


def mapped(path: Path) -> Content:
    """The content of a file, which is read where it is looked at. Raises: OSError."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def sha256(content: Content) -> str:
    """The SHA-256 of a content, hexadecimal."""
    numbers, total = np.frombuffer(content, np.uint8), hashlib.sha256()
    for part in parts(numbers):
        total.update(numbers[part].data)
        forget(numbers)
    return total.hexdigest()


def parts(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis of an array [N, ...] of some megabytes each, in order."""
    rows = max(1, PART // max(1, array[:1].nbytes))
    return (slice(start, start + rows) for start in range(0, len(array), rows))


def forget(array: np.ndarray) -> None:
    """Give back the memory that a mapped file takes, if `array` lies in one; it is read again."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    memory = base.obj if isinstance(base, memoryview) else base
    if isinstance(memory, mmap.mmap) and hasattr(memory, "madvise"):
        memory.madvise(mmap.MADV_DONTNEED)


def checksum(tensors: Mapping[str, np.ndarray]) -> int:
    """CRC-32 over names, types, shapes and bytes of contiguous arrays, by name."""
    total = 0
    for name, array in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        numbers = array.reshape(-1).view(np.uint8)
        for part in parts(numbers):
            total = zlib.crc32(numbers[part].data, total)
            forget(numbers)
    return total


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises: InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror or error}") from None


def check_folder(path: Path, told: str) -> None:
    """Whether a folder is there or can be made; `told` names the option. Raises: InputError."""
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not there.is_dir():
        raise InputError(f"{told} {path}: {there} is no folder")
    if there != path and not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{told} {path}: nothing may be written in {there}")


def remove(path: Path) -> None:
    """Remove a file, a folder with all that it holds, or a link alone. Raises: OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
