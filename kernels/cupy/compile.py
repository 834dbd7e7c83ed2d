"""What NVRTC makes of a kernel, for any architecture; neither a GPU nor a driver is needed.

    code, report = compiled(Kernel("elementwise.cu", "relu_kernel<float>"), 90)
    figures(report)  # {"registers": 14, "spill_bytes": 0, "shared_bytes": 0}

The kernel is the one that a launch compiles, from the same files and with the same flags.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

from ..errors import BackendError
from . import device, simulator
from .launch import Kernel

ARCHITECTURES = (80, 86, 89, 90)
# of a launch, to which CuPy adds that float32 below 2^-126 counts as zero; and a report
FLAGS = ("-std=c++17", f"-I{simulator.FOLDER}", "-ftz=true", "--ptxas-options=-v")
USED = {
    "registers": r"Used (\d+) registers",
    "spill_bytes": r"(\d+) bytes stack frame",
    "shared_bytes": r"(\d+) bytes smem",
}


def _nvrtc() -> Any:
    return importlib.import_module("cupy.cuda").nvrtc


def missing() -> str | None:
    """Why nothing can be compiled here and what mends it; None if it can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; pip install 'cnnengine[cuda12]'"
    return device.compiler_missing()


def compiled(kernel: Kernel, architecture: int) -> tuple[bytes, str]:
    """(machine code as a cubin, the compiler's report) for sm_`architecture`.

    Raises: BackendError with the compiler's message.
    """
    nvrtc = _nvrtc()
    code = f'#include "{simulator.FOLDER / kernel.file}"\n'
    program = nvrtc.createProgram(code, "kernel.cu", [], [])
    try:
        nvrtc.addNameExpression(program, kernel.name)
        nvrtc.compileProgram(program, [f"--gpu-architecture=sm_{architecture}", *FLAGS])
        # CuPy takes the last byte off, as if the code were text
        return nvrtc.getCUBIN(program) + b"\0", nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as error:
        told = f"{kernel.file}: {kernel.name}: NVRTC cannot compile it for sm_{architecture}"
        raise BackendError(f"{told}\n{nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


def figures(report: str) -> dict[str, int]:
    """Registers and bytes of local memory (spills) a thread, static shared memory a block."""
    found = {name: re.search(pattern, report) for name, pattern in USED.items()}
    return {name: int(match[1]) if match else 0 for name, match in found.items()}


def version() -> str:
    """NVRTC's version, as 12.9."""
    return ".".join(map(str, _nvrtc().getVersion()))
