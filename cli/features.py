"""`cnnengine features`: what a network sees in a picture, as one page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..engine.errors import InputError
from . import options, output

if TYPE_CHECKING:
    from ..engine.data import Dataset
    from ..engine.model_meta import Source
    from ..engine.network import Network

LARGEST = 5_000_000  # bytes of a page


@click.command("features")
@click.argument("run", type=Path)
@click.argument("image", type=Path)
@click.option("--out", type=Path, required=True, metavar="PAGE.html", help="Where the page goes.")
@click.option("--layers", metavar="A,B,C", help="Layers whose maps are shown; `show` names them.  "
              "[default: a low, a middle and a high one]")  # fmt: skip
@click.option("--channels", type=click.IntRange(1, 64), default=8, show_default=True, metavar="N",
              help="Channels of each layer, the strongest.")  # fmt: skip
@click.option("--class", "name", metavar="NAME", help="Show where the network looked for this "
              "class.  [default: its answer]")  # fmt: skip
@click.option("--data", help="Look for patches in this data set or folder.  "
              "[default: the one it was trained on]")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=1000, show_default=True, metavar="N",
              help="Look for patches in so many training images.")  # fmt: skip
@click.option("--skip-bad", is_flag=True, help=options.SETTINGS["skip_bad"])
@click.option("--invert", is_flag=True, help="Swap dark and light (ink on paper for MNIST).")
@click.option("--overwrite", is_flag=True, help="Replace a page that exists.")
@options.DEVICE
@options.KERNELS
@options.JSON
def command(
    run: Path, image: Path, out: Path, layers: str | None, channels: int, name: str | None,
    data: str | None, images: int, skip_bad: bool, invert: bool, overwrite: bool, device: str,
    kernels: str, as_json: bool,
) -> None:  # fmt: skip
    """Show what the network in RUN (a run folder or a model.safetensors) sees in IMAGE.

    Makes one page that opens in any browser, offline: the answer, the sizes on the way, the
    filters of the first layer, maps of some layers with the patches that excite them most, and
    where the network looked.
    """
    from ..engine import files
    from ..engine.data import read_image
    from ..engine.inspect import page, view
    from .trained import open_network, say_swapped

    files.check_free(out, overwrite)
    if image.is_dir():
        raise InputError(f"{image} is a folder; name one picture in it")
    network, own = open_network(run, device, kernels, 1)
    height, width, depth = network.description.input_shape
    pixels = read_image(image, (height, width), depth)
    pixels = 255 - pixels if invert else pixels
    say_swapped(network, [(image, pixels)], invert)
    chosen = [part.strip() for part in layers.split(",")] if layers is not None else []
    view.choose_layers(network, chosen)
    label = None if name is None else view.class_number(network, name)
    dataset = _dataset(run, network, own, data, images, skip_bad)
    with network.device.session():
        seen = view.look(network, pixels, chosen, channels=channels,
                         label=label, dataset=dataset)  # fmt: skip
    content = page.page(seen, image.name, run.name or str(run)).encode()
    if len(content) > LARGEST:
        raise InputError(
            f"--channels {channels}: the page would have {len(content) / 1e6:.1f} MB, more than "
            f"{LARGEST / 1e6:.0f}; ask for fewer channels or layers"
        )
    files.write_bytes(out, content)
    if as_json:
        output.print_json({
            "page": str(out), "bytes": len(content), "image": str(image), "data": seen.data,
            "data_images": seen.data_images, "layers": [x.step.name for x in seen.layers],
            "looked_at": seen.looked_at.name, "looked_for": seen.looked_for[0],
            "top": [{"class": c, "probability": p} for c, p in seen.answers],
        })  # fmt: skip
        return
    output.print_facts([
        ("answer", f"{seen.answers[0][0]}, {output.percent(seen.answers[0][1])}"),
        ("layers", ", ".join(layer.step.name for layer in seen.layers)),
        ("patches", f"of {seen.data_images} images of {seen.data}" if seen.data else "none"),
        ("page", f"{out}, {output.scaled(len(content), 'B')}"),
    ])  # fmt: skip


def _dataset(
    run: Path, network: Network, own: Source, data: str | None, images: int, skip_bad: bool
) -> Dataset | None:
    """The images to look for patches in, sized for the network; None, and told, if not here."""
    from ..engine import data as sets
    from .trained import data_of

    told = data or data_of(run) or own.name
    if not (data or told in sets.REGISTRY or Path(told).is_dir()):
        output.warn(f"no patches: {run} was trained on {told!r}, which is not here; give --data")
        return None
    height, width, depth = network.description.input_shape
    splits = sets.load(told, image_size=(height, width), channels=depth, seed=own.seed,
                       skip_bad=skip_bad or own.skip_bad)  # fmt: skip
    for skipped in splits.skipped:
        output.warn(f"left out: {skipped}")
    found = sets.limited(splits, min(images, len(splits.train))).train
    output.note(f"looking for patches in {len(found)} training images of {splits.name}")
    return found
