"""ONNX on the command line: out of a run, into a folder, trained from, and refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from .command import refused, run, succeed


@pytest.fixture(scope="module")
def place(trained, pictures, tmp_path_factory):
    """A folder with the run exported (run.onnx) and that file imported again (imported)."""
    folder = tmp_path_factory.mktemp("onnx")
    told = succeed("export", trained[0], "--to", "onnx", "--out", "run.onnx", "--json", cwd=folder)
    assert json.loads(told.out)["format"] == "onnx"
    succeed("import", "run.onnx", "--out", "imported", cwd=folder)
    return folder


def _metadata(path):
    return {e.key: json.loads(e.value) for e in onnx.load(path).metadata_props}


def test_export__onnxruntime_names_the_same_class(place, trained, pictures):
    picture = pictures / "light" / "03.png"
    told = json.loads(succeed("predict", trained[0], picture, "--json", cwd=place).out)
    likeliest = told["predictions"][0]["top"][0]
    meta = _metadata(place / "run.onnx")
    with Image.open(picture) as opened:
        image = np.asarray(opened.convert("L"), np.float32)[None, None] / 255
    mean, std = (np.array(meta[n], np.float32)[:, None, None] for n in ("mean", "std"))
    session = onnxruntime.InferenceSession(place / "run.onnx")
    (logits,) = session.run(None, {"x": (image - mean) / std})
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert likeliest["class"] == meta["classes"][shares.argmax()]
    assert likeliest["probability"] == pytest.approx(shares.max(), rel=1e-4)


def test_import__measures_what_the_run_measured(place, trained, pictures):
    assert sorted(p.name for p in (place / "imported").iterdir()) == [
        "model.safetensors", "network.onnx"
    ]  # fmt: skip
    told = [
        json.loads(succeed("eval", run, "--data", pictures, "--json", cwd=place).out)
        for run in (trained[0], "imported")
    ]
    assert told[0]["classes"] == told[1]["classes"]
    assert told[1]["loss"] == pytest.approx(told[0]["loss"], rel=1e-6)


def test_train__goes_on_from_the_files_weights(place, pictures, tmp_path):
    told = succeed(
        "train", "--arch", "run.onnx", "--data", pictures, "--epochs", 1, "--batch-size", 8, "--lr",
        1e-6, "--out", tmp_path / "more", "--json", cwd=place,
    )  # fmt: skip
    start = json.loads(succeed("eval", "imported", "--data", pictures, "--json", cwd=place).out)
    assert json.loads(told.out)["test_loss"] == pytest.approx(start["loss"], rel=0.05)
    copy = tmp_path / "more" / "network.onnx"
    assert copy.read_bytes() == (place / "run.onnx").read_bytes()
    again = succeed("eval", "more", "--json", cwd=tmp_path)
    assert json.loads(again.out)["loss"] == pytest.approx(json.loads(told.out)["test_loss"])
    assert "runs the code" not in again.err
    changed = onnx.load(copy)
    changed.doc_string = "changed"
    onnx.save(changed, copy)
    result = run("eval", "more", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "network.onnx has changed since the network was trained" in result.err


def test_show__prints_the_layers_of_a_file(place):
    told = succeed("show", "run.onnx", "--batch", 2, cwd=place).out
    assert "run.onnx on 2 x 8x8x1, float32" in told
    assert "conv2d_relu_pool" in succeed("show", "run.onnx", "--graph", "fuse", cwd=place).out


def test_bench__times_a_file(place):
    told = succeed(
        "bench", "network", "--onnx", "run.onnx", "--batch", 2, "--against", "none", "--mode",
        "infer", "--repeats", 2, "--json", cwd=place,
    )  # fmt: skip
    (row,) = json.loads(told.out)["rows"]
    assert (row["arch"], row["failed"]) == ("run.onnx", [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("import", "run.onnx", "--out", "imported"), "imported exists; give --overwrite"),
        (("import", "run.onnx", "--out", "run.onnx"), "is a file; an ONNX file becomes a folder"),
        (("import", "run.onnx", "--out", "."), "holds bare.onnx; name an empty or a new folder"),
        (("import", "run.onnx", "--arch", "lenet", "--out", "a"), "a network of its own"),
        (("import", "run.onnx", "--classes", 3, "--out", "a"), "3 classes, run.onnx has 2"),
        (("import", "bare.onnx", "--out", "a"), "give --mean and --std"),
        (("train", "--arch", "none.onnx"), "none.onnx: No such file"),
        (("train", "--arch", "run.onnx"), "takes images of 8x8x1, not 28x28x1|2 classes"),
        (("show", "run.onnx", "--input", "9x8x1"), "takes images of 8x8x1, not 9x8x1"),
        (("export", "imported", "--to", "onnx", "--names", "own", "--out", "b"), "--names is for"),
    ],
)
def test_onnx__what_is_refused(place, arguments, told, tmp_path):
    bare = onnx.load(place / "run.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, place / "bare.onnx")
    line = refused(*arguments, cwd=place)
    assert any(part in line for part in told.split("|"))
    assert not (place / "a").exists()
