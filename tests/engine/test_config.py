"""Settings from several sources, their names, types and rules."""

from dataclasses import asdict
from pathlib import Path

import pytest

from cnnengine.engine.config import (
    TrainConfig,
    check_settings,
    default_lr,
    default_run_folder,
    parse_image_size,
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
