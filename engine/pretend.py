"""GPUs that are not here: what would run on one can be shown, and nothing runs.

with pretended_gpu("sm_90") as device:
    stages(graph, device, training=False)
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from ..kernels import registry
from ..kernels.cupy import launch
from .device import Device, backends_of
from .errors import InputError

PROCESSORS = {80: 108, 86: 82, 89: 128, 90: 132, 100: 148}  # A100, 3090, 4090, H100, B200


@contextlib.contextmanager
def pretended_gpu(name: str, kernels: str = "auto") -> Iterator[Device]:
    """A device that stands for a GPU of the architecture `name`, like "sm_90".

    While it is open, backends choose as for that GPU. The tables of tiles are those of the
    repository and the user's.

    Raises: InputError for an unknown architecture or kernels, and where Triton is not installed.
    """
    known = {f"sm_{architecture}": architecture for architecture in PROCESSORS}
    if name not in known:
        raise InputError(f"unknown GPU {name!r}; known: {', '.join(known)}")
    backends, architecture = backends_of("cuda", kernels), known[name]
    with contextlib.ExitStack() as stack:
        stack.enter_context(registry.only_shown())
        stack.enter_context(launch.recorded(PROCESSORS[architecture], architecture))
        if "triton" in backends:
            if importlib.util.find_spec("triton") is None:
                raise InputError(f"--for {name}: Triton is not installed; pip install triton")
            from ..kernels.triton import gpu

            stack.enter_context(gpu.recorded(PROCESSORS[architecture], architecture))
        precisions = ("fp32", "tf32", "fp16", "bf16")
        yield Device(name, backends, precisions=precisions, products="tf32x3")
