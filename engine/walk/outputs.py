"""The folder of a walk: pictures of the image and the result, the animation and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import files
from ..errors import InputError
from .animation import gif
from .page import page
from .pictures import Scale, picture, png, scales
from .stages import Walk

MOST_WALKED = 96  # rows and columns of an image whose every position is shown
NAMES = (
    "input.png", "convolution.png", "relu.png", "result.png", "walk.gif", "walk.html"
)  # fmt: skip


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Touch nothing. Raises: InputError where the files of a walk stand already."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file, not a folder")
    taken = [name for name in NAMES if (folder / name).exists()]
    if taken and not overwrite:
        raise InputError(
            f"{folder / taken[0]} exists; give --overwrite to replace it, or another --out"
        )


def default_folder(image: str, filter_name: str) -> Path:
    """convolved/IMAGE-FILTER-N, N the first number that is free."""
    stem = f"{image}-{filter_name}".replace(" ", "-")
    number = 1
    while (Path("convolved") / f"{stem}-{number}").exists():
        number += 1
    return Path("convolved") / f"{stem}-{number}"


def pictures(walk: Walk, shown: Mapping[str, Scale]) -> dict[str, bytes]:
    """File name → PNG: the image, the stages, and the last of them as the result."""
    *before, last = walk.stages
    drawn = {"input.png": picture(walk.image, shown["input"])}
    drawn |= {f"{s.name}.png": picture(s.values, shown[s.name]) for s in before}
    drawn["result.png"] = picture(last.values, shown[last.name])
    return {name: png(image) for name, image in drawn.items()}


def animated(
    walk: Walk, *, from_picture: bool, title: str, filter_name: str, notes: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """File name → content of the animation and the page."""
    shown = scales(walk, from_picture=from_picture)
    text = page(walk, shown, title=title, filter_name=filter_name, notes=notes)
    return {"walk.gif": gif(walk, shown), "walk.html": text.encode()}


def save(folder: Path, contents: Mapping[str, bytes], *, overwrite: bool) -> list[Path]:
    """Write the files; those of an earlier walk there go. Raises: InputError."""
    check_free(folder, overwrite=overwrite)
    files.make_folder(folder)
    for name in NAMES:
        if name not in contents:
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"cannot replace {folder / name}: {error.strerror}") from None
    for name, content in contents.items():
        files.write_bytes(folder / name, content)
    return [folder / name for name in contents]


def walkable(image: np.ndarray) -> tuple[np.ndarray, str]:
    """A picture float32[H, W, C] in grey and at most MOST_WALKED pixels a side; what was done."""
    height, width, channels = image.shape
    told = []
    drawn = Image.fromarray(image.astype(np.uint8).squeeze(2) if channels == 1
                            else image.astype(np.uint8))  # fmt: skip
    if channels > 1:
        drawn = drawn.convert("L")
        told.append("in grey")
    most = max(height, width)
    if most > MOST_WALKED:
        size = (max(1, width * MOST_WALKED // most), max(1, height * MOST_WALKED // most))
        drawn = drawn.resize(size, Image.Resampling.BILINEAR)
        told.append(f"scaled to {size[1]} x {size[0]}")
    note = f"The walk shows the picture {' and '.join(told)}." if told else ""
    return np.asarray(drawn, np.float32)[:, :, None], note


def steps(walk: Walk) -> Iterator[dict[str, Any]]:
    """Each position of the first channel: window, products, sum, and what is left by the ReLU."""
    inside = np.pad(np.ones(walk.image.shape[:2], bool), (walk.op.padding[:2], walk.op.padding[2:]))
    (down, across), (r, s) = walk.op.stride, walk.filter.shape
    for row, column in np.ndindex(*walk.stages[0].values.shape[:2]):
        window = walk.window(row, column)[:, :, 0]
        y, x = row * down, column * across
        told = {
            "row": row, "column": column, "window": window.tolist(),
            "inside": inside[y : y + r, x : x + s].tolist(),
            "products": (window * walk.filter).tolist(),
            "sum": float(walk.stages[0].values[row, column, 0]),
        }  # fmt: skip
        if walk.relu:
            told["relu"] = float(walk.stages[1].values[row, column, 0])
        yield told
