"""Starting from trained weights: which are taken over, and what else belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .config import TrainConfig, parse_channels, parse_image_size
from .exchange import Wish, import_weights
from .network import Network
from .weights import read_weights

SMALL = 0.1  # times He's: 82 % -> 87 % on the photos of docs/transfer-learning.md


def completed(config: TrainConfig, *, arch_given: bool) -> TrainConfig:
    """The settings of a run that starts from weights, with what these settle where nobody did.

    That is the network and its options, the size of its images, and their normalisation.

    Raises: InputError.
    """
    wish = Wish(
        config.arch if arch_given else None, config.options or None,
        parse_image_size(config.image_size), None,
        parse_channels(config.mean, "--mean"), parse_channels(config.std, "--std", least=0.0),
    )  # fmt: skip
    told = import_weights(Path(config.init_from), wish)[0]
    height, width, _ = told.input_shape
    return replace(
        config, arch=told.arch, options=dict(told.options), image_size=f"{height}x{width}",
        mean=_text(told.mean), std=_text(told.std),
    )  # fmt: skip


def channels(config: TrainConfig) -> int | None:
    """How many channels the images must have for the weights; None where there are none."""
    given = parse_channels(config.mean, "--mean") if config.init_from else None
    return None if given is None else len(given)


def load_initial(network: Network, path: Path) -> list[str]:
    """Fill a network, initialised before, from a file of weights; what is to be told of it.

    The last layer starts anew where the file knows another number of classes, from small numbers:
    behind trained layers the usual ones are noise that a few images do not wash out. Auxiliary
    heads that the file lacks stay as they are.

    Raises: InputError listing every tensor that does not fit.
    """
    found = read_weights(path, network.description, other_classes=True)
    begun = network.state_dict()
    for name in found.missing:
        begun[name] *= SMALL
    network.load({**begun, **{n: a for n, a in found.arrays.items() if n in begun}}, str(path))
    notes = [f"starts from the weights in {path}", *found.notes]
    for layer in sorted({name.rpartition("/")[0] for name in found.missing}):
        notes.append(f"{layer} starts anew: the weights are for another number of classes")
    heads = sorted({
        n.rpartition("/")[0] for n in begun if n not in found.arrays and n not in found.missing
    })  # fmt: skip
    if heads:
        notes.append(f"not in {path}, so they start anew: {', '.join(heads)}")
    return notes


def _text(numbers: Sequence[float]) -> str:
    return ",".join(repr(float(number)) for number in numbers)
