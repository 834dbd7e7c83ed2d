"""Settings from several sources, their names, types and rules."""

from dataclasses import asdict
from pathlib import Path

import pytest

from cnnengine.engine.config import (
    TrainConfig,
    check_settings,
    default_lr,
    default_run_folder,
    parse_channels,
    parse_image_size,
    parse_unfreeze,
    resolve_config,
)
from cnnengine.engine.errors import InputError


def test_resolve_config__later_sources_beat_earlier_ones():
    config = resolve_config(
        {"epochs": 3, "seed": 5, "options": {"width": 0.5, "dropout": 0.1}},
        {"epochs": 4, "options": {"width": 2.0}},
    )
    assert (config.epochs, config.seed) == (4, 5)
    assert config.options == {"width": 2.0, "dropout": 0.1}
    assert resolve_config() == TrainConfig()


@pytest.mark.parametrize(
    ("told", "lr"),
    [
        ({}, TrainConfig.lr),
        ({"optimizer": "adamw"}, default_lr("adamw")),
        ({"optimizer": "adamw", "lr": 0.5}, 0.5),
    ],
)
def test_resolve_config__learning_rate_follows_the_optimizer(told, lr):
    assert resolve_config(told).lr == lr
    assert default_lr("adamw") != TrainConfig.lr


def test_resolve_config__learning_rate_is_lower_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "mnist"):
        (tmp_path / name).mkdir()
    told = {
        data: resolve_config({"data": data, **more}).lr
        for data, more in (
            ("photos", {}), ("./mnist", {"optimizer": "adamw"}), ("mnist", {}), ("cifar10", {}),
        )
    }  # fmt: skip
    assert told == {"photos": 0.01, "./mnist": 0.001, "mnist": 0.04, "cifar10": 0.04}


@pytest.mark.parametrize(
    ("told", "flip"),
    [({}, True), ({"data": "cifar10"}, True), ({"data": "mnist"}, False),
     ({"data": "mnist", "flip": True}, True)],
)  # fmt: skip
def test_resolve_config__digits_are_not_mirrored_unless_told(told, flip):
    config = resolve_config(told)
    assert config.flip is flip
    assert resolve_config(check_settings(asdict(config), "config.toml")) == config


def test_resolve_config__survives_being_saved():
    config = resolve_config({"optimizer": "adamw", "image_size": "28", "options": {"width": 1}})
    assert resolve_config(check_settings(asdict(config), "config.toml")) == config


def test_check_settings__names_with_dashes_and_whole_numbers_for_others():
    assert check_settings({"batch-size": 8, "lr": 1, "image-size": 28}, "a file") == {
        "batch_size": 8, "lr": 1.0, "image_size": "28",
    }  # fmt: skip


@pytest.mark.parametrize("told", [{"seed": 1.5}, {"flip": 1}, {"arch": 3.5}, {"options": "width"}])
def test_check_settings__wrong_type(told):
    (name,) = told
    with pytest.raises(InputError, match=f"^a file: {name} must be "):
        check_settings(told, "a file")


@pytest.mark.parametrize(
    ("text", "size"), [("", None), ("28", (28, 28)), ("24x32", (24, 32)), ("24X32", (24, 32))]
)
def test_parse_image_size__one_or_two_numbers(text, size):
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["x", "0", "28x", "-3", "3x4x5", "28.5", "²"])
def test_parse_image_size__anything_else(text):
    with pytest.raises(InputError, match="--image-size must be"):
        parse_image_size(text)


def test_default_run_folder__first_free_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_run_folder(TrainConfig(data="/a/pictures")) == Path("runs/vgg-small-pictures-1")
    (tmp_path / "runs/vgg-small-pictures-1").mkdir(parents=True)
    assert default_run_folder(TrainConfig(data="pictures")) == Path("runs/vgg-small-pictures-2")


@pytest.mark.parametrize(
    ("arch", "stem"), [("C4:norm P F8", "C4-norm-P-F8"), ("/a b/mine.py:build", "mine-build")]
)
def test_default_run_folder__of_a_network_of_the_user_s_is_a_plain_name(arch, stem):
    assert default_run_folder(TrainConfig(arch=arch, data="toy")).name == f"{stem}-toy-1"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"unfreeze_at": "2:conv1"}, "--unfreeze-at 2:conv1 needs --freeze-until"),
        ({"freeze_until": "a", "unfreeze_at": "conv1"}, "EPOCH:LAYER, like 5:fire8, not 'conv1'"),
        ({"freeze_until": "a", "unfreeze_at": "1:b"}, "1:b: the epoch must be in 2 … 15"),
        ({"freeze_until": "a", "unfreeze_at": "16:b"}, "16:b: the epoch must be in 2 … 15"),
        ({"freeze_until": "a", "unfreeze_at": "5:b 5:c"}, "5:c: the epoch must be in 6 … 15"),
        ({"lower_lr": 1.5}, "--lower-lr must be above 0 and at most 1, not 1.5"),
        ({"lower_lr": 0.0}, "--lower-lr must be above 0"),
        ({"cache_gb": -1.0}, "--cache-gb must be 0 or a positive number, not -1.0"),
        ({"mean": "half"}, "--mean must be numbers, one a channel, not 'half'"),
        ({"mean": "nan"}, "--mean must be numbers"),
        ({"std": "0.5,0"}, "--std must be numbers above 0, one a channel, not '0.5,0'"),
    ],
)
def test_check__of_frozen_layers_and_normalisation(settings, told):
    with pytest.raises(InputError, match=told):
        TrainConfig(**settings).check()


def test_parse_unfreeze__pairs_in_order():
    assert parse_unfreeze("3:fire8 5:fire6/squeeze") == [(3, "fire8"), (5, "fire6/squeeze")]
    assert parse_unfreeze("") == []


@pytest.mark.parametrize("text", ["0.5,0.25", "0.5 0.25", " 0.5, 0.25"])
def test_parse_channels__commas_or_spaces(text):
    assert parse_channels(text, "--mean") == (0.5, 0.25)
