"""`import` and `export` as they are typed: what they write, what they say, what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cnnengine.cli.main import cli
from cnnengine.engine.checkpoint import save_model
from cnnengine.engine.errors import InputError
from cnnengine.engine.model_meta import Source

from ..engine.weight_samples import drawn, small
from .command import make_pictures, refused, snapshot, succeed

SHAPES = {  # lenet as torch writes it, two classes
    "conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "dense1": (120, 400), "dense2": (84, 120),
    "dense3": (2, 84),
}  # fmt: skip
TOLD = ("--arch", "lenet", "--mean", "0.5", "--std", "0.25")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with weights, names of classes, pictures, and the model file made of them."""
    folder = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(0)
    arrays = {f"{n}.weight": rng.normal(0, 0.1, s).astype("f4") for n, s in SHAPES.items()}
    arrays |= {f"{n}.bias": rng.normal(0, 0.1, s[0]).astype("f4") for n, s in SHAPES.items()}
    np.savez(folder / "theirs.npz", **arrays)
    (folder / "classes.txt").write_text("dark\n\nlight\n")
    make_pictures(folder / "data", side=28)
    succeed(
        "import", "theirs.npz", *TOLD, "--classes", "classes.txt", "--out", "model.safetensors",
        cwd=folder,
    )  # fmt: skip
    return folder


def test_import__makes_a_model_that_eval_and_predict_take(place):
    told = json.loads(
        succeed("eval", "model.safetensors", "--data", "data", "--json", cwd=place).out
    )
    assert [row["name"] for row in told["classes"]] == ["dark", "light"]
    said = succeed("predict", "model.safetensors", "data/dark/00.png", cwd=place).out
    assert "dark" in said
    assert "light" in said


def test_import__says_what_it_made(place, tmp_path):
    out = tmp_path / "m.safetensors"
    said = succeed("import", "theirs.npz", *TOLD, "--json", "--out", out, cwd=place)
    told = json.loads(said.out)
    assert told["classes"] == ["0", "1"]
    assert (told["names"], told["numbers"], told["arch"]) == ("torchvision", 61_026, "lenet")
    assert (told["mean"], told["std"], told["input_shape"]) == ([0.5], [0.25], [28, 28, 1])


@pytest.mark.parametrize("names", ["own", "torchvision"])
def test_export__comes_back_to_the_bit(names, place, tmp_path):
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    succeed("export", "model.safetensors", "--names", names, "--out", there, cwd=place)
    succeed("import", there, "--out", back, cwd=place)
    assert back.read_bytes() == (place / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("theirs.npz", *TOLD, "--out", "model.safetensors"), ("exists", "--overwrite")),
        (("theirs.npz", *TOLD, "--out", "data"), ("data is a folder",)),
        (("theirs.npz", *TOLD, "--out", "none/m"), ("there is no folder none",)),
        (("theirs.npz", "--out", "m"), ("does not tell its network", "--arch")),
        (("theirs.npz", "--arch", "lenet", "--out", "m"), ("--mean and --std",)),
        (("theirs.npz", "--arch", "lenett", "--out", "m"), ("'lenett'", "did you mean lenet")),
        (("theirs.npz", *TOLD, "--mean", "127", "--out", "m"), ("--mean", "/ 255", "127")),
        (("theirs.npz", *TOLD, "--std", "0", "--out", "m"), ("--std", "above 0")),
        (("theirs.npz", *TOLD, "--std", "a,b", "--out", "m"), ("--std", "'a,b'")),
        (("theirs.npz", *TOLD, "--classes", "3", "--out", "m"), ("3 classes", "has 2")),
        (("theirs.npz", *TOLD, "--classes", "none.txt", "--out", "m"), ("'none.txt'", "No such")),
        (("classes.txt", *TOLD, "--out", "m"), ("classes.txt is no file of weights",)),
        (("model.safetensors", "--image-size", "20", "--out", "m"), ("dense1/w is (120, 400)",)),
    ],
)  # fmt: skip
def test_import__refuses_and_writes_nothing(arguments, told, place, monkeypatch):
    """In this process, which takes a tenth of the time."""
    monkeypatch.chdir(place)
    before = snapshot(place)
    with pytest.raises(InputError) as error:
        cli.main(["import", *arguments], standalone_mode=False)
    assert all(part in str(error.value) for part in told), error.value
    assert snapshot(place) == before


def test_import_and_export__refuse_in_one_line(place):
    before = snapshot(place)
    line = refused("import", "theirs.npz", *TOLD, "--arch", "vgg-small", "--out", "m", cwd=place)
    assert "theirs.npz does not fit vgg-small: it holds the weights of lenet" in line
    assert "no readable safetensors" in refused("export", "theirs.npz", "--out", "m", cwd=place)
    line = refused("export", "model.safetensors", "--out", "model.safetensors", cwd=place)
    assert "model.safetensors exists" in line
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("form", "name", "other"),
    [("safetensors", "m.onnx", "onnx"), ("onnx", "m.safetensors", "safetensors")],
)
def test_export__a_name_of_the_other_format_is_refused(form, name, other, place, monkeypatch):
    monkeypatch.chdir(place)
    before = snapshot(place)
    with pytest.raises(InputError, match=f"--out {name} would hold {form}; give --to {other}"):
        cli.main(["export", "model.safetensors", "--to", form, "--out", name],
                 standalone_mode=False)  # fmt: skip
    assert snapshot(place) == before


def test_export__says_that_an_onnx_file_keeps_half_the_digits(tmp_path, capsys):
    description = small("lenet", precision="fp64")
    arrays = {name: array.astype(np.float64) for name, array in drawn(description).items()}
    save_model(tmp_path / "m", description, arrays, Source(""))
    for form, told in (("onnx", "warning: float64 becomes float32"), ("safetensors", "")):
        cli.main(["export", str(tmp_path / "m"), "--to", form, "--out", str(tmp_path / form)],
                 standalone_mode=False)  # fmt: skip
        err = capsys.readouterr().err
        assert told in err if told else not err
