"""`cnnengine export`: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from ..engine.errors import InputError
from . import options, output
from .trained import say_code

FORMATS = ("safetensors", "onnx")


@click.command("export")
@click.argument("run", type=Path)
@click.option("--to", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@click.option("--names", type=click.Choice(["own", "torchvision"]),
              help="Names and layouts of the tensors in safetensors; of a network that torchvision "
              "does not have, its own names with dots.  [default: torchvision]")  # fmt: skip
@click.option("--out", type=Path, required=True, help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace --out if it is there.")
@options.JSON
def command(
    run: Path, form: str, names: str | None, out: Path, overwrite: bool, as_json: bool
) -> None:
    """Write the network in RUN (a run folder or a model file) for other programs."""
    from ..engine.checkpoint import load_model
    from ..engine.exchange import export_weights
    from ..engine.files import check_free

    if form == "onnx" and names is not None:
        raise InputError("--names is for safetensors; an ONNX file has the network's own names")
    other = next(f for f in FORMATS if f != form)
    if out.suffix == f".{other}":
        raise InputError(f"--out {out} would hold {form}; give --to {other}, or another name")
    check_free(out, overwrite)
    description, arrays, source = load_model(run)
    say_code(description.arch)
    if form == "onnx":
        from ..engine.onnx import exporter

        names = "own"
        if description.precision == "fp64":
            output.warn("float64 becomes float32: ONNX files of ours have float32 alone")
        exporter.save(out, description, arrays)
    else:
        names = names or "torchvision"
        export_weights(out, description, arrays, source, names)
    told = {
        "run": str(run), "format": form, "names": names, "out": str(out), "tensors": len(arrays),
        "bytes": out.stat().st_size,
    }  # fmt: skip
    if as_json:
        output.print_json(told)
        return
    output.print_facts([
        ("network", description.arch),
        ("tensors", f"{len(arrays)}, {names} names"),
        ("file", f"{out}, {output.scaled(told['bytes'], 'B')}"),
    ])  # fmt: skip
