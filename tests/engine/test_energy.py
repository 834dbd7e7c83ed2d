"""Energy: which source is taken, counters that start anew, and what is said of the figures."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from cnnengine.engine import counters, energy
from cnnengine.engine.counters import ProcessorTime, Rapl
from cnnengine.engine.device import open_device
from cnnengine.engine.energy import Intensity, Meter, Part, add_up
from cnnengine.engine.errors import InputError

LARGEST = 262143328850  # microjoules, as Intel's packages have it


@pytest.fixture
def powercap(tmp_path):
    """A machine of two packages, with cores, memory and the platform beside them."""
    for folder, name, value in (
        ("intel-rapl:0", "package-0", 5_000_000),
        ("intel-rapl:0:0", "core", 1_000_000),
        ("intel-rapl:0:1", "dram", 700_000),
        ("intel-rapl:1", "package-1", LARGEST - 1_000_000),
        ("intel-rapl:2", "psys", 9_000_000),
        ("intel-rapl-mmio:0", "package-0", 5_000_000),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_text(f"{name}\n")
        (tmp_path / folder / "max_energy_range_uj").write_text(f"{LARGEST}\n")
        (tmp_path / folder / "energy_uj").write_text(f"{value}\n")
    return tmp_path


def _set(root, **microjoules):
    for domain, value in microjoules.items():
        (root / domain.replace("_", ":").replace("rapl", "intel-rapl") / "energy_uj").write_text(
            str(value)
        )


def test_rapl__adds_packages_and_memory_once(powercap):
    counter = Rapl(powercap)
    _set(powercap, rapl_0=8_000_000, rapl_0_0=4_000_000, rapl_0_1=1_200_000, rapl_2=99_000_000)
    assert counter.joules() == pytest.approx(3.0 + 0.5)
    assert counter.label == "measured"


def test_rapl__counter_starts_anew(powercap):
    counter = Rapl(powercap)
    _set(powercap, rapl_1=2_000_000)
    assert counter.joules() == pytest.approx(3.0)
    _set(powercap, rapl_1=4_000_000)
    assert counter.joules() == pytest.approx(5.0)


def test_rapl__counter_that_goes_away_is_unknown_from_there_on(powercap):
    counter = Rapl(powercap)
    meter = Meter(open_device("cpu"), sources=[counter])
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    told = meter.read()
    assert (told.wh, told.label, told.co2_label) == (None, "unknown", "unknown")
    assert "could not be read any more" in told.sources()
    _set(powercap, rapl_0=8_000_000)
    assert meter.read().wh is None


def test_rapl__not_read_for_too_long_is_unknown(powercap, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(counters, "time", SimpleNamespace(monotonic=lambda: now[0]))
    counter = Rapl(powercap)
    now[0] = 600.0  # at 400 W 240 kJ, below the counters' 262 kJ
    assert counter.joules() is not None
    now[0] += 700.0
    assert counter.joules() is None
    assert "not read for 700 s" in counter.source


def test_meter__takes_rapl_where_it_is_and_else_estimates(powercap, monkeypatch):
    monkeypatch.setattr(counters, "POWERCAP", powercap)
    assert Meter(open_device("cpu")).read().label == "measured"
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    told = Meter(open_device("cpu")).read()
    assert told.label == "estimated"
    assert "4 W a hardware thread" in told.sources()
    assert "root" not in told.sources()


def test_meter__rapl_that_only_root_may_read(monkeypatch):
    def refuse(root=None):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(counters, "Rapl", refuse)
    told = Meter(open_device("cpu")).read()
    assert told.label == "estimated"
    assert "(only root may read RAPL here)" in told.sources()


def test_processor_time__counts_work_and_not_waiting():
    counter = ProcessorTime()
    begun = time.process_time()
    while time.process_time() - begun < 0.05:
        pass
    assert 0.05 * 4 <= counter.joules() < 2


def _counter(*joules, name="GPU", label="measured"):
    told = iter(joules)
    return SimpleNamespace(name=name, label=label, source="a test", joules=lambda: next(told))


def test_add_up__is_as_good_as_its_worst_part():
    parts = [Part("processor", 1.0, "estimated", "a"), Part("GPU", 2.0, "measured", "b")]
    told = add_up(parts, Intensity(500.0, "here"))
    assert (told.wh, told.label) == (3.0, "estimated")
    assert (told.co2_g, told.co2_label) == (1.5, "estimated")
    assert str(told) == "3 Wh (estimated), 1.5 g CO2 (estimated)"
    assert told.sources() == ("processor 1 Wh (estimated): a; GPU 2 Wh (measured): b; CO2: here")
    told = add_up([*parts, Part("GPU", None, "unknown", "no NVML")], Intensity())
    assert str(told) == "Wh unknown, g CO2 unknown"


def test_add_up__carbon_is_never_measured():
    told = add_up([Part("processor", 2.0, "measured", "a")], Intensity())
    assert (told.label, told.co2_label) == ("measured", "estimated")
    assert told.co2_g == pytest.approx(0.95)


def test_meter__earlier_sessions_count():
    meter = Meter(open_device("cpu"), sources=[_counter(0, 3600, 7200)])
    meter.earlier = Part("earlier sessions", 5.0, "estimated", "the checkpoint")
    assert meter.read().wh == pytest.approx(6.0)
    assert meter.read().label == "estimated"


def test_meter__passed_looks_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: now[0]))
    meter = Meter(open_device("cpu"), sources=[_counter(0, 3000, 4000)])
    assert not meter.passed(1.0)
    assert not meter.passed(1.0), "no counter is read a moment later"
    now[0] += 1
    assert meter.passed(1.0)


def test_meter__passed_where_nobody_can_tell_any_more(monkeypatch):
    monkeypatch.setattr(energy, "LOOK_SECONDS", 0.0)
    meter = Meter(open_device("cpu"), sources=[_counter(0, 1, None)])
    assert not meter.passed(1.0)
    assert meter.passed(1.0)


def test_meter__gpu_without_counter_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    device = SimpleNamespace(name="cuda:0", gpu=SimpleNamespace(bus=lambda: "0000:3B:00.0"))
    told = Meter(device).read()
    assert (told.wh, told.label) == (None, "unknown")
    assert told.parts[0].wh is not None, "the processor's part is told all the same"
    assert "pip install" in told.sources()


def test_meter__gpu_with_counter(monkeypatch):
    counted = iter((1000, 1000, 1000, 3_601_000))
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(
        NVMLError=RuntimeError, nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: bus,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counted),
    ))  # fmt: skip
    device = SimpleNamespace(name="cuda:0", gpu=SimpleNamespace(bus=lambda: "0000:3B:00.0"))
    part = Meter(device).read().parts[1]
    assert (part.wh, part.label) == (1.0, "measured")


def test_intensity_of__world_and_country():
    pytest.importorskip("codecarbon", reason="codecarbon is not installed")
    world, france = energy.intensity_of(""), energy.intensity_of("fra")
    assert world.grams == 475.0
    assert 10 < france.grams < 200
    assert "France" in france.source
    with pytest.raises(InputError, match="--energy-country: unknown country 'FRANCE'"):
        energy.intensity_of("FRANCE")


def test_intensity_of__without_codecarbon(monkeypatch):
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs codecarbon.*pip install"):
        energy.intensity_of("FRA")
