"""`cnnengine predict`: the likeliest classes of pictures of any size and mode."""

from __future__ import annotations

from pathlib import Path

import click

from ..engine.errors import InputError
from . import options, output


@click.command("predict")
@click.argument("run", type=Path)
@click.argument("images", type=Path, nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), help="Classes an image.  [default: 5]")
@click.option("--invert", is_flag=True, help="Swap dark and light (ink on paper for MNIST).")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True,
              help="Images a batch.")  # fmt: skip
@options.DEVICE
@options.KERNELS
@options.JSON
def command(
    run: Path, images: tuple[Path, ...], top: int | None, invert: bool, batch_size: int,
    device: str, kernels: str, as_json: bool,
) -> None:  # fmt: skip
    """Name what is in each IMAGE with the network in RUN (a run folder or a model.safetensors)."""
    import numpy as np

    from ..engine.data import read_image
    from ..engine.diagnose import answer_not_finite
    from ..engine.evaluate import log_softmax
    from .trained import open_network, say_swapped

    network, _ = open_network(run, device, kernels, min(len(images), batch_size))
    height, width, channels = network.description.input_shape
    classes = network.description.classes
    if top is not None and top > len(classes):
        raise InputError(f"--top {top}: the network knows {len(classes)} classes")
    pixels = np.stack([read_image(path, (height, width), channels) for path in images])
    if invert:
        pixels = 255 - pixels
    say_swapped(network, list(zip(images, pixels, strict=True)), invert)
    with network.device.session():
        logits = network.logits(pixels)
        if not np.isfinite(logits).all():
            raise answer_not_finite(network, pixels)
    probabilities = np.exp(log_softmax(logits))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : top or 5]
    if as_json:
        output.print_json({
            "run": str(run),
            "predictions": [
                {"image": str(path), "top": [
                    {"class": classes[i], "probability": float(row[i])} for i in best
                ]}
                for path, row, best in zip(images, probabilities, order, strict=True)
            ],
        })  # fmt: skip
        return
    rows = [
        (path if rank == 0 else "", rank + 1, classes[i], output.percent(row[i]))
        for path, row, best in zip(images, probabilities, order, strict=True)
        for rank, i in enumerate(best)
    ]
    output.print_table(("image", "", "class", "probability"), rows, left=("image", "class"))
