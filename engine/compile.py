"""From a network to a program: the passes, in order. Read this first.

    build      models/…, build.py     the forward graph of one batch size
    verify     graph_rules.py         shapes, dtypes, order: every contract holds (after each pass)
    autodiff   passes/autodiff.py     + the backward nodes, by the table in vjp.py (training only)
    fold       passes/fold.py         batch norms into convolutions (inference without training)
    fuse       passes/fuse.py         conv+ReLU(+pool), masks and bias gradients into dgrads
    layout     passes/layout.py       borders of zeros, where a GPU convolves faster with them
    concat     passes/concat.py       what is concatenated is stored in place, as slices of channels
    select     passes/select.py       backend, algorithm, scratch memory and reason for each node
    pack       passes/pack.py         filters that never change, packed once (inference)
    memory     passes/memory.py       lifetimes → offsets in one arena

The program is then bound to arrays and run by runner.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..kernels import registry
from .device import Device
from .graph_rules import verify
from .ir import Graph
from .passes.autodiff import autodiff
from .passes.concat import concat
from .passes.fold import fold
from .passes.fuse import fuse
from .passes.layout import layout
from .passes.memory import plan_memory
from .passes.pack import pack
from .passes.select import select
from .runner import Program

Pass = Callable[[Graph], Graph]


def passes(
    device: Device, *, training: bool, fused: bool = True, folded: bool = True
) -> list[tuple[str, Pass]]:
    """The named passes between the builder and the memory plan."""
    listed: list[tuple[str, Pass]] = []
    if training:
        listed.append(("autodiff", autodiff))
    elif fused and folded:
        listed.append(("fold", fold))
    if fused:
        listed.append(("fuse", fuse))
    if any(registry.load(name).borders for name in device.backends):
        listed.append(("layout", partial(layout, backends=device.backends)))
    if fused:
        listed.append(("concat", partial(concat, backends=device.backends)))
    listed.append(("select", partial(select, backends=device.backends)))
    if fused and folded and not training:
        listed.append(("pack", pack))
    return listed


def stages(
    graph: Graph, device: Device, *, training: bool, fused: bool = True, folded: bool = True
) -> list[tuple[str, Graph]]:
    """The graph as built and after every pass, each one verified."""
    told = [("build", verify(graph))]
    for name, turn in passes(device, training=training, fused=fused, folded=folded):
        told.append((name, verify(turn(told[-1][1]))))
    return told


def compile_graph(
    graph: Graph, device: Device, *, training: bool, fused: bool = True, folded: bool = False,
    reuse: bool = True,
) -> Program:  # fmt: skip
    """Run all passes. `fused` and `reuse` False exist to compare with (tests, debugging).

    Who asks for a `folded` program calls `runner.Storage.derive` whenever weights have changed.

    Raises: UnsupportedError when no backend of the device takes a node.
    """
    final = stages(graph, device, training=training, fused=fused, folded=folded)[-1][1]
    return Program(final, plan_memory(final, reuse=reuse))
