"""`cnnengine bench`: networks and kernels beside PyTorch, and what changed between two results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engine.errors import InputError, unknown_name
from . import bench_steps, options, output
from .bench_run import Run

if TYPE_CHECKING:
    from ..bench import report


def _place(_: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file that cannot be written before anything is timed."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        rule = "is a folder; name a file" if file.is_dir() else f"there is no folder {file.parent}"
        raise InputError(f"--{option.name}: cannot write {file}: {rule}")
    return file


_DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
_AGAINST = click.option("--against", default="torch", show_default=True,
                        help="torch, or none: our figures alone.")  # fmt: skip
_THREADS = click.option("--threads", type=click.IntRange(0), default=0, metavar="N",
                        help="Threads on both sides; 0: one a core.")  # fmt: skip
_REPEATS = click.option("--repeats", type=click.IntRange(2), metavar="N",
                        help="Interleaved rounds, instead of --seconds.")  # fmt: skip
_COMPILE = click.option("--compile/--no-compile", "compiled", default=True, show_default=True,
                        help="Time torch.compile too (kernels: on a GPU).")  # fmt: skip
_COUNTRY = click.option("--energy-country", "country", default="", metavar="CODE",
                        help="Whose electricity the CO2 is of, like DEU.  [default: the world's]",
                        )  # fmt: skip
_OUT = click.option("--out", type=Path, metavar="FILE.jsonl", callback=_place,
                    help="Add the result to that file, one JSON object a line.")  # fmt: skip
_HTML = click.option("--html", type=Path, metavar="FILE.html", callback=_place,
                     help="Write a report that opens in a browser, offline.")  # fmt: skip


def _seconds(default: float) -> Callable[..., Any]:
    return click.option(
        "--seconds", type=click.FloatRange(0, min_open=True), default=default, show_default=True,
        help="Time for each candidate of a row (at least 5 rounds).",
    )  # fmt: skip


def _batch(help_text: str) -> Callable[..., Any]:
    return click.option("--batch", type=click.IntRange(1), metavar="N", help=help_text)


@click.group("bench", invoke_without_command=True)
@click.pass_context
def bench(ctx: click.Context) -> None:
    """Time kernels and networks beside PyTorch.

    Every figure follows a correctness check in the same run; wrong results end with exit code 1.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


command = bench


@bench.command("network")
@click.option("--arch", "--onnx", "arch", default="vgg-small", show_default=True,
              shell_complete=options.complete_arch, help=options.SETTINGS["arch"])  # fmt: skip
@_batch("Images a step or pass.  [default: 64]")
@click.option("--mode", default="both", show_default=True, help="train, infer or both.")
@click.option(
    "--precision", default="fp32", show_default=True, help="fp32, bf16, fp16; a GPU: tf32."
)
@_DEVICE
@_AGAINST
@_COMPILE
@click.option("--memory", "with_memory", is_flag=True,
              help="Measure peak memory of each side in fresh processes.")  # fmt: skip
@click.option("--steps", "with_steps", is_flag=True,
              help="Tell where the time of ours goes, call by call.")  # fmt: skip
@_THREADS
@_seconds(5.0)
@_REPEATS
@_COUNTRY
@options.JSON
@_OUT
@_HTML
@click.pass_context
def network_command(
    ctx: click.Context, arch: str, batch: int | None, mode: str, precision: str, device: str,
    against: str, compiled: bool, with_memory: bool, with_steps: bool, threads: int,
    seconds: float, repeats: int | None, country: str, as_json: bool, out: Path | None,
    html: Path | None,
) -> None:  # fmt: skip
    """Time a training step and inference of a whole network.

    A training step is forward, backward and an SGD update. Beside it stand torch
    contiguous, channels_last, on a GPU as one CUDA graph, and torch.compile, on the same
    weights and the same batch. On a GPU the host's time for a step is told apart.
    """
    from ..bench import network
    from ..engine.models import get_model

    if mode not in (*network.MODES, "both"):
        raise unknown_name("mode", mode, (*network.MODES, "both"))
    get_model(arch)
    modes = network.MODES if mode == "both" else (mode,)
    batch = batch or 64
    if with_steps and device.partition(":")[0] == "cuda":
        raise InputError(f"--steps is for the CPU: on {device} calls return before they are done")
    run = Run("network", device, against, threads, country, arch=arch, batch=batch,
              modes=list(modes), precision=precision, seconds=seconds, repeats=repeats,
              compile=compiled)  # fmt: skip
    rows = network.run(
        network.make_setting(arch, batch, precision), run.device, modes, against=run.against,
        compiled=compiled, seconds=seconds, rounds=repeats, note=output.note,
        with_steps=with_steps,
    )  # fmt: skip
    if with_memory and not any(row["failed"] for row in rows):
        _measure_memory(rows, run.threads, run.device.name)
    if with_steps and not as_json:
        for row in rows:
            bench_steps.show(row)
    run.finish(rows, out, html, as_json, ctx)


