"""Compile the Triton kernels without a GPU and hold what the compiler makes of them.

    python -m cnnengine.bench.compile_check             compare with the table in the repository
    python -m cnnengine.bench.compile_check --update    write the table
    python -m cnnengine.bench.compile_check --missing   write what it lacks, drop what is gone
    python -m cnnengine.bench.compile_check --quick     compare a few kernels on one architecture

Contract calls (`compile_cases`) are made on arrays that nobody reads; the backend's own launch
code chooses tiles and arguments, and each launch is written down and compiled. From the machine
code come the figures of `ratchet`; the hot loop is the one with most products. There is a table
for each minor version of Triton, and rules that hold whatever it says: nothing spills, and on sm_90
a product of 16-bit or TF32 numbers uses the warpgroup instructions (HGMMA).
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from ..engine.errors import InputError
from ..engine.pretend import PROCESSORS
from ..kernels import registry, tiling
from ..kernels import triton as triton_kernels
from ..kernels.numpy import threads
from ..kernels.spec import directions
from ..kernels.triton import interpreted, tiles
from ..kernels.triton.gpu import Launch, recorded
from ..kernels.triton.launch import OPTIONS, Pointer
from . import compile_cases, ratchet

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
WHOLE = (80, 90)  # the others compile the products of `compile_cases.FEW`, where their code differs
MOST_WORKERS, PARTS = 8, 6  # processes, and shares of an architecture's launches
NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8"}
NAMES |= {"int32": "i32", "int64": "i64", "uint32": "u32"}
MMA = ("HGMMA", "HMMA", "UTCHMMA", "UTCQMMA")
TMA = ("UTMALDG", "UTMASTG")
EXTENTS = ("C", "K", "R", "S", "TOP", "LEFT", "BOTTOM", "RIGHT")  # constants that name a layer
CONV3_2 = "56x56x256 256x3x3x256 bfloat16: conv2d"
QUICK = 90, (f"table implicit-gemm 64x{CONV3_2}", f"table halo 64x{CONV3_2}")


class DeviceArray(np.ndarray):
    """An array that passes for one on a GPU; its memory is reserved and never touched."""

    __cuda_array_interface__ = None


def device_array(dtype: str, *shape: int) -> DeviceArray:
    """An array of this element type, 16-byte aligned, that passes for one on a GPU."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    size = int(np.prod(shape))
    start = np.empty(size * kind.itemsize + 16, np.uint8)
    first = -start.ctypes.data % 16
    return start[first : first + size * kind.itemsize].view(kind).reshape(shape).view(DeviceArray)


def _cases(architecture: int) -> Iterator[compile_cases.Case]:
    """The calls of the committed tile table, then those of `compile_cases`. Raises: InputError."""
    file = tiling.committed_folder() / tiling.table_name(architecture)
    entries, wrong = tiling.read(file, "triton", partial(tiles.impossible, architecture))
    if wrong:
        raise InputError(f"{file}: {wrong[0]}")
    for entry in entries:
        yield from compile_cases.problem_calls(device_array, entry.problem)
    yield from compile_cases.cases(device_array, architecture)


def launches(architecture: int) -> Iterator[tuple[str, Launch]]:
    """(label, launch) of every case on an architecture, each kernel once.

    Layers of whole networks differ in their extents; of those whose kernels differ in nothing
    else, the first stands for all.
    """
    backend = registry.Backend("triton", triton_kernels)
    seen: set[str] = set()
    for label, function, arguments in _cases(architecture):
        with recorded(PROCESSORS[architecture], architecture) as made:
            chosen: dict[str, Any] = {}
            if "config" in directions(function):
                config = backend.choose(function, arguments)
                workspace = device_array("uint8", config.workspace_bytes)
                chosen = {"workspace": workspace, "config": config}
            backend.function(function)(**arguments, **chosen)
        for position, launch in enumerate(made, 1):
            key = _kind(launch)
            if key not in seen:
                seen.add(key)
                yield f"{label}: {function} {position} {launch.kernel.__name__}", launch


def _kind(launch: Launch) -> str:
    """What the compiled code depends on, but for the extents of a layer and its images.

    Of these count whether they are multiples of the blocks and of what one load takes, and
    whether a filter has one tap or several; not whether H, W or N are multiples of 16.
    """
    signature, constants, _ = _specialised(launch)
    blocks = [v for name, v in sorted(constants.items()) if name.startswith("BLOCK_")]
    for name in set(EXTENTS) & set(launch.constants):
        extent = constants.pop(name)
        constants[f"{name} kind"] = (extent > 0, extent > 1)
        if name in ("C", "K"):
            constants[f"{name} kind"] = math.gcd(extent, 16), [extent % b == 0 for b in blocks]
    told = (launch.kernel.__name__, signature, sorted(constants.items()))
    return f"{told} {launch.warps} {launch.stages}"


