"""`cnnengine import`: weights from other programs as a model file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..engine.config import parse_image_size
from ..engine.errors import InputError
from . import options, output
from .trained import say_code

if TYPE_CHECKING:
    import numpy as np

    from ..engine.network import Description


@click.command("import")
@click.argument("weights", type=Path)
@click.option("--arch", help=options.SETTINGS["arch"], shell_complete=options.complete_arch)
@click.option("--out", type=Path, required=True,
              help="The model file to write, .safetensors; of an ONNX file, a folder.")  # fmt: skip
@click.option("--classes", metavar="N|FILE",
              help="How many classes; or a text file with one name a line.")  # fmt: skip
@options.OPTION
@click.option("--image-size", help="N or HEIGHTxWIDTH pixels.  [default: the network's own]")
@click.option("--mean", metavar="NUMBERS",
              help="What is taken off each channel of an image in 0 … 1, like 0.485,0.456,0.406.  "
              "[default: torchvision's, for its names]")  # fmt: skip
@click.option("--std", metavar="NUMBERS", help="What each channel is then divided by.")
@click.option("--overwrite", is_flag=True, help="Replace --out if it is there.")
@options.JSON
def command(
    weights: Path, arch: str | None, out: Path, classes: str | None, options: tuple[str, ...],
    image_size: str | None, mean: str | None, std: str | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a model file from WEIGHTS: .safetensors, .npz or torch's .pth; or from an ONNX file.

    The names in it may be cnnengine's or torchvision's. eval, predict and train --init-from take
    the model file. An ONNX file is a network too: --out becomes a folder with both.
    """
    from ..engine.checkpoint import save_model
    from ..engine.exchange import Wish, import_weights
    from ..engine.files import check_free
    from ..engine.userfile import is_onnx
    from .options import network_options

    wish = Wish(
        arch, network_options(options) if options else None, parse_image_size(image_size or ""),
        _classes(classes), _numbers("mean", mean), _numbers("std", std),
    )  # fmt: skip
    if is_onnx(str(weights)):
        from ..engine.onnx.exchange import import_file

        description, arrays = import_file(weights, wish, out, overwrite=overwrite)
        _report(weights, out, description, arrays, "onnx", (), as_json)
        return
    check_free(out, overwrite)
    description, source, found = import_weights(weights, wish)
    say_code(description.arch)
    save_model(out, description, found.arrays, source)
    _report(weights, out, description, found.arrays, found.kind, found.notes, as_json)


def _report(
    weights: Path, out: Path, description: Description, arrays: Mapping[str, np.ndarray],
    kind: str, notes: Sequence[str], as_json: bool,
) -> None:  # fmt: skip
    size = sum(array.size for array in arrays.values())
    if as_json:
        output.print_json({
            "model": str(out), "weights": str(weights), "names": kind, "numbers": size,
            "notes": list(notes), **description.to_json(),
        })  # fmt: skip
        return
    for note in notes:
        output.note(note)
    output.print_facts([
        ("network", description.arch),
        ("names", kind),
        ("tensors", f"{len(arrays)} with {size:,} numbers"),
        ("classes", _few(description.classes)),
        ("images", "x".join(map(str, description.input_shape))),
        ("mean, std", f"{_told(description.mean)}; {_told(description.std)}"),
        ("model", out),
    ])  # fmt: skip


def _classes(text: str | None) -> int | list[str] | None:
    """A number, or the lines of a file. Raises: InputError."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    try:
        names = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(
            f"--classes must be a number or a text file, not {text!r}: {told}"
        ) from None
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError(f"--classes {text}: the file names no class")
    return names


def _numbers(name: str, text: str | None) -> list[float] | None:
    """Numbers with commas between them. Raises: InputError."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{name} must be numbers with commas between, not {text!r}") from None
    if name == "mean" and not all(0 <= number <= 1 for number in numbers):
        raise InputError(f"--mean must be in units of 0 … 1 (a pixel's value / 255), not {text}")
    if name == "std" and not all(math.isfinite(number) and number > 0 for number in numbers):
        raise InputError(f"--std must be above 0, not {text}")
    return numbers


def _few(names: tuple[str, ...]) -> str:
    more = f" … {names[-1]}" if len(names) > 3 else ""
    return f"{len(names)}: {', '.join(names[:3])}{more}"


def _told(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