def _measure_memory(rows: Sequence[report.Row], threads: int, device: str) -> None:
    from ..bench.memory import measure_memory

    kind = "resident memory" if device == "cpu" else f"memory on {device}"
    output.note(
        f"memory: peak {kind} of a fresh process, and how far that is above what it held after a "
        "tiny network had run in it"
    )
    for row in rows:
        row["memory"] = {}
        for side in row["candidates"]:
            told = measure_memory(
                side, row["arch"], row["batch"], row["mode"], threads, row["precision"], device
            )
            row["memory"][side] = told
            mib = {name: value / 2**20 for name, value in told.items()}
            output.note(
                f"  {row['mode']}, {side}: peak {mib['peak_bytes']:.0f} MiB, "
                f"growth {mib['growth_bytes']:.0f} MiB"
            )


@bench.command("kernels")
@click.option("--suite", default="vgg-small", show_default=True,
              help="vgg-small, vgg16, alexnet, inception-v3, resnet50, odd or edge.")  # fmt: skip
@click.option("--batch", metavar="LIST", help="Images a call, like 1,8,64; else the suite's own.")
@click.option("--precision", default="fp32", show_default=True, metavar="LIST",
              help="Of fp32, fp16, bf16; on a GPU also tf32x3 and tf32.")  # fmt: skip
@_COMPILE
@click.option("--layers", metavar="LIST", help="Layers by number, like 1,3-5.  [default: all]")
@click.option("--passes", metavar="LIST",
              help="Of forward, forward+relu, forward+relu+pool, dgrad, wgrad, max_pool, avg_pool."
              "  [default: all]")  # fmt: skip
@_DEVICE
@_AGAINST
@_THREADS
@_seconds(0.5)
@_REPEATS
@_COUNTRY
@options.JSON
@_OUT
@_HTML
@click.pass_context
def kernels_command(
    ctx: click.Context, suite: str, batch: str | None, precision: str, layers: str | None,
    compiled: bool, passes: str | None, device: str, against: str, threads: int, seconds: float,
    repeats: int | None, country: str, as_json: bool, out: Path | None, html: Path | None,
) -> None:  # fmt: skip
    """Time single kernels, layer by layer.

    Each backend that takes a call stands beside torch: on a CPU contiguous, channels_last and, for
    forward passes, oneDNN with filters packed beforehand; on a GPU cuDNN by every way that torch
    has. Results are first held to float64.
    """
    from ..bench import kernels, suites, work

    chosen = suites.get_suite(suite)
    picked = suites.pick_layers(chosen, layers)
    names = tuple(passes.split(",")) if passes else work.PASSES
    for name in names:
        if name not in work.PASSES:
            raise unknown_name("pass", name, work.PASSES)
    batches = _numbers("--batch", batch) if batch else (chosen.batch,)
    precisions = tuple(precision.split(","))
    run = Run("kernels", device, against, threads, country, suite=suite, batches=list(batches),
              passes=list(names), precisions=list(precisions), seconds=seconds,
              repeats=repeats)  # fmt: skip
    known = tuple(work.KINDS) if run.is_gpu else work.HOST_PRECISIONS
    for name in precisions:
        if name not in known:
            raise unknown_name(f"precision of --device {run.device.name}", name, known)
    run.measure_ceilings(precisions)
    rows = []
    for row in kernels.run(chosen, picked, names, run.device, batches=batches,
                           precisions=precisions, seconds=seconds, rounds=repeats,
                           against=run.against, compiled=compiled,
                           ceilings=run.ceilings):  # fmt: skip
        rows.append(row)
        run.meter.read()  # before its counters begin anew
        output.note(f"{row['key']}: {row['ratio']:.2f}x" if row.get("ratio") else row["key"])
    if not rows:
        raise InputError(f"--passes {passes}: no layer of --suite {suite} has such a pass")
    run.finish(rows, out, html, as_json, ctx)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """(1, 8) from "1,8". Raises: InputError."""
    words = text.split(",")
    if not all(word.isdecimal() and int(word) >= 1 for word in words):
        raise InputError(f"{option} {text}: must be numbers of at least 1, like 1,8,64")
    return tuple(map(int, words))


@bench.command("report")
@click.argument("results", nargs=-1, required=True, type=Path)
@click.option("--html", type=Path, required=True, metavar="FILE.html", help="Where it goes.")
def report_command(results: tuple[Path, ...], html: Path) -> None:
    """Make one page of result files, for a browser, offline."""
    from ..bench import page, report

    page.write(html, [told for path in results for told in report.read(path)])
    output.note(f"wrote {html}")


@bench.command("compare")
@click.argument("old", type=Path)
@click.argument("new", type=Path)
@options.JSON
def compare_command(old: Path, new: Path, as_json: bool) -> None:
    """Show what changed from one result file to another.

    "~" before a speed: the quartiles of the two times meet, so it may be noise.
    """
    from ..bench import report

    told = report.compare(report.read(old), report.read(new))
    for line in told["differences"]:
        output.warn(f"the runs differ in {line}")
    for where, path in (("only_old", old), ("only_new", new)):
        if told[where]:
            output.note(f"only in {path}: {', '.join(told[where])}")
    if as_json:
        output.print_json(told)
        return
    columns, lines = report.comparison_table(told)
    output.print_table(columns, lines, left=columns[:1])
