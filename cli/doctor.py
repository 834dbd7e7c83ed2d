"""`cnnengine doctor`: what this machine offers, what is missing, and which line mends it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from . import options, output


@dataclass(frozen=True)
class Finding:
    """One line of the report; `state` is ok, missing or warning, `mend` the command that helps."""

    name: str
    state: str
    value: str
    mend: str = ""


@click.command("doctor")
@options.JSON
def command(as_json: bool) -> None:
    """Tell what this machine offers to the engine and what is missing.

    Only the CPU's part is needed; the rest makes things faster or compares.
    """
    findings = list(examine())
    if as_json:
        output.print_json({"findings": [asdict(finding) for finding in findings]})
        return
    rows = [(f.name, f.state, f.value, f.mend) for f in findings]
    output.print_table(("what", "state", "found", "what mends it"), rows,
                       left=("what", "state", "found", "what mends it"))  # fmt: skip


def examine() -> Iterator[Finding]:
    """Every finding, from the processor to the packages."""
    from ..engine import hardware

    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    cpu = hardware.processor()
    yield Finding("cpu", "ok", f"{cpu.model}; {cpu.usable} of {cpu.cores} processors usable")
    yield Finding("vectors", "ok", f"{cpu.level or 'unknown'}: {' '.join(cpu.flags)}")
    yield from _blas(cpu)
    yield from _backends()
    yield from _devices()
    driver = hardware.nvidia_driver()
    yield from _gpu(driver)
    yield from _energy(driver)
    yield from _packages(driver)


def _blas(cpu: Any) -> Iterator[Finding]:
    import os

    from ..engine import hardware

    forced = os.environ.get(hardware.CORE_TYPE)
    for blas in hardware.blas_libraries(cpu):
        told = f"{blas.name} {blas.version}, {blas.threads} threads"
        if blas.core_type:
            told += f", kernels for {blas.core_type}"
        if forced:
            told += f" ({hardware.CORE_TYPE}={forced})"
        yield Finding("blas", "warning" if blas.warning else "ok", told, blas.warning)


def _backends() -> Iterator[Finding]:
    from ..engine import hardware

    for name, reason in hardware.backends():
        what = f"kernels: {name}"
        if reason is None:
            yield Finding(what, "ok", "can run")
        else:
            found, _, mend = reason.partition("; ")
            yield Finding(what, "missing", found, mend)


def _devices() -> Iterator[Finding]:
    """Which devices `--device` can name here."""
    from ..engine import hardware
    from ..engine.device import AUTO, BACKENDS

    for name, reason in hardware.devices():
        what, kernels = f"device: {name}", f"kernels {', '.join(BACKENDS[name])}"
        kernels += "; what --device auto means" if name == AUTO else ""
        found, _, mend = (reason or "").partition("; ")
        state = "missing" if reason else "ok"
        yield Finding(what, state, found or kernels, mend)


def _gpu(driver: Any) -> Iterator[Finding]:
    if isinstance(driver, str):
        blind = "the NVIDIA driver is here" in driver
        mend = "look at CUDA_VISIBLE_DEVICES" if blind else "with an NVIDIA GPU: install its driver"
        yield Finding("gpu", "missing", driver, mend)
        return
    for gpu in driver.gpus:
        major, minor = gpu.capability
        memory = f"{gpu.memory / 2**30:.0f} GiB"
        yield Finding("gpu", "ok", f"{gpu.name}, {memory}, compute capability {major}.{minor}")
    yield Finding("driver", "ok", f"{driver.version}, runs CUDA up to {driver.cuda[0]}."
                  f"{driver.cuda[1]}")  # fmt: skip


def _energy(driver: Any) -> Iterator[Finding]:
    """What counts energy, and whether it measures or estimates."""
    from ..engine import counters, nvml

    source = counters.processor()
    mend = counters.LET_READ if counters.ROOT_ONLY in source.source else ""
    yield Finding("energy: processor", "warning" if mend else "ok",
                  f"{source.label}: {source.source}", mend)  # fmt: skip
    if isinstance(driver, str):
        return
    if nvml.library() is None:
        yield Finding("energy: gpu", "missing", "no NVML", counters.INSTALL)
    else:
        yield Finding("energy: gpu", "ok", "measured where the GPU counts it, by NVML")


def _packages(driver: Any) -> Iterator[Finding]:
    """The packages that GPUs, comparisons and ONNX files want, by their metadata alone."""
    from ..engine import hardware

    if isinstance(driver, str):
        gpu, triton, torch = (
            "of use with an NVIDIA GPU only",
            "pip install triton",
            "pip install torch",
        )
    else:
        extra = "cuda13" if driver.cuda >= (13, 0) else "cuda12"
        gpu = triton = torch = f"pip install 'cnnengine[{extra}]'"
    for name, pattern, mend in (
        ("cuda runtime", r"nvidia[-_]cuda[-_]runtime([-_]cu\d+)?", gpu),
        ("cupy", r"cupy([-_]cuda\d+x)?", gpu),
        ("triton", "triton", triton),
        ("torch", "torch", torch),
        ("cudnn", r"nvidia[-_]cudnn[-_]cu\d+", gpu),
        ("onnx", "onnx", "pip install 'cnnengine[onnx]'"),
        ("codecarbon", "codecarbon", "pip install 'cnnengine[energy]'"),
    ):
        found = hardware.installed_like(pattern)
        if found:
            yield Finding(name, "ok", found)
        else:
            yield Finding(name, "missing", "not installed", mend)
