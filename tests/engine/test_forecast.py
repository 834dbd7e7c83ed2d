"""What is left of a run, from what its first steps took."""

import pytest

from cnnengine.engine.forecast import Forecast, Left, Load, Spent, plan_loads

from .toy import toy_splits, toy_trainer

STEPS = 5  # an epoch


def test_forecast__one_stage_goes_on_as_it_began():
    forecast = Forecast([Load(3, 100.0, 0.0)], STEPS)
    forecast.enter(0, 0.0, Spent(2, 10.0, 1.0))
    assert forecast.left(Spent(2, 11.0, 1.0)) is None
    assert forecast.left(Spent(6, 18.0, 3.0)) == Left(9 * 2.0, 9 * 0.5)
    assert forecast.left(Spent(6, 18.0, None)) == Left(9 * 2.0, None)


def test_forecast__later_stages_take_as_long_as_their_operations():
    """Ten seconds for 100 operations: 950 more take 95 s, at the power of these ten."""
    forecast = Forecast([Load(2, 100.0, 0.0), Load(3, 300.0, 50.0)], STEPS)
    forecast.enter(0, 0.0, Spent(0, 0.0, 0.0))
    assert forecast.left(Spent(STEPS, 10.0, 20.0)) == Left(10.0 + 95.0, 20.0 + 190.0)
    forecast.enter(1, 30.0, Spent(2 * STEPS, 60.0, 50.0))
    assert forecast.left(Spent(3 * STEPS, 70.0, 60.0)) == Left(20.0, 20.0)


def test_forecast__behind_a_cut_the_frozen_layers_tell_how_fast_operations_are():
    """1000 operations of the front took 20 s; steps behind it, of few operations, tell nothing."""
    forecast = Forecast([Load(1, 10.0, 1000.0), Load(2, 600.0, 0.0)], STEPS)
    forecast.enter(0, 20.0, Spent(0, 20.0, 8.0))
    left = forecast.left(Spent(STEPS, 22.0, 9.0))
    assert (left.seconds, left.wh) == pytest.approx((24.0, 12.0))


@pytest.mark.parametrize("shift", [0, 1])
def test_plan_loads__counts_what_the_networks_of_the_stages_run(tmp_path, shift):
    trainer = toy_trainer(
        tmp_path / "run", toy_splits(64), shift=shift, flip=False, freeze_until="conv2_2",
        unfreeze_at="3:conv1_1", cache_dir=str(tmp_path),
    )  # fmt: skip
    first, last = plan_loads(trainer.description, trainer.config, trainer.splits, trainer.stages)
    network = trainer.network
    own = network.training[16].graph.flops() * 4 + network.inference.graph.flops() * 20 / 16
    assert first.each == pytest.approx(own, rel=0.02)
    assert first.once == (0 if shift else 84 * network.front_graph(1).flops())
    assert (first.epochs, last.epochs, last.once) == (2, 1, 0.0)
    assert last.each > 1.5 * first.each
