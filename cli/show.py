"""`cnnengine show`: layers and their cost, the graph after each pass, the steps that will run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ..engine.config import TrainConfig
from ..engine.errors import InputError, unknown_name
from . import options, output

if TYPE_CHECKING:
    from ..engine.ir import Graph, Node, Value
    from ..engine.models import Model

LAST = "the last"


@click.command("show")
@click.argument("arch", required=False, shell_complete=options.complete_arch)
@click.option("--input", "input_shape", metavar="HxWxC", help="Image size.  [default: ARCH's own]")
@click.option("--classes", type=click.IntRange(min=1), help="[default: ARCH's own]")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@options.OPTION
@click.option("--training/--inference", default=False, help="[default: inference]")
@click.option("--graph", "graph_pass", is_flag=False, flag_value=LAST, metavar="[PASS]",
              help="Print the graph after a pass: build, autodiff (training), fold (inference), "
              "fuse, layout (GPUs), concat, select, pack (inference).  "
              "[default: the last]")  # fmt: skip
@click.option("--plan", is_flag=True, help="Print the steps that will run, each with its reason.")
@click.option("--freeze-until", metavar="LAYER",
              help="As in train: tell what is frozen, and what training starts from.")  # fmt: skip
@click.option("--precision", default=TrainConfig.precision, show_default=True,
              help=options.SETTINGS["precision"])  # fmt: skip
@options.DEVICE
@options.KERNELS
@click.option("--for", "gpu", metavar="sm_NN",
              help="As for a GPU that need not be here: sm_80, sm_86, sm_89, sm_90 or "
              "sm_100.")  # fmt: skip
def command(
    arch: str | None, input_shape: str | None, classes: int | None, batch: int,
    options: tuple[str, ...], training: bool, graph_pass: str | None, plan: bool,
    freeze_until: str | None, precision: str, device: str, kernels: str, gpu: str | None,
) -> None:  # fmt: skip
    """Show the layers of ARCH and what they cost; without ARCH list all networks."""
    from ..engine import compile as compiler
    from ..engine.device import open_device
    from ..engine.freeze import frozen
    from ..engine.models import build_graph, get_model
    from ..engine.precision import activation_dtype, products
    from ..engine.pretend import pretended_gpu
    from .options import network_options

    if arch is None:
        if graph_pass is not None or plan or freeze_until is not None:
            raise InputError(
                "name the network first: cnnengine show ARCH --graph [PASS], --plan or "
                "--freeze-until LAYER"
            )
        _list_networks()
        return
    model = get_model(arch)
    shape = _parse_shape(input_shape) if input_shape else model.input_shape
    if gpu is not None and device != TrainConfig.device:
        raise InputError(f"--for {gpu} stands for a device; leave --device {device} out")
    if gpu is None:
        where = open_device(device, kernels)
    else:
        where = click.get_current_context().with_resource(pretended_gpu(gpu, kernels))

    def build(batch: int, training: bool) -> Graph:
        return build_graph(
            arch, batch, shape, classes or model.classes, training=training,
            dtype=activation_dtype(precision, where), products=products(precision, where),
            options=network_options(options),
        )  # fmt: skip

    graph = build(batch, training)
    freezing = None
    if freeze_until is not None:
        freezing = _freezing(freeze_until, build(1, False), build(2, True))
        graph = frozen(graph, freezing.boundary.name)
    stages = dict(compiler.stages(graph, where, training=training))
    final = stages[list(stages)[-1]]
    if graph_pass is not None:
        if graph_pass != LAST and graph_pass not in stages:
            raise unknown_name("pass", graph_pass, stages)
        print(final if graph_pass == LAST else stages[graph_pass])
    if plan:
        _print_plan(final)
    if graph_pass is None and not plan:
        _print_layers(model, graph, final, freezing)


@dataclass(frozen=True)
class _Freezing:
    """What `train --freeze-until` would freeze of a network; costs are of one image.

    `kept`: what the frozen layers give can be kept on disk.
    """

    layer: str
    boundary: Value
    layers: frozenset[str]
    parameters: tuple[int, int]  # frozen, and of all layers that are then left
    flops: tuple[int, int]  # a training step of the rest, and of the whole network
    kept: bool


def _freezing(layer: str, infers: Graph, trains: Graph) -> _Freezing:
    """Raises: InputError for a layer behind which a network cannot be cut."""
    from ..engine import freeze
    from ..engine.passes.autodiff import autodiff

    random = freeze.dropped(trains)
    boundary = freeze.find_boundary(infers, layer, f"--freeze-until {layer}", random)
    front, _ = freeze.cut(infers, boundary.name)
    rest = freeze.frozen(trains, boundary.name)
    kept = not freeze.front_of(infers, boundary.name)[1] & random
    if kept:
        rest = freeze.cut(rest, boundary.name)[1]
    own, whole = autodiff(rest).flops() // 2, autodiff(trains).flops() // 2
    counts = front.parameter_count(), infers.parameter_count()
    names = frozenset(node.name for node in front.nodes)
    return _Freezing(layer, boundary, names, counts, (own, whole), kept)


def _facts_of(freezing: _Freezing) -> list[tuple[str, object]]:
    held, count = freezing.parameters
    value, (own, whole) = freezing.boundary, freezing.flops
    kept = f"{output.scaled(value.nbytes, 'B')} an image, with train --shift 0 --no-flip"
    return [
        ("frozen", f"up to and including {freezing.layer}: {held:,} of {count:,} parameters"),
        ("training starts from", f"{value.name} {'x'.join(map(str, value.shape[1:]))}"),
        ("kept on disk", kept if freezing.kept else "nothing: there is dropout among them"),
        ("training step", f"{output.scaled(own, 'FLOP')} an image in place of "
                          f"{output.scaled(whole, 'FLOP')}"),
    ]  # fmt: skip


def _parse_shape(text: str) -> tuple[int, int, int]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise InputError(f"--input must be HEIGHTxWIDTHxCHANNELS like 28x28x1, not {text!r}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _list_networks() -> None:
    from ..engine.models import list_models, model_options

    rows = [
        (
            model.name, "x".join(map(str, model.input_shape)), model.classes, model.summary,
            ", ".join(f"{name}={value}" for name, value in model_options(model).items()),
        )
        for model in list_models()
    ]  # fmt: skip
    columns = ("network", "input", "classes", "what it is", "options")
    output.print_table(columns, rows, left=("network", "what it is", "options"))


def _print_layers(
    model: Model, graph: Graph, final: Graph, freezing: _Freezing | None
) -> None:  # fmt: skip
    """One row a layer of the forward graph, as its builder wrote it; then the totals."""
    from ..engine.passes.memory import plan_memory

    rows = []
    for node in graph.nodes:
        out = node.writes[0]
        rows.append((
            node.name, node.op, "x".join(map(str, out.shape)), _parameters(node) or "",
            output.scaled(node.flops()) if node.flops() else "",
            output.scaled(sum(v.nbytes for v in node.writes), "B"),
            *(["frozen" * (node.name in freezing.layers)] if freezing else []),
        ))  # fmt: skip
    total = ("total", "", "", graph.parameter_count(), output.scaled(graph.flops()), "")
    columns = ("layer", "op", "output", "parameters", "FLOP", "activations")
    columns, total = (*columns, *[""] * bool(freezing)), (*total, *[""] * bool(freezing))
    batch, *image = graph.inputs[0].shape
    output.print_table(
        columns, rows, left=("layer", "op"), footer=total,
        title=f"{model.name} on {batch} x {'x'.join(map(str, image))}, {graph.inputs[0].dtype}",
    )  # fmt: skip
    memory = plan_memory(final)
    facts: list[tuple[str, object]] = [
        ("parameters", f"{graph.parameter_count():,}"),
        ("forward", f"{output.scaled(graph.flops(), 'FLOP')} (2 a multiply-add)"),
    ]
    if final.flops() != graph.flops():
        facts.append(("forward + backward", output.scaled(final.flops(), "FLOP")))
    saved = 1 - memory.total_bytes / max(1, memory.unplanned_bytes)
    facts.append(("memory plan", f"{memory} ({saved:.0%} saved)"))
    packed = [d.value for d in final.derived if d.value.packed]
    if packed:
        held, plain = sum(v.nbytes for v in packed), sum(4 * v.size for v in packed)
        told = f"{output.scaled(held, 'B')} in place of {output.scaled(plain, 'B')}"
        facts.append(("packed filters", told))
    output.print_facts([*facts, *(_facts_of(freezing) if freezing else [])])


def _parameters(node: Node) -> int:
    return sum(math.prod(v.shape) for v in node.reads if v.kind == "param")


def _extent(value: Value) -> str:
    """Like `64x28x28x32`, then the rows and columns of its border: `+1+1`."""
    border = "".join(f"+{extent}" for extent in value.border) if any(value.border) else ""
    return "x".join(map(str, value.shape)) + border


def _print_plan(final: Graph) -> None:
    rows = []
    for node in final.nodes:
        if node.choice is None:  # a reshape: no work
            continue
        config = node.choice.config
        tile = " ".join(f"{name}={value}" for name, value in config.tile)
        rows.append((
            len(rows) + 1, node.name, node.op, _extent(node.writes[0]),
            node.choice.backend, f"{config.algorithm} {tile}".rstrip(),
            output.scaled(config.workspace_bytes, "B") if config.workspace_bytes else "",
            "; ".join(filter(None, (node.writes[0].place.strip(), node.choice.reason))),
        ))  # fmt: skip
    columns = ("", "layer", "op", "output", "backend", "algorithm", "scratch", "reason")
    output.print_table(columns, rows, left=("layer", "op", "backend", "algorithm", "reason"))
