"""Compile the CUDA C++ kernels without a GPU and hold what NVRTC makes of them.

    python -m cnnengine.bench.compile_cupy             compare with the table in the repository
    python -m cnnengine.bench.compile_cupy --update    write the table
    python -m cnnengine.bench.compile_cupy --missing   write what it lacks, drop what is gone
    python -m cnnengine.bench.compile_cupy --quick     compare a few kernels on one architecture

The calls are those of `compile_check`: the backend's own launch code chooses the instantiations,
and each is compiled for every architecture that it is used on. From NVRTC's report and the machine
code come the figures of `ratchet`; `shared_bytes` is what the code declares. There is a table for
each minor version of NVRTC, and rules that hold whatever it says: nothing spills, and a kernel for
tensor cores uses them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from ..engine.errors import InputError
from ..kernels import cupy as cupy_kernels
from ..kernels import registry
from ..kernels.cupy import compile
from ..kernels.cupy.launch import Kernel, recorded
from ..kernels.errors import BackendError, UnsupportedError
from ..kernels.spec import directions
from . import compile_cases, ratchet
from .compile_check import MMA, PROCESSORS, TOOLS, device_array, hot_loop

WORKERS, PARTS = 2, 6  # processes, and shares of an architecture's kernels
QUICK = 90, ("conv_mma.cu", "conv_forward.cu", "reduce.cu")  # the first kernel of each
ARCHITECTURES = tuple(a for a in PROCESSORS if a in compile.ARCHITECTURES)


def kernels(architecture: int) -> Iterator[Kernel]:
    """The instantiations that the calls of `compile_cases` launch on an architecture, each once."""
    backend = registry.Backend("cupy", cupy_kernels)
    seen: set[Kernel] = set()
    for _, function, arguments in compile_cases.cases(device_array, architecture):
        with recorded(PROCESSORS[architecture], architecture) as made:
            try:
                _call(backend, function, arguments)
            except UnsupportedError:
                continue  # refused by name: images with a border of zeros
        for launch in made:
            if launch.kernel not in seen:
                seen.add(launch.kernel)
                yield launch.kernel


def _call(backend: registry.Backend, function: str, arguments: dict[str, Any]) -> None:
    if (reason := backend.supports(function, arguments)) is not None:
        raise UnsupportedError(f"{function}: backend cupy {reason}")
    chosen: dict[str, Any] = {}
    if "config" in directions(function):
        config = backend.choose(function, arguments)
        workspace = device_array("uint8", config.workspace_bytes)
        chosen = {"workspace": workspace, "config": config}
    backend.function(function)(**arguments, **chosen)


def figures(kernel: Kernel, architecture: int) -> tuple[dict[str, int], list[str]]:
    """What the compiler makes of one kernel on one architecture, and which rules that breaks."""
    code, report = compile.compiled(kernel, architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [TOOLS / "nvdisasm", "-c", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    instructions, loop = hot_loop(told.stdout)
    mma = sum(any(name in i for name in MMA) for i in instructions)
    broken = ["a kernel for tensor cores without them"] if "mma" in kernel.name and not mma else []
    return {**compile.figures(report), "mma": mma, "loop": loop}, broken


def label(kernel: Kernel) -> str:
    """How a kernel is called in the table."""
    return f"{kernel.file}: {kernel.name}"


Rows = dict[str, dict[str, dict[str, int]]]  # label → architecture → figures
Share = tuple[int, list[Kernel]]  # architecture, kernels to compile for it


def compiled(share: Share) -> tuple[dict[str, dict[str, int]], list[str]]:
    """The figures of a share by label, and broken rules."""
    architecture, chosen = share
    rows, broken = {}, []
    for kernel in chosen:
        rows[label(kernel)], told = figures(kernel, architecture)
        broken += [f"{label(kernel)}, sm_{architecture}: {line}" for line in told]
    return rows, broken


def table(known: Rows) -> tuple[Rows, list[str]]:
    """Figures by kernel and architecture, and broken rules; of what is `known`, the known ones."""
    rows: Rows = {}
    broken: list[str] = []
    shares: list[Share] = []
    for architecture in ARCHITECTURES:
        name, left = f"sm_{architecture}", []
        for kernel in kernels(architecture):
            row = known.get(label(kernel), {}).get(name)
            if row is None:
                left.append(kernel)
            else:
                rows.setdefault(label(kernel), {})[name] = row
        shares += [(architecture, left[part::PARTS]) for part in range(PARTS)]
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        for share, made in zip(shares, pool.map(compiled, shares), strict=True):
            for name, row in made[0].items():
                rows.setdefault(name, {})[f"sm_{share[0]}"] = row
            broken += made[1]
    return rows, broken + ratchet.spills(rows)


def quick_table() -> tuple[Rows, list[str]]:
    """The same of a few kernels on one architecture."""
    architecture, files = QUICK
    first: dict[str, Kernel] = {}
    for kernel in kernels(architecture):
        first.setdefault(kernel.file, kernel)
    made, broken = compiled((architecture, [first[file] for file in files]))
    rows = {name: {f"sm_{architecture}": row} for name, row in made.items()}
    return rows, broken + ratchet.spills(rows)


def main(arguments: list[str]) -> int:
    """Compile, then compare with the table or write it."""
    try:
        mode = ratchet.mode(arguments)
    except InputError as error:
        print(f"compile_cupy: {error}")
        return 2
    if (reason := compile.missing()) is not None:
        print(f"compile_cupy: {reason}")
        return 2
    try:
        version = compile.version()
        known = ratchet.read(ratchet.table_file("nvrtc", version)) if mode == "missing" else {}
        rows, broken = quick_table() if mode == "quick" else table(known)
        return ratchet.hold("nvrtc", version, rows, mode=mode, broken=broken)
    except (BackendError, InputError) as error:
        print(f"compile_cupy: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
