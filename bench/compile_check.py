"""Compile every Triton kernel without a GPU and hold what the compiler made of it.

    python -m cnnengine.bench.compile_check            compare with the table in the repository
    python -m cnnengine.bench.compile_check --update   write the table
    python -m cnnengine.bench.compile_check --rest     print the figures of all other functions

The table holds the convolutions; the other functions are compiled and shown, not yet held.

Contract calls on layers of known networks are made on arrays that nobody reads; the backend's own
launch code chooses tiles and arguments, and each launch is written down and compiled for each
architecture. From the machine code come the registers and bytes of spill a thread, the bytes of
shared memory, the tensor-core instructions and the length of the hot loop (the loop with most of
them). A figure may get better; `check` fails when one gets worse. There is a table for each minor
version of Triton.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from ..kernels import registry
from ..kernels import triton as triton_kernels
from ..kernels.spec import Conv2d, MaxPool2d, directions
from ..kernels.triton import interpreted
from ..kernels.triton.launch import OPTIONS, Launch, Pointer, recorded
from . import compile_cases

FOLDER = Path(__file__).parent / "results" / "compile"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
PROCESSORS = {80: 108, 90: 132}  # of an A100 and an H100
NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8"}
NAMES |= {"int32": "i32", "int64": "i64", "uint32": "u32"}
MMA = ("HGMMA", "HMMA", "UTCHMMA", "UTCQMMA")
WORSE_IF_MORE = ("registers", "spill_bytes", "shared_bytes", "loop")
SAME = Conv2d(padding=(1, 1, 1, 1))


class DeviceArray(np.ndarray):
    """An array that passes for one on a GPU; its memory is reserved and never touched."""

    __cuda_array_interface__ = None


def _array(dtype: str, *shape: int) -> DeviceArray:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    size = int(np.prod(shape))
    start = np.empty(size * kind.itemsize + 16, np.uint8)
    first = -start.ctypes.data % 16
    return start[first : first + size * kind.itemsize].view(kind).reshape(shape).view(DeviceArray)


Case = tuple[str, str, dict[str, Any]]  # label, contract function, arguments


def _conv(label: str, x: tuple[int, ...], k: int, r: int, op: Conv2d, dtype: str) -> Iterator[Case]:
    """The three passes of one convolution, ReLU, mask and bias gradient included."""
    w = (k, r, r, x[3] // op.groups)
    y = op.output_shape(x, w)
    label = f"{label} {dtype}" + (f" {op.precision}" if dtype == "float32" else "")
    images, filters, output = _array(dtype, *x), _array(dtype, *w), _array(dtype, *y)
    bias, sums = _array("float32", k), _array("float32", x[3])
    forward = {"x": images, "w": filters, "b": bias, "out": output, "op": op, "relu": True}
    yield label, "conv2d", forward
    if x[3] > 3:
        back = {"dy": output, "w": filters, "out": images, "op": op}
        yield label, "conv2d_dgrad", {**back, "mask": _array(dtype, *x), "db": sums}
    gradient = _array("float32", *w)
    yield label, "conv2d_wgrad", {"x": images, "dy": output, "out": gradient, "op": op}


def _pooled(label: str, x: tuple[int, ...], k: int, dtype: str) -> Iterator[Case]:
    pool = MaxPool2d((2, 2), (2, 2))
    out = (x[0], x[1] // 2, x[2] // 2, k)
    arrays = {"out": _array(dtype, *out), "code": _array("int8", *out)}
    inputs = {"x": _array(dtype, *x), "w": _array(dtype, k, 3, 3, x[3])}
    label = f"{label} {dtype}"
    bias = _array("float32", k)
    yield label, "conv2d_relu_pool", {**inputs, "b": bias, **arrays, "op": SAME, "pool": pool}
    back = {"dy": arrays["out"], "code": arrays["code"], "out": _array(dtype, *x[:3], k)}
    yield label, "conv2d_relu_pool_backward", {**back, "db": bias, "pool": pool}


def cases() -> Iterator[Case]:
    """The calls that are compiled: VGG16's layers at batch 64, a strided one, edge padding."""
    vgg3 = ("vgg16 conv3_2", (64, 56, 56, 256), 256, 3)
    yield from _conv(*vgg3, SAME, "bfloat16")
    yield from _conv(*vgg3, replace(SAME, precision="tf32x3"), "float32")
    for precision in ("ieee", "tf32"):
        yield next(_conv(*vgg3, replace(SAME, precision=precision), "float32"))
    yield from _conv("vgg16 conv1_1", (64, 224, 224, 3), 64, 3, SAME, "bfloat16")
    edge = replace(SAME, padding_mode="edge")
    yield from _conv("vgg16 conv5_1 edge", (64, 14, 14, 512), 512, 3, edge, "bfloat16")
    strided = replace(SAME, stride=(2, 2))
    yield from _conv("resnet50 3x3/2", (64, 56, 56, 128), 128, 3, strided, "bfloat16")
    yield from _pooled("vgg16 conv1_2", (64, 224, 224, 64), 64, "bfloat16")


