"""Clocks, temperature, power and energy of a GPU through NVML, where nvidia-ml-py is installed."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any


def library() -> Any:
    """NVML, opened; None where it is not installed or finds no driver."""
    try:
        module = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        module.nvmlInit()
    except module.NVMLError:
        return None
    return module


class Watch:
    """What a GPU does from now until `told`."""

    def __init__(self, bus: str) -> None:
        """Start counting energy of the GPU at this PCI address.

        NVML's own numbers are of all GPUs, those of CUDA of the visible ones, the fastest first.
        """
        self._nvml = library()
        if self._nvml is not None:
            try:
                self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(bus)
            except self._nvml.NVMLError:  # a container may hide it
                self._nvml = None
        self._before = self._energy()

    def _energy(self) -> int | None:
        """Millijoules since the driver was loaded; None where the GPU does not count them."""
        if self._nvml is None:
            return None
        with contextlib.suppress(self._nvml.NVMLError):
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return None

    def joules(self) -> float | None:
        """Energy since the start; None where it cannot be measured."""
        after = self._energy()
        return None if after is None or self._before is None else (after - self._before) / 1e3

    def told(self) -> dict[str, float] | None:
        """Clocks in MHz, degrees, watts, and joules since the start; None without NVML."""
        n = self._nvml
        if n is None:
            return None
        asked = {
            "sm_mhz": lambda: n.nvmlDeviceGetClockInfo(self._handle, n.NVML_CLOCK_SM),
            "memory_mhz": lambda: n.nvmlDeviceGetClockInfo(self._handle, n.NVML_CLOCK_MEM),
            "celsius": lambda: n.nvmlDeviceGetTemperature(self._handle, n.NVML_TEMPERATURE_GPU),
            "watts": lambda: n.nvmlDeviceGetPowerUsage(self._handle) / 1e3,
        }
        found: dict[str, float] = {}
        for name, ask in asked.items():
            with contextlib.suppress(n.NVMLError):  # some GPUs do not tell some of them
                found[name] = ask()
        if (joules := self.joules()) is not None:
            found["joules"] = joules
        return found
