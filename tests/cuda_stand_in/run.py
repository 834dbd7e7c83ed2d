"""The command on the stand-in; with STAND_IN_HOST set, backend cupy's kernels run on the host."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any

from cnnengine.cli.main import main
from cnnengine.kernels.cupy import device, launch, simulator


def run_on_host() -> None:
    """Let every kernel that backend cupy compiles be known to the stand-in as a host function."""
    library = ctypes.CDLL("libcuda.so.1")
    runner = ctypes.cast(simulator._machine().simulator_run, ctypes.c_void_p)
    library.stand_in_runner(runner)
    library.stand_in_parameters.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    compiled = device._kernel

    @functools.cache
    def kernel(file: str, name: str, index: int) -> Any:
        found = compiled(file, name, index)
        host = simulator._compiled(file, name)
        sizes = (ctypes.c_int * 64)()
        count = library.stand_in_parameters(found.kernel.ptr, sizes)
        assert count == len(host.types), f"{name}: {count} parameters, not {len(host.types)}"
        given = [ctypes.sizeof(simulator.CTYPES.get(t, ctypes.c_void_p)) for t in host.types]
        assert given == sizes[:count], f"{name}: sizes {sizes[:count]}, not {given}"
        library.stand_in_host(found.name.encode(), ctypes.cast(host.thread, ctypes.c_void_p))
        return found

    device._kernel = kernel


if __name__ == "__main__":
    assert not launch.simulated()
    if os.environ.get("STAND_IN_HOST"):
        run_on_host()
    sys.exit(main())
