from __future__ import annotations

import json

import pytest

from cnnengine.bench import accuracy
from cnnengine.engine.data import load
from cnnengine.engine.device import open_device

TINY = {"arch": "lenet", "epochs": 1, "images": 60, "batch_size": 20, "shift": 0}


def test_of_the_cpu__is_kept_for_the_default_settings():
    """It is out of date? python -m cnnengine.bench.accuracy --keep"""
    if not accuracy.KEPT.parent.is_dir():
        pytest.skip("installed without its results")
    found = accuracy.of_the_cpu(accuracy.config_of(accuracy.MINI, open_device("cpu")))
    assert found is not None
    assert 0.85 < found < 0.95


def test_of_the_cpu__is_unknown_for_other_settings(tmp_path):
    device = open_device("cpu")
    config = accuracy.config_of(accuracy.MINI, device)
    file = tmp_path / "accuracy.json"
    assert accuracy.of_the_cpu(config, file) is None
    accuracy.keep({"settings": accuracy.settings_of(config), "accuracy": 0.5}, file)
    assert accuracy.of_the_cpu(config, file) == 0.5
    assert json.loads(file.read_text())["versions"]["numpy"]
    other = accuracy.config_of(accuracy.MINI, device, epochs=14)
    assert accuracy.of_the_cpu(other, file) is None


def test_config_of__the_whole_set_needs_fewer_epochs():
    device = open_device("cpu")
    assert accuracy.config_of(accuracy.MINI, device).epochs == 15
    assert accuracy.config_of(accuracy.WHOLE, device).epochs <= 10


def test_train__leaves_no_folder_and_can_be_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy.tempfile, "tempdir", str(tmp_path))
    device = open_device("cpu")
    config, splits = accuracy.config_of(accuracy.MINI, device, **TINY), load(accuracy.MINI)
    row = accuracy.train(config, splits, device)
    assert row is not None
    assert row["key"] == "accuracy/lenet/fashion-mnist-mini"
    assert 0 <= row["accuracy"] <= 1
    assert row["settings"]["images"] == 60
    assert accuracy.train(config, splits, device, lambda: False) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--keep", "--device", "cuda"), "cuda"),
        (("--data", "nothing"), "unknown data set 'nothing'"),
        (("--epochs", "0"), "--epochs must be at least 1, not 0"),
    ],
)
def test_main__wrong_words_end_in_one_line(capsys, arguments, told):
    assert accuracy.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("accuracy: error: ")
    assert told in err
    assert err.count("\n") == 1


def test_main__keeps_what_the_cpu_reached(tmp_path, monkeypatch, capsys):
    kept = []
    made = {"accuracy": 0.5}
    monkeypatch.setattr(accuracy, "train", lambda config, splits, device: made)
    monkeypatch.setattr(accuracy, "keep", kept.append)
    assert accuracy.main(["--keep"]) == 0
    assert kept == [made]
    assert json.loads(capsys.readouterr().out) == made