def _specialised(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Types, constants and attributes as Triton finds them: alignment, multiples of 16, ones."""
    names = launch.kernel.arg_names
    signature: dict[str, str] = dict.fromkeys(names, "constexpr")
    constants: dict[str, Any] = dict(launch.constants)
    attributes: dict[tuple[int, ...], Any] = {}
    for position, value in enumerate(launch.arguments):
        name = names[position]
        if isinstance(value, TensorDescriptor):
            block = ", ".join(map(str, value.block_shape))
            signature[name] = f"tensordesc<{NAMES[value.base.dtype]}[{block}]>"
            aligned = False
        elif isinstance(value, Pointer):
            signature[name], aligned = f"*{NAMES[value.dtype]}", value.address % 16 == 0
        elif value is None or (value == 1 and isinstance(value, int)):
            constants[name], aligned = value, False
        elif isinstance(value, float):
            signature[name], aligned = "fp32", False
        else:
            signature[name], aligned = "i32" if value < 2**31 else "i64", value % 16 == 0
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def figures(launch: Launch, architecture: int) -> tuple[dict[str, int], list[str]]:
    """What the compiler makes of one launch on one architecture, and which rules that breaks."""
    options = {"num_warps": launch.warps, "num_stages": launch.stages, **OPTIONS}
    target = GPUTarget("cuda", architecture, 32)
    made = triton.compile(
        ASTSource(launch.kernel, *_specialised(launch)), target=target, options=options
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        code = _output("nvdisasm", "-c", file.name)
    instructions, loop = hot_loop(code)
    registers, stack = (int(re.findall(rf"{n}:(\d+)", usage)[-1]) for n in ("REG", "STACK"))
    found = {
        "registers": registers,
        "spill_bytes": stack,
        "shared_bytes": made.metadata.shared,
        "mma": _count(instructions, MMA),
        "tma": _count(instructions, TMA),
        "loop": loop,
    }
    broken = []
    if uses_tensor_cores(made.asm["ttir"]):
        wanted = {90: ("HGMMA",)}.get(architecture, MMA)
        if not _count(instructions, wanted):
            broken.append(f"a product of 16-bit or TF32 numbers without {wanted[0]}")
    return found, broken


def uses_tensor_cores(ttir: str) -> bool:
    """Whether Triton's code has a product that tensor cores take: 16-bit, or TF32."""
    products = [line for line in ttir.splitlines() if "tt.dot " in line]
    return any("xbf16>" in p or "xf16>" in p or "tf32" in p.lower() for p in products)


def _count(instructions: list[str], names: tuple[str, ...]) -> int:
    return sum(any(name in i for name in names) for i in instructions)


def _output(tool: str, *arguments: str) -> str:
    found = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return found.stdout


def hot_loop(code: str) -> tuple[list[str], int]:
    """(all instructions, length of the hot loop) of a disassembly; 0 without such a loop.

    A loop is what lies between a label and a branch back to it; the hot one has the most
    products (tensor-core or plain), and of those that have as many, it is the shortest.
    """
    instructions: list[str] = []
    labels: dict[str, int] = {}
    best = (0, 0)  # products, minus length
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x?_?\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(found[1].strip())
            to = re.search(r"\bBRA\b.*?(\.L\w+)", found[1])
            if to and to[1] in labels:
                body = instructions[labels[to[1]] :]
                best = max(best, (_count(body, (*MMA, "FFMA")), -len(body)))
    return instructions, -best[1] if best[0] else 0


def selected(architecture: int, quick: bool) -> list[tuple[str, Launch]]:
    """The launches of an architecture that a run compiles."""
    made = list(launches(architecture))
    if quick:
        return [m for m in made if m[0].startswith(QUICK[1]) and "BLOCK_DEPTH" in m[1].constants]
    if architecture in WHOLE:
        return made
    few = ("table", *compile_cases.FEW)
    return [m for m in made if m[0].startswith(few) and "BLOCK_DEPTH" in m[1].constants]


Rows = dict[str, dict[str, dict[str, int]]]  # label → architecture → figures
Known = dict[str, dict[str, int]]  # label → figures, on one architecture
Share = tuple[int, bool, int, int, Known]  # architecture, quick, which share, of how many; known


def compiled(share: Share) -> tuple[dict[str, dict[str, int]], list[str]]:
    """The figures of one share of an architecture's launches by label, and broken rules.

    What is known is not compiled.
    """
    architecture, quick, part, parts, known = share
    rows, broken = {}, []
    for label, launch in selected(architecture, quick)[part::parts]:
        if label in known:
            rows[label] = known[label]
            continue
        rows[label], told = figures(launch, architecture)
        broken += [f"{label}, sm_{architecture}: {line}" for line in told]
    return rows, broken


def table(quick: bool = False, known: Rows | None = None) -> tuple[Rows, list[str]]:
    """Figures by launch and architecture, and broken rules; of what is `known`, the known ones."""
    rows: Rows = {}
    broken: list[str] = []

    def add(share: Share, made: tuple[dict[str, dict[str, int]], list[str]]) -> None:
        for label, row in made[0].items():
            rows.setdefault(label, {})[f"sm_{share[0]}"] = row
        broken.extend(made[1])

    def of(architecture: int) -> Known:
        name = f"sm_{architecture}"
        return {label: row[name] for label, row in (known or {}).items() if name in row}

    if quick:
        share = (QUICK[0], True, 0, 1, {})
        add(share, compiled(share))
    else:
        shares = [(a, False, part, PARTS, of(a)) for a in PROCESSORS for part in range(PARTS)]
        with ProcessPoolExecutor(min(threads.cores(), MOST_WORKERS), get_context("spawn")) as pool:
            for share, made in zip(shares, pool.map(compiled, shares), strict=True):
                add(share, made)
    return rows, broken + ratchet.spills(rows)


def main(arguments: list[str]) -> int:
    """Compile, then compare with the table or write it."""
    try:
        mode = ratchet.mode(arguments)
    except InputError as error:
        print(f"compile_check: {error}")
        return 2
    if interpreted():
        print("compile_check: TRITON_INTERPRET is set: nothing would be compiled; unset it")
        return 2
    version = triton.__version__
    try:
        known = ratchet.read(ratchet.table_file("triton", version)) if mode == "missing" else {}
        rows, broken = table(mode == "quick", known)
        return ratchet.hold("triton", version, rows, mode=mode, broken=broken)
    except InputError as error:
        print(f"compile_check: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
