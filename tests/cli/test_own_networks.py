"""Networks that are put together on the command line: trained, evaluated, shown, taken up again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cnnengine.cli.main import cli
from cnnengine.engine.errors import InputError
from cnnengine.engine.files import load_tensors

from .command import make_pictures, refused, run, small, succeed

NETWORK = """
def build(b, x, classes, *, width=1.0):
    x = b.relu(b.conv2d(x, round(40 * width), 3, padding="same", name="conv1"))
    return b.dense(b.global_avg_pool2d(x), classes, name="top")
"""
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures, and with runs of a network in a file and of a description."""
    folder = tmp_path_factory.mktemp("own")
    make_pictures(folder / "data")
    (folder / "mine.py").write_text(NETWORK)
    told = small("data", epochs=1)
    succeed(*told, "--arch", "mine.py:build", "--out", "file", cwd=folder)
    without = [a for a in told if a not in ("--option", "width=0.1")]
    succeed(*without, "--arch", "C4:norm P F8", "--out", "line", cwd=folder)
    return folder


def test_train__a_network_in_a_file_is_kept_beside_the_model(place):
    assert (place / "file" / "network.py").read_text() == NETWORK
    assert not (place / "line" / "network.py").exists()


def test_eval_and_predict__build_what_was_described(place):
    told = succeed("eval", "line", cwd=place)
    assert "test accuracy" in told.out
    assert "dark" in succeed("predict", "line", "data/dark/00.png", cwd=place).out


def test_eval__runs_the_copy_and_says_so(place):
    told = succeed("eval", "file", cwd=place)
    assert "runs the code of the network, file/network.py:build" in told.err


def test_eval__refuses_a_copy_that_was_changed(place):
    copy = place / "file" / "network.py"
    copy.write_text(NETWORK + "# changed\n")
    try:
        result = run("eval", "file", cwd=place)
        assert result.code == 2
        assert "has changed since the network was trained" in result.err
    finally:
        copy.write_text(NETWORK)


def _here(*arguments):
    """In this process, which takes a tenth of the time."""
    cli.main([str(a) for a in arguments], standalone_mode=False)


def test_import_and_export__take_the_copy_and_name_it_by_its_whole_path(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    shutil.copytree("file", tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # where `mine.py`, which the run was made of, is no more
    _here("export", "run", "--out", "there")
    assert "runs the code of the network, run/network.py:build" in capsys.readouterr().err
    _here("import", "run", "--out", "back")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    for file in ("there", "back"):
        _here("import", f"../{file}", "--json", "--out", file)
        assert json.loads(capsys.readouterr().out)["arch"] == f"{tmp_path}/run/network.py:build"
    (tmp_path / "run").rename(tmp_path / "moved")
    _here("import", "there", "--arch", "../moved/network.py:build", "--json", "--out", "new")
    told = json.loads(capsys.readouterr().out)
    assert (told["arch"], told["classes"]) == (
        f"{tmp_path}/moved/network.py:build",
        ["dark", "light"],
    )


@pytest.mark.parametrize("run", ["file", "line"])
def test_import__a_checkpoint_becomes_the_model_that_it_was(run, place, tmp_path, capsys):
    told = ("--json", "--out", tmp_path / "model")
    _here("import", place / run / "checkpoint/best.safetensors", *told)  # of the only epoch
    said = json.loads(capsys.readouterr().out)
    assert said["notes"] == ["left out 1 optimizer/*, which only training uses"]
    made, model = (load_tensors(path)[0] for path in (tmp_path / "model", place / run / MODEL))
    assert made.keys() == model.keys()
    assert all(np.array_equal(made[name], model[name]) for name in model)
    assert said["classes"] == ["dark", "light"]


def test_import__refuses_a_copy_that_was_changed_and_does_not_run_it(place, tmp_path, capsys):
    shutil.copytree(place / "file", tmp_path / "run")
    (tmp_path / "run/network.py").write_text(NETWORK + "print('it ran')\n")
    with pytest.raises(InputError, match="has changed since the network was trained"):
        _here("import", tmp_path / "run", "--out", tmp_path / "out")
    assert "it ran" not in capsys.readouterr().out


def test_resume__refuses_another_code(place):
    mine = place / "mine.py"
    mine.write_text(NETWORK.replace("40", "50"))
    try:
        told = refused("train", "--resume", "file", "--epochs", 2, cwd=place)
        assert "with another code of the network" in told
    finally:
        mine.write_text(NETWORK)


def test_show__says_how_a_function_in_a_file_is_named(place):
    told = refused("show", "mine.py", cwd=place)
    assert "name the function in the file too, like mine.py:build" in told


def test_show__prints_layers_of_both(place):
    assert "conv1_norm" in succeed("show", "C4:norm P F8", cwd=place).out
    assert "top" in succeed("show", "mine.py:build", "--option", "width=0.5", cwd=place).out
