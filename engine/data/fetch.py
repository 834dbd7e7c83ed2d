"""Bring a named data set onto this machine: from its home, or from files already here.

Every file is decompressed and verified before the first one is stored; each is stored whole or not
at all, decompressed, in the user's cache folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import platformdirs

from ..errors import InputError, unknown_name
from .files import check_sha256, read_file, read_members, write_atomically
from .mini import EMBEDDED
from .registry import REGISTRY, Download, Entry

Progress = Callable[[str, int, int], None]

TIMEOUT_SECONDS = 30


def cache_folder(entry: Entry, cache_dir: str | Path | None) -> Path:
    """Where the files of `entry` are kept: under `cache_dir`, else under the user's cache."""
    root = Path(cache_dir) if cache_dir else platformdirs.user_cache_path("cnnengine") / "data"
    return root / entry.name


def fetch(
    name: str,
    *,
    source_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    registry: Mapping[str, Entry] = REGISTRY,
) -> Path:
    """Fetch the data set `name` and return the folder that holds its verified files.

    `source_dir` takes the files from a folder (compressed or not, flat or laid out as Debian's
    package of the data set does) instead of the network. `progress(file, done, total)` is told of
    each download in bytes; `total` is 0 where the server does not say. What is already in the cache
    and sound is not downloaded again.

    Raises:
        InputError: unknown name, or a file is missing, truncated, altered or out of reach.
    """
    if name not in registry:
        raise unknown_name("data set", name, registry)
    entry = registry[name]
    if entry.embedded:
        if source_dir is not None:
            raise InputError(f"data set {name!r} comes with the package: there is nothing to fetch")
        return EMBEDDED
    folder = cache_folder(entry, cache_dir)
    if source_dir is not None:
        contents = read_source(entry, Path(source_dir))
    elif _is_sound(entry, folder):
        return folder
    else:
        contents = _download_all(entry, progress)
    entry.datasets(contents)
    for member in entry.members:
        write_atomically(folder / member.name, contents[member.name])
    return folder


def read_source(entry: Entry, source: Path) -> dict[str, bytes]:
    """The verified bytes of every member of `entry` from the files in the folder `source`.

    Raises:
        InputError: `source` is no folder, or a file is missing, truncated or altered.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    places = [
        source,
        source / entry.name,
        source / "usr" / "share" / "datasets" / entry.name,
        source / "cifar-10-batches-bin",
    ]
    contents: dict[str, bytes] = {}
    for download in entry.downloads:
        contents |= _read_local(entry, download, places)
    return contents


def read_cached(entry: Entry, cache_dir: str | Path | None) -> dict[str, bytes]:
    """The verified bytes of every member of `entry` from the cache; never downloads.

    Raises:
        InputError: the data set was not fetched, or a file in the cache is damaged.
    """
    folder = cache_folder(entry, cache_dir)
    command = f"cnnengine data fetch {entry.name} [--from DIR]"
    if not all((folder / member.name).is_file() for member in entry.members):
        raise InputError(f"data set {entry.name!r} is not on this machine; fetch it: {command}")
    contents = {}
    for member in entry.members:
        path = folder / member.name
        data = read_file(path)
        try:
            check_sha256(data, member.size, member.sha256, str(path))
        except InputError as error:
            raise InputError(f"{error}; fetch it again: {command}") from error
        contents[member.name] = data
    return contents


def _read_local(entry: Entry, download: Download, places: list[Path]) -> dict[str, bytes]:
    """The members of one download from the first place that has them, packed or not."""
    for place in places:
        plain = {member.name: place / member.name for member in download.members}
        packed = place / download.file_name
        if all(path.is_file() for path in plain.values()):
            contents = {}
            for member in download.members:
                path = plain[member.name]
                contents[member.name] = read_file(path)
                check_sha256(contents[member.name], member.size, member.sha256, str(path))
            return contents
        if packed.is_file():
            return _unpack(download, packed, str(packed))
    names = ", ".join(member.name for member in download.members)
    looked = ", ".join(str(place) for place in places if place.is_dir())
    raise InputError(
        f"data set {entry.name!r}: neither {download.file_name} nor {names} is in {looked}"
    )


def _unpack(download: Download, path: Path, what: str) -> dict[str, bytes]:
    """The verified members of the packed file at `path`, called `what` in errors."""
    if ".tar" in download.file_name:
        contents = read_members(path, [member.name for member in download.members])
    else:
        contents = {download.members[0].name: read_file(path)}
    for member in download.members:
        inside = what if len(contents) == 1 else f"{what}: {member.name}"
        check_sha256(contents[member.name], member.size, member.sha256, inside)
    return contents


def _is_sound(entry: Entry, folder: Path) -> bool:
    """Whether every member is in the cache and verified."""
    try:
        for member in entry.members:
            path = folder / member.name
            check_sha256(read_file(path), member.size, member.sha256, str(path))
    except InputError:
        return False
    return True


def _download_all(entry: Entry, progress: Progress | None) -> dict[str, bytes]:
    """The verified members of every download of `entry`, from its home."""
    contents: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="cnnengine-") as folder:
        for download in entry.downloads:
            path = Path(folder) / download.file_name
            _download(download, path, progress)
            contents |= _unpack(download, path, download.url)
    return contents


def _download(download: Download, path: Path, progress: Progress | None) -> None:
    """Write what `download.url` answers to `path`."""
    import pooch  # takes 0.1 s to import, and only a download needs it

    bar = None if progress is None else _Bar(download.file_name, progress)
    downloader = pooch.HTTPDownloader(progressbar=cast(Any, bar), timeout=TIMEOUT_SECONDS)
    try:
        downloader(download.url, str(path), None)
    except OSError as error:
        answer = getattr(error, "response", None)
        reason = type(error).__name__ if answer is None else f"HTTP {answer.status_code}"
        raise InputError(
            f"{download.url}: cannot be downloaded ({reason}); where there is no network,"
            f" get the files by other means and use --from DIR"
        ) from error


class _Bar:
    """What pooch wants of a progress bar, handed on to a `Progress`."""

    total = 0

    def __init__(self, file_name: str, progress: Progress) -> None:
        self._file_name, self._progress, self._done = file_name, progress, 0

    def update(self, count: int) -> None:
        """`count` more bytes have come (pooch counts whole chunks, the last one too)."""
        self._done += count
        done = min(self._done, self.total) if self.total else self._done
        self._progress(self._file_name, done, self.total)

    def reset(self) -> None:
        """Start counting again."""
        self._done = 0

    def close(self) -> None:
        """Nothing is held open."""
