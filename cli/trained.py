"""A trained network from a run folder or a model file, and the data it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.config import TrainConfig, check_settings, parse_image_size, resolve_config
from ..engine.errors import InputError
from . import output

if TYPE_CHECKING:
    from ..engine.data import Splits
    from ..engine.network import Network


def open_network(path: Path, device: str, kernels: str, batch: int) -> tuple[Network, str]:
    """The network at `path`, ready for batches of `batch` images, and its data set's name.

    Raises: InputError.
    """
    from ..engine.checkpoint import load_model
    from ..engine.device import open_device
    from ..engine.network import Network

    where = open_device(device, kernels)
    description, arrays, data = load_model(path)
    network = Network(description, where, infer_batch=batch)
    network.load(arrays, f"the weights in {path}")
    return network, data


def open_data(
    path: Path, network: Network, own: str, *, data: str | None, image_size: str | None,
    skip_bad: bool,
) -> Splits:  # fmt: skip
    """The data set `data`, or the one that the network at `path` was trained on, split alike.

    Raises: InputError when its pictures or classes are not those of the network.
    """
    from ..engine import data as sets

    config = _config_of(path)
    name = data or (config.data if config else own)
    size = image_size if image_size is not None else config.image_size if config else ""
    if not (data or name in sets.REGISTRY or Path(name).is_dir()):
        raise InputError(f"{path} was trained on {name!r}, which is not here; give --data")
    splits = sets.load(
        name, image_size=parse_image_size(size),
        skip_bad=skip_bad or bool(config and config.skip_bad),
        seed=config.seed if config else TrainConfig.seed,
    )  # fmt: skip
    if config is None and Path(name).is_dir() and not (Path(name) / "train").is_dir():
        output.warn("a model file does not tell how its run split the folder; the test images may "
                    "be ones that it was trained on: give the run folder instead")  # fmt: skip
    _check_fit(splits, network, is_folder=name not in sets.REGISTRY)
    return splits


def _config_of(path: Path) -> TrainConfig | None:
    """The configuration of a run folder; None for a model file that stands alone."""
    from ..engine.checkpoint import RunFolder

    folder = RunFolder(path)
    if not folder.config.exists():
        return None
    return resolve_config(check_settings(folder.load_config(), str(folder.config)))


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
