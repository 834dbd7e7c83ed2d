"""Tiles by a model, for a table that no GPU has measured yet.

    python -m cnnengine.bench.tile_model           print what it would put into the sm_90 table
    python -m cnnengine.bench.tile_model --write   put it there; measured entries stay

A program spends on each step of BLOCK_DEPTH the longer of two times, in clocks of one
multiprocessor: its products at the tensor cores' rate, and its two blocks at this processor's share
of the L2 cache's rate. It ends with writing its tile to memory, which is hidden where a second
program runs beside it on the processor. Programs go in whole rounds over all processors:

    clocks = ceil(programs / processors) * (steps * max(products, blocks) + ending)

A tile enters if that is at least a tenth less than the rule's and if the compiler makes neither
spills nor anything but warpgroup products of it. Rates: NVIDIA's H100 SXM5 data sheet (989 TFLOP/s
in bfloat16 and 3.35 TB/s at 1.755 GHz), and 5120 bytes a clock from the L2 cache, which NVIDIA
states for the A100 (architecture whitepaper) and we assume of the H100.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ..engine.errors import InputError
from ..kernels import registry, tiling
from ..kernels import triton as triton_kernels
from ..kernels.tiling import Asked, Entry
from ..kernels.triton import interpreted, tiles
from ..kernels.triton.gpu import Launch, recorded
from ..kernels.triton.tiles import Tile
from . import compile_cases, compile_check, tile_tables
from .suites import SUITES

ARCHITECTURE, PROCESSORS = 90, 132
PRODUCTS = 2048.0  # a clock and processor: 989e12 / 2 / 132 / 1.83e9
CACHE_BYTES = 5120 / PROCESSORS
MEMORY_BYTES = 3.35e12 / 1.755e9 / PROCESSORS
REGISTERS, OTHERS = 65536, 64  # of a processor; of a thread beside its sums
GAIN = 0.9
MODEL = "tile_model 1: tensor cores, L2 cache, rounds over the processors, ending"
NETWORKS, DTYPE = ("vgg16",), "bfloat16"


def clocks(tile: Tile, asked: Asked, splits: int) -> float:
    """The model's time of a problem on one tile."""
    rows, columns, count = asked.products
    programs = count * splits * -(-rows // tile.rows) * -(-columns // tile.columns)
    products = tile.rows * tile.columns * tile.depth / PRODUCTS
    blocks = 2 * (tile.rows + tile.columns) * tile.depth / CACHE_BYTES
    steps = -(-_depth(asked) // (tile.depth * splits))
    size = 4 if asked.problem.function == "conv2d_wgrad" else 2
    ending = 0.0 if _beside(tile) else size * tile.rows * tile.columns / MEMORY_BYTES
    return -(-programs // PROCESSORS) * (steps * max(products, blocks) + ending)


def _beside(tile: Tile) -> bool:
    """Whether two such programs fit on one multiprocessor."""
    threads = 32 * tile.warps
    registers = tile.rows * tile.columns + threads * OTHERS
    shared = tiles.shared_bytes(tile, DTYPE)
    return 2 * registers <= REGISTERS and 2 * shared <= tiles.most_shared(ARCHITECTURE)


def _depth(asked: Asked) -> int:
    """Terms of one sum."""
    problem = asked.problem
    op, (k, r, s, c) = problem.op, problem.w
    assert op is not None
    if problem.function == "conv2d_wgrad":
        n, p, q, _ = op.output_shape(problem.x, problem.w)
        return n * p * q
    if problem.function == "conv2d_dgrad":
        return -(-k // op.groups * r * s // (op.stride[0] * op.stride[1]))
    return r * s * c


def _launch(function: str, arguments: dict[str, Any], tile: Tile) -> tuple[Launch, int]:
    """The product's launch with this tile, and the splits of its depth."""
    backend = registry.Backend("triton", triton_kernels)
    with recorded(PROCESSORS, ARCHITECTURE) as made, tiling.trying(vars(tile)):
        config = backend.choose(function, arguments)
        workspace = compile_check.device_array("uint8", config.workspace_bytes)
        backend.function(function)(**arguments, workspace=workspace, config=config)
    return made[0], dict(config.tile).get("splits", 1)


def _better(function: str, arguments: dict[str, Any], asked: Asked) -> Tile | None:
    """The tile that the model likes at least GAIN better than the rule's and that compiles well."""
    found = {}
    for tile in tiles.candidates(asked, ARCHITECTURE):
        launch, splits = _launch(function, arguments, tile)
        if tile.group == tiles.GROUPS[0]:
            found[tile] = clocks(tile, asked, splits), launch
    limit = GAIN * found[Tile(**asked.rule)][0]
    for tile, (time, launch) in sorted(found.items(), key=lambda item: item[1][0]):
        if time > limit:
            return None
        figures, broken = compile_check.figures(launch, ARCHITECTURE)
        if not broken and not figures["spill_bytes"]:
            return tile
    return None


def _calls() -> Iterator[compile_cases.Case]:
    make = compile_check.device_array
    for network in NETWORKS:
        for layer in SUITES[network].layers:
            yield from compile_cases.layer_calls(make, layer, DTYPE)
            top, bottom, left, right = layer.op.padding
            border = max(top, bottom), max(left, right)
            if layer.op.stride == (1, 1) and any(border):
                yield from compile_cases.layer_calls(make, layer, DTYPE, border=border)


def entries() -> Iterator[Entry]:
    """What the model finds for the layers of `NETWORKS`, forward and backward, 64 images."""
    seen = set()
    for label, function, arguments in _calls():
        with recorded(PROCESSORS, ARCHITECTURE), tiling.listening() as questions:
            registry.Backend("triton", triton_kernels).choose(function, arguments)
        if not questions or questions[0].problem in seen:
            continue
        asked = questions[0]
        seen.add(asked.problem)
        tile = _better(function, arguments, asked)
        print(f"{label}: {function} {asked.problem.algorithm}: {tile}", file=sys.stderr)
        if tile is not None:
            yield Entry(asked.problem, vars(tile), {"kind": "modelled", "model": MODEL})


def main(arguments: list[str]) -> int:
    """Print the entries or write them into the committed table."""
    if interpreted():
        print("tile_model: TRITON_INTERPRET is set: nothing would be compiled; unset it")
        return 2
    try:
        made = list(entries())
        if "--write" in arguments:
            count = tile_tables.replace_modelled(ARCHITECTURE, made)
            print(f"{tiling.table_name(ARCHITECTURE)}: {count} entries")
    except InputError as error:
        print(f"tile_model: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
