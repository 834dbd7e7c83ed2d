"""A trained network from a run folder or a model file, and the data it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import userfile
from ..engine.config import check_settings, parse_image_size
from ..engine.errors import InputError
from . import output

if TYPE_CHECKING:
    import numpy as np

    from ..engine.data import Splits
    from ..engine.model_meta import Source
    from ..engine.network import Network


DARK, LIGHT = 0.4, 0.6  # below, above: of 70,000 pictures of Fashion-MNIST one looks swapped


def open_network(path: Path, device: str, kernels: str, batch: int) -> tuple[Network, Source]:
    """The network at `path`, ready for batches of `batch` images, and what it was trained on.

    Raises: InputError, BackendError.
    """
    from ..engine.checkpoint import load_model
    from ..engine.device import open_device
    from ..engine.network import Network

    where = open_device(device, kernels)
    if where.warning:
        output.warn(where.warning)
    description, arrays, source = load_model(path)
    say_code(description.arch)
    with where.session():
        network = Network(description, where, infer_batch=batch, pictures=where.pictures)
        network.load(arrays, f"the weights in {path}")
    return network, source


def say_swapped(network: Network, images: Sequence[tuple[Path, np.ndarray]], invert: bool) -> None:
    """Tell of grey images uint8 [H,W,C] that look as if dark and light were swapped.

    Ink on paper and clothes on black differ in what surrounds them: the pixels along the edge of
    an image are held to the mean of the training images.
    """
    usual = network.description.mean
    if len(usual) != 1 or DARK <= usual[0] <= LIGHT:
        return
    found = [path for path, image in images if _swapped(image, dark=usual[0] < DARK)]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        around, usually = ("light", "dark") if usual[0] < DARK else ("dark", "light")
        way = "leave --invert out" if invert else "--invert swaps the two"
        output.note(
            f"{found[0]}{more}: {around} along the edge, while the training images are mostly "
            f"{usually}; {way}"
        )


def _swapped(image: np.ndarray, *, dark: bool) -> bool:
    """Whether most pixels along the edge of a grey image are light, or if not `dark`, dark."""
    import numpy as np

    left, right = image[1:-1, 0], image[1:-1, -1]
    edge = np.concatenate([image[0], image[-1], left, right])
    middle = float(np.median(edge)) / 255
    return middle > LIGHT if dark else middle < DARK


def say_code(arch: str) -> None:
    """Tell that a network in a file is run."""
    if userfile.reference(arch) is not None:
        output.note(f"runs the code of the network, {arch}")


def open_data(
    path: Path, network: Network, own: Source, *, data: str | None, image_size: str | None,
    skip_bad: bool,
) -> Splits:  # fmt: skip
    """The data set `data`, or the one that the network at `path` was trained on, split alike.

    Raises: InputError when its pictures or classes are not those of the network.
    """
    from ..engine import data as sets

    name = data or data_of(path) or own.name
    size = own.image_size if image_size is None else image_size
    if not (data or name in sets.REGISTRY or Path(name).is_dir()):
        raise InputError(f"{path} was trained on {name!r}, which is not here; give --data")
    splits = sets.load(
        name, image_size=parse_image_size(size),
        channels=3 if network.description.input_shape[2] == 3 else None,  # grey is coloured too
        skip_bad=skip_bad or own.skip_bad, seed=own.seed,
    )  # fmt: skip
    _check_fit(splits, network, is_folder=name not in sets.REGISTRY)
    return splits


def data_of(path: Path) -> str | None:
    """The data setting of a run folder; None for a model file that stands alone."""
    from ..engine.checkpoint import RunFolder

    folder = RunFolder(path)
    if not folder.config.exists():
        return None
    return check_settings(folder.load_config(), str(folder.config)).get("data")


def _check_fit(splits: Splits, network: Network, *, is_folder: bool) -> None:
    wanted, given = network.description.input_shape, splits.test.image_shape
    if wanted != given:
        hint = f"; give --image-size {wanted[0]}x{wanted[1]}" if wanted[:2] != given[:2] else ""
        raise InputError(
            f"the network takes images of {_times(wanted)}, those of {splits.name} are "
            f"{_times(given)}{hint if is_folder else ''}"
        )
    classes, others = network.description.classes, splits.test.classes
    if classes != others:
        first = next((f"{a!r} and {b!r}" for a, b in zip(classes, others, strict=False) if a != b),
                     "their number")  # fmt: skip
        raise InputError(
            f"the network knows {len(classes)} classes, {splits.name} has {len(others)}; the first "
            f"that differ: {first}"
        )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
