"""Memory: from lifetimes to offsets in one arena.

A result lives from the node that writes it to the last that reads it; a reshape shares its
source's memory and prolongs its life, and so does a slice of channels, on both ends; what the
caller reads lives to the end; scratch lives for one node. Blocks are placed largest first, each at
the lowest offset where it overlaps no block that lives at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir import Graph, Value

ALIGNMENT = 64  # bytes: a cache line, and what every vector instruction wants


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes of every result and scratch value, and the size of the arena.

    `unplanned_bytes` is what all values would take side by side, `scratch_bytes` what those of
    them take that only one node works with. `aliases` maps a reshaped value
    or a slice of channels to the one whose memory it shares; values in `outside` live in other
    arenas (gradients).
    """

    offsets: Mapping[Value, int]
    aliases: Mapping[Value, Value]
    outside: frozenset[Value]
    total_bytes: int
    unplanned_bytes: int
    scratch_bytes: int

    def __str__(self) -> str:
        """Like `activations 4.4 MB + scratch 1.8 MB -> 3.2 MB`; in kB where all are below one MB.

        While training, what is told as activations holds their gradients, too, and says so.
        """
        unit, size = ("MB", 1e6) if self.unplanned_bytes >= 1e6 else ("kB", 1e3)
        results = (self.unplanned_bytes - self.scratch_bytes) / size
        told = f"activations{' and their gradients' * bool(self.outside)} {results:.1f} {unit}"
        if self.scratch_bytes:
            told += f" + scratch {self.scratch_bytes / size:.1f} {unit}"
        return f"{told} -> {self.total_bytes / size:.1f} {unit}"


@dataclass
class _Block:
    value: Value
    size: int
    first: int
    last: int
    offset: int = 0


def aliases(graph: Graph) -> dict[Value, Value]:
    """Reshaped value, or slice of channels → the value whose memory it is (chains resolved)."""
    roots: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op == "reshape":
            source: Value = node["x"]
            roots[node.out] = roots.get(source, source)
        for value in node.writes:
            if value.within is not None:
                roots[value] = roots.get(value.root, value.root)
    return roots


def plan_memory(graph: Graph, *, reuse: bool = True) -> MemoryPlan:
    """Place every result and scratch value of a graph.

    Parameter gradients (outputs `grad/…`) are left to the gradient arena. `reuse` False gives
    every value memory of its own (for tests and for looking at intermediate results).
    """
    roots = aliases(graph)
    outside = frozenset(v for name, v in graph.outputs.items() if name.startswith("grad/"))
    blocks: dict[Value, _Block] = {}
    end = len(graph.nodes)
    for i, node in enumerate(graph.nodes):
        for value in (*node.writes, *node.scratch) if node.op != "reshape" else ():
            value = roots.get(value, value)  # a slice's whole is there from its first slice on
            if value not in blocks and value not in outside:
                blocks[value] = _Block(value, _aligned(value.nbytes), i, i)
        for value in node.reads:
            block = blocks.get(roots.get(value, value))
            if block is not None:
                block.last = i
    for value in graph.outputs.values():
        block = blocks.get(roots.get(value, value))
        if block is not None:
            block.last = end
    if not reuse:
        for block in blocks.values():
            block.first, block.last = 0, end
    placed: list[_Block] = []
    for block in sorted(blocks.values(), key=lambda b: (-b.size, b.first, b.value.name)):
        _place(block, placed)
    return MemoryPlan(
        {block.value: block.offset for block in placed}, roots, outside,
        max((b.offset + b.size for b in placed), default=0),
        sum(b.size for b in placed),
        sum(_aligned(v.nbytes) for node in graph.nodes for v in node.scratch),
    )  # fmt: skip


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _place(block: _Block, placed: list[_Block]) -> None:
    rivals = [b for b in placed if b.first <= block.last and block.first <= b.last]
    for rival in sorted(rivals, key=lambda b: b.offset):
        if block.offset + block.size <= rival.offset:
            break
        block.offset = max(block.offset, rival.offset + rival.size)
    placed.append(block)
