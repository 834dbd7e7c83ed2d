"""Energy of training runs: forecast, limit, and counting on after a resume."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cnnengine.engine import energy
from cnnengine.engine.counters import ProcessorTime
from cnnengine.engine.energy import Intensity, Meter
from cnnengine.engine.errors import InputError
from cnnengine.engine.forecast import plan_loads
from cnnengine.engine.train import EpochReport

from .toy import toy_trainer

STEPS, EPOCH = 15, 5  # of a toy run


@pytest.fixture
def watt_hour_a_step(tmp_path, monkeypatch):
    """A trainer in the folder of that name whose every step uses one watt-hour."""
    monkeypatch.setattr(energy, "LOOK_SECONDS", 0.0)

    def made(name, *, resumed=False, **changes):
        trainer = toy_trainer(tmp_path / name, **changes)
        first = [0]
        trainer.account.meter = Meter(trainer.device, Intensity(500.0, "a test"), [SimpleNamespace(
            name="processor", label="estimated", source="a test",
            joules=lambda: 3600.0 * (trainer.progress.step - first[0]),
        )])  # fmt: skip
        if resumed:
            trainer.resume()
            first[0] = trainer.progress.step
        return trainer

    return made


def test_trainer__stops_above_its_limit_and_goes_on_to_the_same_bits(watt_hour_a_step, tmp_path):
    whole = watt_hour_a_step("whole").run()
    assert whole.energy.wh == STEPS
    assert whole.energy.co2_g == pytest.approx(7.5)
    first = watt_hour_a_step("parts", stop_above_wh=7.0)
    summary = first.run()
    assert (summary.finished, summary.steps, first.over_limit) == (False, 8, True)
    with pytest.raises(InputError, match=r"--stop-above-wh 7: the run has used 8 Wh already"):
        watt_hour_a_step("parts", resumed=True, stop_above_wh=7.0)
    second = watt_hour_a_step("parts", resumed=True, stop_above_wh=15.0, energy_country="")
    summary = second.run()
    assert (summary.finished, second.over_limit) == (True, False)
    assert summary.energy.wh == STEPS
    assert [part.name for part in summary.energy.parts] == ["earlier sessions", "processor"]
    name = "model.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_trainer__forecast_after_each_epoch(watt_hour_a_step):
    told = []
    watt_hour_a_step("run").run(lambda report: told.append(report))
    epochs = [(r.energy_wh, r.forecast_wh) for r in told if isinstance(r, EpochReport)]
    assert epochs == [(EPOCH, STEPS), (2 * EPOCH, STEPS), (STEPS, STEPS)]


def test_trainer__forecast_counts_the_layers_that_are_trained_later(watt_hour_a_step):
    """The first epoch trains the last layer, both others all: each costs as many times more."""
    trainer = watt_hour_a_step("run", freeze_until="dense1", unfreeze_at="2:conv1_1")
    told, loads = [], plan_loads(
        trainer.description, trainer.config, trainer.splits, trainer.stages
    )  # fmt: skip
    trainer.run(told.append)
    first, *others = [r.forecast_wh for r in told if isinstance(r, EpochReport)]
    assert first == pytest.approx(EPOCH + 2 * EPOCH * loads[1].each / loads[0].each)
    assert first > 2 * STEPS
    assert others == [STEPS, STEPS]


def test_trainer__limit_where_energy_is_unknown(tmp_path, monkeypatch):
    unknown = SimpleNamespace(name="GPU", label="unknown", source="no NVML", joules=lambda: None)
    monkeypatch.setattr(energy, "sources_of", lambda device: [unknown])
    with pytest.raises(InputError, match=r"--stop-above-wh 2: energy is unknown.*no NVML"):
        toy_trainer(tmp_path / "a", stop_above_wh=2.0)
    trainer = toy_trainer(tmp_path / "b", epochs=1)
    assert str(trainer.run().energy) == "Wh unknown, g CO2 unknown"


def test_meter__earlier_energy_that_nobody_knows():
    meter = Meter(SimpleNamespace(name="cpu"), sources=[ProcessorTime()])
    with pytest.raises(InputError, match="what this run used before is unknown"):
        meter.go_on(None, "unknown", 1.0)
    meter.go_on(None, "unknown", 0.0)
    assert meter.read().wh is None
