"""Bytes in and out of files: gzip, tar, checksums, and writes that happen whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


def read_file(path: Path) -> bytes:
    """The content of `path`, decompressed where it is gzip.

    Raises:
        InputError: the file is missing or unreadable, or its gzip stream is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if raw[:2] != _GZIP_MAGIC:
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error})") from error


def read_members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The files called `names` (base names, in any folder) of the tar archive at `path`.

    Raises:
        InputError: the archive is missing, damaged, or lacks one of them.
    """
    wanted, found = set(names), {}
    try:
        with tarfile.open(fileobj=io.BytesIO(read_file(path))) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                handle = archive.extractfile(member) if name in wanted else None
                if handle is not None:
                    found[name] = handle.read()
    except tarfile.TarError as error:
        raise InputError(f"{path}: damaged tar archive ({error})") from error
    missing = sorted(wanted - found.keys())
    if missing:
        raise InputError(f"{path}: the archive has no {', '.join(missing)}")
    return found


def check_sha256(data: bytes, size: int, expected: str, what: str) -> None:
    """Hold `data` to its published size in bytes and SHA-256; `what` names it.

    Raises:
        InputError: it is another size or has other content.
    """
    if len(data) != size:
        trouble = "truncated" if len(data) < size else "too long"
        raise InputError(f"{what}: {trouble} ({len(data)} bytes decompressed, expected {size})")
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise InputError(
            f"{what}: altered content (SHA-256 {actual[:16]}…, expected {expected[:16]}…)"
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: a temporary file beside it, flushed to disk, then renamed.

    Raises:
        InputError: the file cannot be written; nothing of it is left.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)
