"""`cnnengine convolve`: a filter over an image, as pictures, numbers and an animated walk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import InputError, unknown_name
from . import options, output

if TYPE_CHECKING:
    import numpy as np

    from ..engine.device import Device
    from ..engine.walk import Walk

MODES = ("zeros", "edge", "none")
TEXT = (".txt", ".csv", ".tsv")
NEGATIVE = re.compile(r"-[\d.]\S*[\s,;]")  # several numbers, the first below 0
SMALL = 12  # rows and columns whose numbers are written out


class NumbersCommand(click.Command):
    """Takes numbers like "-1 0; 1 0" for what they are: click would read an option `-1`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, numbers behind a blank."""
        return super().parse_args(ctx, [f" {a}" if NEGATIVE.match(a) else a for a in args])


@click.command("convolve", cls=NumbersCommand)
@click.argument("image", metavar="IMAGE")
@click.option("--filter", "filter_", required=True, metavar="FILTER",
              help="sobel-x, sobel-y, sharpen, blur, edge, emboss, identity; numbers like "
              "'1 0 -1; 2 0 -2; 1 0 -1'; or a text file of them.")  # fmt: skip
@click.option("--stride", type=click.IntRange(1), default=1, show_default=True,
              help="Pixels from one window to the next.")  # fmt: skip
@click.option("--padding", type=click.IntRange(0), metavar="N",
              help="Pixels around the image.  [default: so many that the size stays]")  # fmt: skip
@click.option("--padding-mode", default="zeros", show_default=True,
              help="zeros; edge: the nearest pixel; none: no padding.")  # fmt: skip
@click.option("--relu", is_flag=True, help="Set what is below zero to zero.")
@click.option("--pool", type=click.IntRange(2), metavar="N",
              help="Then keep the largest of each N x N.")  # fmt: skip
@click.option("--gray", "--grey", is_flag=True, help="Take the picture in grey.")
@click.option("--out", type=Path, metavar="DIR",
              help="Where the pictures go.  [default: convolved/IMAGE-FILTER-N]")  # fmt: skip
@click.option("--steps", "with_steps", is_flag=True,
              help="Show the filter's walk: walk.gif, and walk.html to play and step by keyboard. "
              "Up to 12 x 12 numbers, each product and sum is printed as well.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier walk in DIR.")
@options.DEVICE
@options.KERNELS
@options.JSON
def command(
    image: str, filter_: str, stride: int, padding: int | None, padding_mode: str, relu: bool,
    pool: int | None, gray: bool, out: Path | None, with_steps: bool, overwrite: bool, device: str,
    kernels: str, as_json: bool,
) -> None:  # fmt: skip
    """Lay a filter over IMAGE: a picture, a text file of numbers, or numbers like "0 1; 1 0".

    The convolution, ReLU and pooling are this project's own kernels. Colours are taken one by one.
    """
    from ..engine.device import open_device
    from ..engine.walk import convolve, default_padding, outputs, pictures, read_filter

    name, weights = read_filter(filter_)
    if padding_mode not in MODES:
        raise unknown_name("padding mode", padding_mode, MODES)
    if padding and padding_mode == "none":
        raise InputError(f"--padding {padding} cannot stand beside --padding-mode none")
    values, stem, from_picture = _read(image, gray)
    if padding_mode == "none":
        padding = 0
    pads = default_padding(weights) if padding is None else (padding, padding)
    folder = out or outputs.default_folder(stem, name)
    outputs.check_free(folder, overwrite=overwrite)
    place = open_device(device, kernels)
    _warn(place)
    settings: dict[str, Any] = {
        "stride": stride, "padding": pads, "padding_mode": padding_mode, "relu": relu,
        "pool": pool or 0,
    }  # fmt: skip
    walk = convolve(values, weights, place, **settings)
    shown = pictures.scales(walk, from_picture=from_picture)
    contents = outputs.pictures(walk, shown)
    slow, note = walk, ""
    if with_steps:
        slow, note = _slow_walk(walk, from_picture, place, settings)
        contents |= outputs.animated(
            slow, from_picture=from_picture, title=stem, filter_name=name,
            notes=(note,) if note else (),
        )  # fmt: skip
    written = outputs.save(folder, contents, overwrite=overwrite)
    if as_json:
        told = _told(walk, image, name, place, written, shown[walk.stages[-1].name].told)
        if with_steps and _is_small(slow):
            told["steps"] = list(outputs.steps(slow))
        output.print_json(told)
        return
    _print_matrices(walk)
    if with_steps and _is_small(slow):
        _print_steps(slow)
    _print_facts(walk, name, place, shown, written, note)


def _read(image: str, gray: bool) -> tuple[np.ndarray, str, bool]:
    """(float32[H, W, C], a name for files, whether it is a picture). Raises: InputError."""
    import numpy as np

    from ..engine.data import read_image
    from ..engine.walk import looks_like_matrix, parse_matrix, read_matrix

    if not image.strip():
        raise InputError("IMAGE is empty; name a picture, or give numbers like '0 1; 1 0'")
    path = Path(image)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # longer than a name may be, or with a zero in it
        exists = False
    if exists and path.suffix.lower() in TEXT:
        return read_matrix(path, "IMAGE")[:, :, None], path.stem, False
    if not exists and looks_like_matrix(image):
        return parse_matrix(image, "IMAGE")[:, :, None], "numbers", False
    pixels = read_image(path, None, 1 if gray else None)
    return pixels.astype(np.float32), path.stem, True


def _slow_walk(
    walk: Walk, from_picture: bool, place: Device, settings: dict[str, Any]
) -> tuple[Walk, str]:
    """The walk that is shown step by step, and what was done to the picture for it."""
    from ..engine.walk import convolve, outputs

    if not from_picture:
        if max(walk.image.shape) > outputs.MOST_WALKED:
            raise InputError(
                f"--steps: at most {outputs.MOST_WALKED} rows and columns of numbers, not "
                f"{walk.image.shape[0]} x {walk.image.shape[1]}"
            )
        return walk, ""
    image, note = outputs.walkable(walk.image)
    if not note:
        return walk, ""
    try:
        return convolve(image, walk.filter, place, **settings), note
    except InputError as error:
        raise InputError(f"--steps: {note.rstrip('.')}, and there {error}") from None


def _warn(place: Device) -> None:
    if place.warning:
        output.warn(place.warning)


def _is_small(walk: Walk) -> bool:
    return max(walk.image.shape[:2]) <= SMALL


def _print_matrices(walk: Walk) -> None:
    """Image, filter and every stage as numbers, where they are few."""
    if not _is_small(walk) or walk.image.shape[2] > 1:
        return
    from rich.columns import Columns
    from rich.padding import Padding

    shown = [("image", walk.image[:, :, 0]), ("filter", walk.filter)]
    shown += [(stage.name, stage.values[:, :, 0]) for stage in walk.stages]
    console = output.console()
    console.print(Columns([Padding(_matrix(name, m), (0, 4, 1, 0)) for name, m in shown]))


def _matrix(title: str, values: np.ndarray) -> Any:
    from rich.table import Table

    from ..engine.walk.texts import plain

    table = Table(title=title, title_justify="left", title_style="bold", box=None,
                  show_header=False, pad_edge=False, min_width=len(title))  # fmt: skip
    for _ in range(values.shape[1]):
        table.add_column(justify="right", no_wrap=True)
    for row in values:
        table.add_row(*(plain(float(v)) for v in row))
    return table


def _print_steps(walk: Walk) -> None:
    """A row for each position: the window, every product, and their sum."""
    from ..engine.walk import outputs
    from ..engine.walk.texts import plain

    rows = []
    for step in outputs.steps(walk):
        window = [
            [plain(v) if there else f"({plain(v)})" for v, there in zip(*pair, strict=True)]
            for pair in zip(step["window"], step["inside"], strict=True)
        ]
        products = [
            [f"{_factor(value)}*{_factor(weight)}" for value, weight in zip(*pair, strict=True)]
            for pair in zip(step["window"], walk.filter.tolist(), strict=True)
        ]
        total = " + ".join(_factor(v) for line in step["products"] for v in line)
        told = f"{total} = {plain(step['sum'])}"
        if "relu" in step:
            told += f" -> {plain(step['relu'])}"
        rows.append((
            f"{step['row'] + 1}, {step['column'] + 1}", _lines(window), _lines(products), told
        ))  # fmt: skip
    output.print_table(
        ("row, column", "window", "pixel * weight", "sum" + (" -> ReLU" if walk.relu else "")),
        rows, left=("sum", "sum -> ReLU"), title="Each step (pixels in brackets are padding)",
    )  # fmt: skip


def _factor(value: float) -> str:
    from ..engine.walk.texts import plain

    return f"({plain(value)})" if value < 0 else plain(value)


def _lines(cells: list[list[str]]) -> str:
    """Rows on lines, columns under one another."""
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(row, wide, strict=True)) for row in cells
    )


def _told(
    walk: Walk, image: str, name: str, place: Device, written: list[Path], shown: str
) -> dict[str, Any]:
    """The object for --json."""
    last = walk.stages[-1].values
    told: dict[str, Any] = {
        "image": image.strip(),
        "filter": {"name": name, "values": walk.filter.tolist()},
        "device": place.name,
        "stride": walk.op.stride[0],
        "padding": list(walk.op.padding),
        "padding_mode": walk.op.padding_mode if any(walk.op.padding) else "none",
        "input": list(walk.image.shape),
        "stages": [
            {"name": s.name, "shape": list(s.values.shape), "backend": s.backend,
             "sizes": list(s.sizes)}
            for s in walk.stages
        ],
        "smallest": float(last.min()),
        "largest": float(last.max()),
        "shown": shown,
        "files": [str(path) for path in written],
    }  # fmt: skip
    if _is_small(walk) and last.shape[2] == 1:
        told["values"] = last[:, :, 0].tolist()
    return told


def _print_facts(
    walk: Walk, name: str, place: Device, shown: dict[str, Any], written: list[Path], note: str
) -> None:
    from ..engine.walk.stages import FORMULA
    from ..engine.walk.texts import plain, plain_matrix

    height, width, channels = walk.image.shape
    facts: list[tuple[str, object]] = [
        ("image", f"{height} x {width}" + (", each colour by itself" if channels > 1 else "")),
        ("filter", f"{name}: {plain_matrix(walk.filter)}"),
        ("size", FORMULA),
    ]
    for stage in walk.stages:
        facts += [(stage.name, size) for size in stage.sizes]
    last = walk.stages[-1]
    low, high = float(last.values.min()), float(last.values.max())
    backends = " and ".join(dict.fromkeys(stage.backend for stage in walk.stages))
    facts += [
        ("numbers", f"from {plain(low)} to {plain(high)}"),
        ("in the picture", shown[last.name].told),
        ("computed by", f"kernels {backends} on {place.name}"),
    ]
    times = _enlarged(walk)
    if times > 1:
        facts.append(("enlarged", f"each number is {times} x {times} pixels in result.png"))
    if note:
        facts.append(("walk", note))
    facts += [("wrote" if i == 0 else "", path) for i, path in enumerate(written)]
    output.print_facts(facts)


def _enlarged(walk: Walk) -> int:
    from ..engine.walk.pictures import enlargement

    return enlargement(*walk.stages[-1].values.shape[:2])
