"""`cnnengine features`: the page it writes, and the one line that each wrong input gets."""

from __future__ import annotations

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cnnengine.cli.main import main
from cnnengine.engine import files
from cnnengine.engine.errors import InputError
from cnnengine.engine.inspect.pictures import photo
from cnnengine.engine.inspect.view import class_number


@pytest.fixture
def features(monkeypatch, capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["features", *map(str, arguments)])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture
def picture(pictures):
    """One picture of the data that the network was trained on."""
    return pictures / "light" / "03.png"


def test_features__writes_the_same_page_again(trained, picture, tmp_path, features):
    out = tmp_path / "page.html"
    code, printed, err = features(trained[0], picture, "--out", out, "--json", "--images", 10)
    assert code == 0, err
    told = json.loads(printed)
    assert told["layers"] == ["conv1_1", "conv2_2", "conv3_2"]
    assert told["data_images"] == 10
    assert told["looked_for"] == told["top"][0]["class"]
    assert sum(answer["probability"] for answer in told["top"]) == pytest.approx(1)
    first = out.read_bytes()
    assert len(first) == told["bytes"]
    assert first.count(b'<ul class="patches') == 3 + 6 + 8  # channels: width 0.1 of 32, 64, 128
    code, _, err = features(trained[0], picture, "--out", out, "--overwrite", "--images", 10)
    assert code == 0, err
    assert out.read_bytes() == first


def test_features__chosen_layers_class_and_data(trained, picture, tmp_path, features):
    other = tmp_path / "other" / "thing"
    other.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (20, 30), (40 * number, 0, 0)).save(other / f"{number}.png")
    shutil.copytree(other, tmp_path / "other" / "more")
    out = tmp_path / "page.html"
    code, printed, err = features(
        trained[0] / "model.safetensors", picture, "--out", out, "--layers", "conv1_2, pool1",
        "--class", "dark", "--data", tmp_path / "other", "--channels", 2, "--json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(printed)
    assert (told["layers"], told["looked_for"]) == (["conv1_2", "pool1"], "dark")
    assert told["data_images"] == 8
    assert out.read_text().count('<ul class="patches') == 4


def test_features__without_the_data_it_says_so(trained, picture, tmp_path, features):
    model, out = tmp_path / "model.safetensors", tmp_path / "page.html"
    tensors, meta = files.load_tensors(trained[0] / "model.safetensors")
    meta["data"]["name"] = "elsewhere"
    files.save_tensors(model, tensors, meta)
    code, _, err = features(model, picture, "--out", out, "--invert")
    assert code == 0
    assert photo(255 - np.asarray(Image.open(picture))[..., None]) in out.read_text()
    assert "no patches: " in err
    assert "'elsewhere', which is not here; give --data" in err
    assert "No data set was at hand" in out.read_text()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--layers", "conv11"), ("unknown layer 'conv11'", "did you mean conv1_1")),
        (("--layers", "conv1_1,dense1"), ("dense1 has no pictures", "conv1_1, conv1_2")),
        (("--layers", "conv1_1,conv1_1"), ("names conv1_1 twice",)),
        (("--class", "drak"), ("unknown class 'drak'", "did you mean dark")),
        (("--data", "nowhere"), ("unknown data set 'nowhere'",)),
        (("--out", ".", "--overwrite"), (". is a folder; name a file",)),
        (("--channels", "0"), ("--channels", "0", "1<=x<=64")),
        (("--out", "none/page.html"), ("none/page.html: there is no folder none",)),
    ],
)
def test_features__wrong_options(more, told, trained, picture, tmp_path, features):
    out = tmp_path / "page.html"
    code, printed, err = features(trained[0], picture, "--out", out, *more)
    assert (code, printed) == (2, "")
    assert len(err.splitlines()) == 1
    assert all(part in err for part in told), err
    assert not out.exists()


def test_features__wrong_pictures(trained, pictures, tmp_path, features):
    text, out = tmp_path / "text.png", tmp_path / "page.html"
    text.write_text("no picture")
    for image, told in {
        text: f"{text}: not a readable picture",
        tmp_path / "none.png": "none.png: no such file",
        pictures / "dark": "is a folder; name one picture in it",
    }.items():
        code, _, err = features(trained[0], image, "--out", out)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert told in err
    assert not out.exists()


def test_features__a_page_that_exists_stays(trained, picture, tmp_path, features):
    out = tmp_path / "page.html"
    out.write_text("mine")
    code, _, err = features(trained[0], picture, "--out", out)
    assert code == 2
    assert "page.html exists; give --overwrite" in err
    assert out.read_text() == "mine"


def test_features__weights_that_are_not_numbers(trained, picture, tmp_path, features):
    model, out = tmp_path / "model.safetensors", tmp_path / "page.html"
    _, meta = files.load_tensors(trained[0] / "model.safetensors")
    tensors = load_file(trained[0] / "model.safetensors")
    tensors["conv2_1/w"][0] = np.nan
    files.save_tensors(model, tensors, meta)
    code, _, err = features(model, picture, "--out", out)
    assert code == 2
    assert "not finite; the first that is not: the parameter conv2_1/w" in err.splitlines()[-1]
    assert not out.exists()


def test_features__a_page_that_would_be_too_large(
    trained, picture, tmp_path, features, monkeypatch
):
    monkeypatch.setattr("cnnengine.cli.features.LARGEST", 20_000)
    code, _, err = features(trained[0], picture, "--out", tmp_path / "page.html")
    assert code == 2
    assert "--channels 8: the page would have" in err
    assert not (tmp_path / "page.html").exists()


def test_class_number__of_a_thousand_classes_some_are_named():
    network = SimpleNamespace(
        description=SimpleNamespace(classes=tuple(f"thing {i:04}" for i in range(1000)))
    )
    with pytest.raises(InputError) as told:
        class_number(network, "thimg 0041")
    assert "did you mean thing 0041" in str(told.value)
    assert "… (1000 in all)" in str(told.value)
    assert len(str(told.value)) < 1000
