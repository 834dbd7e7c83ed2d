"""A folder of images as a data set: one sub-folder a class.

Every file in a class folder, at any depth, must be a picture; names that begin with a dot do not
count. Where the folder holds `train` and `test` (or `val`), those are the splits and the classes
are one level further down. Else a fifth of each class becomes the test split: the files whose
SHA-256 of "seed/relative path" comes first, so the split depends on names and seed alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import Dataset, Splits, make_splits
from .images import Size, check_channels, height_width, read_image

TEST_SHARE = 0.2
_LISTED = 3
_NAMES = ("utf-8", "surrogateescape")  # names of files need not be valid UTF-8
_SPLIT_NAMES = {"train", "test", "val"}


@dataclass(frozen=True)
class _Picture:
    """One readable file: its path relative to the data set, its class, its pixels."""

    path: str
    label: int
    pixels: np.ndarray


def read_folder(
    root: Path,
    *,
    image_size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> Splits:
    """The data set in the folder `root`.

    `image_size` is (height, width) in pixels or one number for a square; without it every picture
    must have the same size. `channels` is 1 or 3; without it 1 if every picture is grey, else 3.
    `skip_bad` leaves unreadable files out and lists them in `skipped`.

    Raises:
        InputError: fewer than two classes, an empty or too small class, unreadable files, sizes
            that differ.
    """
    size = None if image_size is None else height_width(image_size)
    if channels is not None:
        check_channels(channels)
    given = _split_folders(root)
    skipped: list[str] = []
    if given is None:
        classes = _class_names(root)
        pictures = _read_split(root, root, classes, size, channels, skipped)
        _refuse_bad(root, skipped, skip_bad)
        test_paths = _test_paths(root, pictures, classes, seed)
        halves = (
            [picture for picture in pictures if picture.path not in test_paths],
            [picture for picture in pictures if picture.path in test_paths],
        )
        rule = f"{TEST_SHARE:.0%} of each class held out for test, by file name and seed {seed}"
    else:
        classes, other = _class_names(given[0]), _class_names(given[1])
        if classes != other:
            differ = ", ".join(sorted(set(classes) ^ set(other)))
            raise InputError(f"{root}: train and test have other classes (only in one: {differ})")
        halves = (
            _read_split(root, given[0], classes, size, channels, skipped),
            _read_split(root, given[1], classes, size, channels, skipped),
        )
        _refuse_bad(root, skipped, skip_bad)
        for place, pictures in zip(given, halves, strict=True):
            _refuse_small(place, pictures, classes, 1)
        rule = f"splits as the folders {given[0].name} and {given[1].name} give them"
    train, test = _datasets(root, halves, classes, channels)
    note = f"{len(train)} train and {len(test)} test images; {rule}"
    if skipped:
        note += f"; {len(skipped)} unreadable files left out"
    loose = [path for place in {root, *(given or ())} for path in _visible(place)]
    if outside := sum(not path.is_dir() for path in loose):
        note += f"; {outside} files outside the class folders not read"
    return make_splits(root.name or str(root), train, test, note, tuple(skipped))


def _visible_folders(root: Path) -> list[Path]:
    """The sub-folders of `root` whose names do not begin with a dot, sorted by name."""
    return [path for path in _visible(root) if path.is_dir()]


def _visible(root: Path) -> list[Path]:
    """What lies in `root` under names that do not begin with a dot, sorted by name."""
    try:
        return sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror})") from error


def _split_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of the two splits, where `root` is laid out so."""
    names = {path.name for path in _visible_folders(root)}
    if "train" not in names or len(names & _SPLIT_NAMES) < 2:
        return None
    if len(names) != 2:
        raise InputError(
            f"{root}: beside train there must be one of test and val and nothing else,"
            f" not {', '.join(sorted(names - {'train'}))}"
        )
    (other,) = names - {"train"}
    return root / "train", root / other


