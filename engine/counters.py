"""What counts the joules of this machine's parts: RAPL, NVML, or the processor's time.

RAPL's counters begin anew at their largest value, after ten minutes of hard work or more: they must
be read more often than that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import nvml
from .device import Device

MEASURED, ESTIMATED, UNKNOWN = LABELS = ("measured", "estimated", "unknown")  # best first
INSTALL = "pip install 'cnnengine[energy]'"
POWERCAP = Path("/sys/class/powercap")
ROOT_ONLY = "only root may read RAPL here"
LET_READ = f"sudo chmod o+r {POWERCAP}/intel-rapl:*/energy_uj"
PACKAGE_WATTS, MEMORY_WATTS = 400.0, 100.0  # hardly more, over minutes
# One hardware thread at work: TDP over hardware threads lies between 2 and 6 W for servers,
# desktops and laptops of the early 2020s.
THREAD_WATTS = 4.0


class Source(Protocol):
    """Counts joules from its beginning on; None: unknown."""

    name: str
    label: str
    source: str

    def joules(self) -> float | None:
        """Joules since the beginning."""
        ...


@dataclass(frozen=True)
class _Domain:
    """A RAPL counter in microjoules: its file, its largest value, what its part may draw."""

    counter: Path
    largest: int
    most_watts: float

    def read(self) -> int:
        return int(self.counter.read_text())


class Rapl:
    """Counters of the processor packages and their memory, in microjoules."""

    name, label = "processor", MEASURED
    source = "RAPL, the whole machine's processors and their memory"

    def __init__(self, root: Path | None = None) -> None:
        """Begin at the counters' present values. Raises: OSError where none can be read."""
        root = root or POWERCAP
        self._domains = _rapl_domains(root)
        if not self._domains:
            raise FileNotFoundError(f"no RAPL counter in {root}")
        self._last = [domain.read() for domain in self._domains]
        self._sum, self._looked = 0, time.monotonic()

    def joules(self) -> float | None:
        """Joules since the beginning; None from the first time on that they could not be told."""
        if self.label == UNKNOWN:
            return None
        try:
            now = [domain.read() for domain in self._domains]
        except (OSError, ValueError):
            return self._lose("a RAPL counter could not be read any more")
        seconds = time.monotonic() - self._looked
        if any(seconds * domain.most_watts * 1e6 > domain.largest for domain in self._domains):
            return self._lose(f"RAPL was not read for {seconds:.0f} s, too long to tell")
        for before, after, domain in zip(self._last, now, self._domains, strict=True):
            self._sum += after - before if after >= before else after - before + domain.largest
        self._last, self._looked = now, time.monotonic()
        return self._sum / 1e6

    def _lose(self, reason: str) -> None:
        self.label, self.source = UNKNOWN, reason


class ProcessorTime:
    """An estimate from the processor time of this process."""

    name, label = "processor", ESTIMATED

    def __init__(self, reason: str = "") -> None:
        """Begin now; `reason` says why there is nothing better."""
        told = f"this process's processor time at {THREAD_WATTS:g} W a hardware thread"
        self.source = f"{told} ({reason})" if reason else told
        self._begun = time.process_time()

    def joules(self) -> float:
        """Joules since the beginning."""
        return (time.process_time() - self._begun) * THREAD_WATTS


class GpuCounter:
    """The energy counter of one GPU."""

    name = "GPU"

    def __init__(self, bus: str) -> None:
        """Begin at the counter's present value, of the GPU at this PCI address."""
        self._watch = nvml.Watch(bus)
        known = self._watch.joules() is not None
        self.label = MEASURED if known else UNKNOWN
        self.source = "its counter, by NVML" if known else (
            "NVML tells no energy of it" if nvml.library() else f"no NVML; {INSTALL}"
        )  # fmt: skip

    def joules(self) -> float | None:
        """Joules since the beginning."""
        return self._watch.joules()


def processor() -> Source:
    """RAPL where it can be read, else the processor's time."""
    try:
        return Rapl()
    except PermissionError:
        return ProcessorTime(ROOT_ONLY)
    except (OSError, ValueError):
        return ProcessorTime()


def sources_of(device: Device) -> list[Source]:
    """The best source for each part of the machine that works for a device."""
    found = [processor()]
    if device.name.startswith("cuda"):
        gpu: Any = device.gpu  # type: ignore[attr-defined]
        found.append(GpuCounter(gpu.bus()))
    return found


def _rapl_domains(root: Path) -> list[_Domain]:
    """The counters of packages, and of memory, which packages do not count.

    Domains: intel-rapl:0 is a package (on AMD too), intel-rapl:0:2 a part of it. Cores are counted
    in their package, `psys` counts packages once more.
    """
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):
        name = (folder / "name").read_text().strip()
        if name.startswith("package") or name == "dram":
            largest = int((folder / "max_energy_range_uj").read_text())
            watts = PACKAGE_WATTS if name.startswith("package") else MEMORY_WATTS
            found.append(_Domain(folder / "energy_uj", largest, watts))
    return found
