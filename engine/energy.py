"""Energy and carbon of work: measured where a counter can be read, else estimated, else unknown.

    meter = Meter(open_device("cpu"))
    train()
    print(meter.read())      # 0.31 Wh (estimated), 0.15 g CO2 (estimated)

The processor is measured by RAPL where the system lets us read it (all packages and their memory,
other work on the machine included) and else estimated from this process's processor time. A GPU is
measured by its own counter, or unknown. The figure of both together is as good as the worse one.
Nothing runs in between: counters (`counters.py`) are read when `read` is called, of a run at every
checkpoint.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .counters import ESTIMATED, INSTALL, LABELS, UNKNOWN, Source, sources_of
from .device import Device
from .errors import InputError, unknown_name

JOULES = 3600.0  # a watt-hour
# International Energy Agency, Global Energy & CO2 Status Report 2019: all electricity of 2018.
WORLD_INTENSITY = 475.0  # grams of CO2 a kWh
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Part:
    """What one device used: watt-hours (None: unknown), their label, and where they are from."""

    name: str
    wh: float | None
    label: str
    source: str


@dataclass(frozen=True)
class Energy:
    """Watt-hours and grams of CO2 of some work; None where unknown."""

    wh: float | None
    label: str
    parts: tuple[Part, ...]
    co2_g: float | None
    co2_label: str
    co2_source: str

    def __str__(self) -> str:
        """Like "0.31 Wh (estimated), 0.15 g CO2 (estimated)"."""
        return f"{_told(self.wh, 'Wh', self.label)}, {_told(self.co2_g, 'g CO2', self.co2_label)}"

    def sources(self) -> str:
        """Where the figures are from, in one line."""
        parts = "; ".join(f"{p.name} {_told(p.wh, 'Wh', p.label)}: {p.source}" for p in self.parts)
        return f"{parts}; CO2: {self.co2_source}"

    def to_json(self) -> dict[str, Any]:
        """As an object of plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Intensity:
    """Grams of CO2 a kWh of electricity, and where the figure is from."""

    grams: float = WORLD_INTENSITY
    source: str = f"the world's average, {WORLD_INTENSITY:.0f} g/kWh (IEA, 2018)"


class Meter:
    """Counts the energy of the machine's parts that work for a device, from now on."""

    def __init__(
        self, device: Device, intensity: Intensity | None = None,
        sources: Sequence[Source] | None = None,
    ) -> None:  # fmt: skip
        """Begin; `sources` in the place of the device's own."""
        self.intensity = intensity or Intensity()
        self.earlier: Part | None = None  # what a run used before, in other sessions
        self._sources = list(sources) if sources is not None else sources_of(device)
        self._looked, self._seen = 0.0, self.read()

    def read(self) -> Energy:
        """What was used since the beginning, and earlier."""
        parts = [] if self.earlier is None else [self.earlier]
        for source in self._sources:
            joules = source.joules()
            wh = None if joules is None else joules / JOULES
            parts.append(Part(source.name, wh, source.label, source.source))
        return add_up(parts, self.intensity)

    def go_on(self, wh: float | None, label: str, limit: float) -> None:
        """Count what a run used in earlier sessions too; None: nobody knows.

        Raises: InputError when that is above `limit` watt-hours (0: no limit) already.
        """
        self.earlier = Part("earlier sessions", wh, label, "the checkpoint")
        if limit and wh is None:
            raise InputError(
                f"--stop-above-wh {limit:g}: what this run used before is unknown; give 0 for "
                "no limit"
            )
        if limit and wh is not None and wh > limit:
            raise InputError(
                f"--stop-above-wh {limit:g}: the run has used {amount(wh)} Wh already; give a "
                "higher limit, or 0 for none"
            )

    def passed(self, limit: float) -> bool:
        """Whether more than `limit` watt-hours were used, or nobody can tell any more.

        Counters are read every LOOK_SECONDS.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked, self._seen = now, self.read()
        return self._seen.wh is None or self._seen.wh > limit


def open_meter(device: Device, country: str = "", limit: float = 0.0) -> Meter:
    """The meter of a run that stops above `limit` watt-hours (0: no limit).

    Raises: InputError for an unknown country, or where there is a limit and nothing to count with.
    """
    meter = Meter(device, intensity_of(country))
    now = meter.read()
    if limit and now.wh is None:
        raise InputError(f"--stop-above-wh {limit:g}: energy is unknown here ({now.sources()})")
    return meter


def add_up(parts: Sequence[Part], intensity: Intensity) -> Energy:
    """The energy of all parts together and its carbon; unknown where one part is."""
    label = worse(*(part.label for part in parts))
    known = [part.wh for part in parts if part.wh is not None]
    wh = sum(known) if len(known) == len(parts) else None
    co2 = None if wh is None else wh * intensity.grams / 1000
    co2_label = UNKNOWN if wh is None else ESTIMATED  # no meter measures carbon
    return Energy(wh, label, tuple(parts), co2, co2_label, intensity.source)


def worse(*labels: str) -> str:
    """The worst of some labels."""
    return max(labels, key=LABELS.index)


def intensity_of(country: str) -> Intensity:
    """The carbon of a country's electricity; "" is the world's average.

    `country` is a code of three letters (ISO 3166-1), like DEU. The figures are those of
    codecarbon, read from its files; nothing is asked over the network.

    Raises: InputError for a country that is not known, or without codecarbon.
    """
    if not country:
        return Intensity()
    if importlib.util.find_spec("codecarbon") is None:
        raise InputError(f"--energy-country {country} needs codecarbon's figures: {INSTALL}")
    from codecarbon.core.emissions import Emissions  # pyright: ignore[reportMissingImports]
    from codecarbon.core.units import Energy as CodecarbonEnergy  # pyright: ignore[reportMissingImports]
    from codecarbon.external.geography import GeoMetadata  # pyright: ignore[reportMissingImports]
    from codecarbon.input import DataSource  # pyright: ignore[reportMissingImports]

    data = DataSource()
    known = data.get_global_energy_mix_data()
    code = country.upper()
    if code not in known:
        error = unknown_name("country", country, known)
        told = str(error).partition("; known")[0]
        raise InputError(f"--energy-country: {told}; give a code of three letters, like DEU")
    place = GeoMetadata(country_iso_code=code)
    kilograms = Emissions(data).get_country_emissions(CodecarbonEnergy.from_energy(kWh=1.0), place)
    name = known[code].get("country_name", code)
    return Intensity(1000 * kilograms, f"{name}, {1000 * kilograms:.0f} g/kWh (codecarbon)")


def _told(value: float | None, unit: str, label: str) -> str:
    return f"{unit} {label}" if value is None else f"{amount(value)} {unit} ({label})"


def amount(value: float) -> str:
    """Three digits, and all of those in front of the point: 0.0123, 4.56, 78901."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