def _class_names(root: Path) -> tuple[str, ...]:
    """The classes of a split: the names of its sub-folders, sorted."""
    names = tuple(path.name for path in _visible_folders(root))
    if len(names) < 2:
        raise InputError(
            f"{root}: a folder of images needs one sub-folder a class and at least two classes,"
            f" found {len(names)}"
        )
    for name in names:
        if not name.isprintable():
            raise InputError(f"{root}: the class name {name!r} is no valid text; rename the folder")
    return names


def _read_split(
    root: Path,
    place: Path,
    classes: tuple[str, ...],
    size: tuple[int, int] | None,
    channels: int | None,
    skipped: list[str],
) -> list[_Picture]:
    """Every readable picture below `place`, in the order of classes and paths."""
    pictures = []
    for label, name in enumerate(classes):
        files = [
            path
            for path in sorted((place / name).rglob("*"))
            if not path.is_dir()
            and not any(part.startswith(".") for part in path.relative_to(place).parts)
        ]
        if not files:
            raise InputError(f"{place / name}: the class {name!r} has no images")
        for path in files:
            try:
                pixels = read_image(path, size, channels)
            except InputError as error:
                skipped.append(str(error))
            else:
                pictures.append(_Picture(path.relative_to(root).as_posix(), label, pixels))
    return pictures


def _refuse_bad(root: Path, skipped: list[str], skip_bad: bool) -> None:
    """Raise for the unreadable files, unless they are to be left out."""
    if not skipped or skip_bad:
        return
    more = f" and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
    raise InputError(
        f"{root}: {len(skipped)} unreadable files: {'; '.join(skipped[:_LISTED])}{more}"
    )


def _refuse_small(
    place: Path, pictures: list[_Picture], classes: tuple[str, ...], least: int
) -> None:
    """Raise for a class with fewer than `least` readable pictures."""
    counts = np.bincount([picture.label for picture in pictures], minlength=len(classes))
    for name, count in zip(classes, counts.tolist(), strict=True):
        if count < least:
            raise InputError(
                f"{place}: the class {name!r} has {count} readable images, at least {least}"
                f" are needed"
            )


def _test_paths(
    root: Path, pictures: list[_Picture], classes: tuple[str, ...], seed: int
) -> set[str]:
    """The paths of the test split: of each class the share whose hashes come first."""
    _refuse_small(root, pictures, classes, 2)
    chosen: set[str] = set()
    for label in range(len(classes)):
        paths = [picture.path for picture in pictures if picture.label == label]
        paths.sort(key=lambda path: hashlib.sha256(f"{seed}/{path}".encode(*_NAMES)).digest())
        chosen.update(paths[: max(1, round(TEST_SHARE * len(paths)))])
    return chosen


def _datasets(
    root: Path,
    halves: tuple[list[_Picture], list[_Picture]],
    classes: tuple[str, ...],
    channels: int | None,
) -> tuple[Dataset, Dataset]:
    """Train and test as arrays, once all pictures are found to be of one size."""
    pictures = halves[0] + halves[1]
    first = pictures[0]
    for picture in pictures:
        if picture.pixels.shape[:2] != first.pixels.shape[:2]:
            (h0, w0), (h1, w1) = first.pixels.shape[:2], picture.pixels.shape[:2]
            raise InputError(
                f"{root}: images differ in size ({first.path} is {h0}x{w0}, {picture.path} is"
                f" {h1}x{w1}); scale all to one, like --image-size 64"
            )
    depth = channels or max(picture.pixels.shape[2] for picture in pictures)
    both = []
    for split, half in zip(("train", "test"), halves, strict=True):
        images = np.stack([np.broadcast_to(p.pixels, (*p.pixels.shape[:2], depth)) for p in half])
        labels = np.array([picture.label for picture in half], np.int32)
        both.append(Dataset(f"{root.name or root}/{split}", images, labels, classes))
    return both[0], both[1]