def launches(processors: int, rest: bool = False) -> Iterator[tuple[str, Launch]]:
    """(label, launch) of every case on a GPU of so many multiprocessors, each kernel once.

    `rest`: of the functions that are no convolutions.
    """
    backend = registry.Backend("triton", triton_kernels)
    seen: set[str] = set()
    for label, function, arguments in compile_cases.cases(_array) if rest else cases():
        with recorded(processors, fetches=processors == PROCESSORS[90]) as made:
            chosen: dict[str, Any] = {}
            if "config" in directions(function):
                config = backend.choose(function, arguments)
                workspace = _array("uint8", config.workspace_bytes)
                chosen = {"workspace": workspace, "config": config}
            backend.function(function)(**arguments, **chosen)
        for position, launch in enumerate(made, 1):
            source = _source(launch)
            told = (source.name, source.signature, source.constants, source.attrs)
            key = f"{told} {launch.warps} {launch.stages}"
            if key not in seen:
                seen.add(key)
                yield f"{label}: {function} {position} {launch.kernel.__name__}", launch


def _source(launch: Launch) -> ASTSource:
    """The launch as Triton would specialise it: aligned pointers and multiples of 16 are told."""
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
    return ASTSource(launch.kernel, signature, constants, attributes)


def figures(launch: Launch, architecture: int) -> dict[str, int]:
    """What the compiler makes of one launch on one architecture."""
    options = {"num_warps": launch.warps, "num_stages": launch.stages, **OPTIONS}
    target = GPUTarget("cuda", architecture, 32)
    made = triton.compile(_source(launch), target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        code = _output("nvdisasm", "-c", file.name)
    instructions, loop = hot_loop(code)
    registers, stack = (int(re.findall(rf"{n}:(\d+)", usage)[-1]) for n in ("REG", "STACK"))
    return {
        "registers": registers,
        "spill_bytes": stack,
        "shared_bytes": made.metadata.shared,
        "mma": sum(any(m in i for m in MMA) for i in instructions),
        "loop": loop,
    }


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
                products = sum(any(m in i for m in (*MMA, "FFMA")) for i in body)
                best = max(best, (products, -len(body)))
    return instructions, -best[1] if best[0] else 0


def table(
    architectures: tuple[int, ...], rest: bool = False
) -> dict[str, dict[str, dict[str, int]]]:
    """Figures by launch and architecture."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for architecture in architectures:
        for label, launch in launches(PROCESSORS[architecture], rest):
            found.setdefault(label, {})[f"sm_{architecture}"] = figures(launch, architecture)
    return found


def worse(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """One line for each figure that is worse than it was, or that has no predecessor."""
    told = []
    for label, by_architecture in now.items():
        for architecture, values in by_architecture.items():
            old = before.get(label, {}).get(architecture)
            if old is None:
                told.append(f"{label}, {architecture}: not in the table")
                continue
            for name, value in values.items():
                if value > old[name] if name in WORSE_IF_MORE else value < old[name]:
                    told.append(f"{label}, {architecture}: {name} {old[name]} -> {value}")
    return told


def table_file() -> Path:
    """The table of the installed Triton's minor version."""
    return FOLDER / f"triton-{'.'.join(triton.__version__.split('.')[:2])}.json"


def main(arguments: list[str]) -> int:
    """Compile all, then compare with the table or, with `--update`, write it."""
    if interpreted():
        print("compile_check: TRITON_INTERPRET is set: nothing would be compiled; unset it")
        return 2
    if "--rest" in arguments:
        print(json.dumps(table(tuple(PROCESSORS), rest=True), indent=1))
        return 0
    file = table_file()
    update = "--update" in arguments
    if not update and not file.exists():
        print(f"compile_check: there is no {file.name}; write it with --update")
        return 1
    now = table(tuple(PROCESSORS))
    if update:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"triton": triton.__version__, "launches": now}
        file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        print(f"{file}: {len(now)} launches on {len(PROCESSORS)} architectures")
        return 0
    told = worse(now, json.loads(file.read_text())["launches"])
    print("\n".join(told) or f"{len(now)} launches: none worse than {file.name}")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
