"""`cnnengine data`: what data sets there are, what is in one, and getting it here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..engine.config import parse_image_size
from ..engine.errors import unknown_name
from . import options, output

if TYPE_CHECKING:
    from ..engine.data import Entry, Splits


@click.group("data", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, describe and fetch data sets; write pictures of them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command("list")
@options.JSON
def list_command(as_json: bool) -> None:
    """List the data sets that have a name."""
    from ..engine.data import REGISTRY

    told = [
        {"name": e.name, "description": e.description, "licence": e.licence, "where": _where(e)}
        for e in REGISTRY.values()
    ]
    if as_json:
        output.print_json({"data_sets": told})
        return
    output.print_table(
        ("name", "what it is", "licence", "where"), [tuple(row.values()) for row in told],
        left=("name", "what it is", "licence", "where"),
    )  # fmt: skip


@command.command("info")
@click.argument("name")
@click.option("--image-size", default="", help=options.SETTINGS["image_size"])
@click.option("--skip-bad", is_flag=True, help=options.SETTINGS["skip_bad"])
@options.JSON
def info_command(name: str, image_size: str, skip_bad: bool, as_json: bool) -> None:
    """Describe a data set or a folder of images."""
    from ..engine import data

    entry = data.REGISTRY.get(name)
    if entry is None and not Path(name).exists():
        raise unknown_name("data set", name, data.REGISTRY)
    splits = None
    if entry is None or _where(entry) != "not fetched":
        splits = data.load(name, image_size=parse_image_size(image_size), skip_bad=skip_bad)
    facts = _entry_facts(entry) if entry else {}
    facts |= _splits_facts(splits) if splits else {}
    if as_json:
        output.print_json({"name": name, **facts})
        return
    output.print_facts(
        [(key.replace("_", " "), _words(value)) for key, value in facts.items() if value]
    )
    if splits:
        counts = zip(splits.train.class_counts(), splits.test.class_counts(), strict=True)
        rows = [(c, *n) for c, n in zip(splits.train.classes, counts, strict=True)]
        output.print_table(("class", "train", "test"), rows, left=("class",))


@command.command("fetch")
@click.argument("name")
@click.option("--from", "source", type=Path, metavar="DIR",
              help="Take the files from that folder, not from the network.")  # fmt: skip
def fetch_command(name: str, source: Path | None) -> None:
    """Bring a data set onto this machine and verify it."""
    from ..engine.data import fetch

    folder = fetch(name, source_dir=source, progress=_progress if sys.stderr.isatty() else None)
    print(f"{name} is in {folder}")


@command.command("pictures")
@click.argument("name")
@click.option("--out", type=Path, required=True, metavar="DIR",
              help="A new folder; each class becomes a sub-folder.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=10, show_default=True, metavar="N",
              help="So many of each class.")  # fmt: skip
@options.JSON
def pictures_command(name: str, out: Path, images: int, as_json: bool) -> None:
    """Write some test images of a data set as PNG files.

    predict, features and convolve take them.
    """
    from ..engine import data
    from ..engine.data.pictures import write_pictures

    written = write_pictures(data.load(name).test, out, images)
    if as_json:
        output.print_json({"folder": str(out), "pictures": written})
        return
    print(f"{written} pictures are in {out}")


def _progress(file: str, done: int, total: int) -> None:
    share = f" of {output.scaled(total, 'B')}" if total else ""
    print(f"\r{file}: {output.scaled(done, 'B')}{share}   ", end="", file=sys.stderr, flush=True)
    if done == total:
        print(file=sys.stderr)


def _where(entry: Entry) -> str:
    """Whether the data set is in the package, in the cache, or neither."""
    from ..engine.data.fetch import cache_folder

    if entry.embedded:
        return "in the package"
    folder = cache_folder(entry, None)
    here = all((folder / member.name).is_file() for member in entry.members)
    return f"in {folder}" if here else "not fetched"


def _entry_facts(entry: Entry) -> dict[str, object]:
    return {
        "description": entry.description, "licence": entry.licence, "home": entry.home,
        "verified": entry.verified, "bytes_on_disk": entry.size, "where": _where(entry),
        "classes": list(entry.classes), "train_images": sum(entry.counts[0]),
        "test_images": sum(entry.counts[1]),
    }  # fmt: skip


def _splits_facts(splits: Splits) -> dict[str, object]:
    return {
        "classes": list(splits.train.classes), "train_images": len(splits.train),
        "test_images": len(splits.test), "image_shape": list(splits.train.image_shape),
        "mean": list(splits.mean), "std": list(splits.std), "fingerprint": splits.fingerprint,
        "note": splits.note, "left_out": list(splits.skipped),
    }  # fmt: skip


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in value)
    return str(value)
