"""Bad input of every kind: exit code 2, one line that names value and rule, nothing touched."""

from __future__ import annotations

import gzip
import os
import shutil

import numpy as np
import pytest

from cnnengine.cli.main import cli, main
from cnnengine.engine import files
from cnnengine.engine.checkpoint import RunFolder
from cnnengine.engine.errors import InputError

from .command import EPOCHS, make_pictures, refused, small, snapshot, succeed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--arch", "vgg-smal"), ("'vgg-smal'", "did you mean vgg-small")),
        (("--data", "fashion-mnist-min"), ("'fashion-mnist-min'", "fashion-mnist-mini")),
        (("--optimizer", "sdg"), ("'sdg'", "sgd")),
        (("--schedule", "cosin"), ("'cosin'", "did you mean cosine")),
        (("--precision", "fp12"), ("'fp12'", "fp16")),
        (("--kernels", "nunpy"), ("'nunpy'", "numpy")),
        (("--device", "gpu"), ("'gpu'", "cuda")),
        (("--device", "cuda:one"), ("cuda:N", "'cuda:one'")),
        (("--option", "widht=0.5"), ("'widht'", "did you mean width")),
        (("--option", "width=half"), ("width", "a number", "'half'")),
        (("--option", "width=-1"), ("width", "above 0", "-1")),
        (("--option", "width=1e30"), ("width", "at most 64", "1e+30")),
        (("--option", "width"), ("NAME=VALUE", "'width'")),
        (("--option", "dropout=1.5"), ("dropout", "[0, 1)", "1.5")),
        (("--epochs", "0"), ("--epochs", "at least 1", "0")),
        (("--epochs", "many"), ("--epochs", "'many'", "integer")),
        (("--lr", "-1"), ("--lr", "positive", "-1")),
        (("--momentum", "1"), ("--momentum", "[0, 1)", "1.0")),
        (("--seed", "-3"), ("--seed", "-3")),
        (("--threads", "-1"), ("--threads", "[0, 1024]", "-1")),
        (("--threads", "1025"), ("--threads", "[0, 1024]", "1025")),
        (("--image-size", "big"), ("--image-size", "'big'")),
        (("--images", "-1"), ("--images", "at least 0", "-1")),
        (("--images", "5001"), ("5001", "has 5000")),
        (("--device", "cpu", "--kernels", "triton"), ("triton", "cpu", "cuda or interpreter")),
        (("--batch-size", "5001"), ("5001", "5000 images")),
        (("--epoch", "3"), ("--epoch", "--epochs")),
        (("--resume", "nowhere"), ("nowhere", "not a run folder")),
        (("--config", "none.toml"), ("none.toml", "does not exist")),
    ],
)
def test_train__wrong_value(tmp_path, arguments, told):
    line = refused("train", *arguments, cwd=tmp_path)
    assert all(part in line for part in told), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("epoch = 3", ("'epoch'", "did you mean epochs")),
        ('epochs = "three"', ("epochs", "whole number", "'three'")),
        ("epochs = true", ("epochs", "whole number", "True")),
        ("lr = 'fast'", ("lr", "a number", "'fast'")),
        ("epochs = ", ("not valid TOML",)),
        ("batch-size = 3\nbatch_size = 4", ("batch_size", "twice")),
        ("[options]\nwidht = 0.5", ("'widht'", "width")),
    ],
)
def test_train__wrong_config_file(tmp_path, content, told):
    (tmp_path / "run.toml").write_text(content)
    line = refused("train", "--config", "run.toml", cwd=tmp_path)
    assert all(part in line for part in told), line


def test_cli__unknown_command(tmp_path):
    line = refused("trian", cwd=tmp_path)
    assert "'trian'" in line
    assert "did you mean train" in line


def test_train__image_smaller_than_network_takes(tmp_path):
    data = make_pictures(tmp_path / "tiny", side=4)
    line = refused(*small(data), "--out", "run", cwd=tmp_path)
    assert "layer pool3 of vgg-small" in line
    assert not (tmp_path / "run").exists()


def test_train__folder_with_a_name_that_is_no_text(tmp_path):
    data = make_pictures(tmp_path / os.fsdecode(b"b\xe4d"))
    line = refused(*small(data), "--out", "run", cwd=tmp_path)
    assert "must be valid text" in line
    assert not (tmp_path / "run").exists()


def test_train__corrupt_image(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "pictures")
    bad = tmp_path / "pictures" / "dark" / "03.png"
    bad.write_bytes(bad.read_bytes()[:40])
    line = refused(*small(tmp_path / "pictures"), "--out", "run", cwd=tmp_path)
    assert "03.png" in line
    assert not (tmp_path / "run").exists()


def test_train__image_sizes_differ(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "pictures")
    make_pictures(tmp_path / "larger", side=9)
    shutil.copy(tmp_path / "larger/dark/00.png", tmp_path / "pictures/dark/00.png")
    line = refused(*small(tmp_path / "pictures"), cwd=tmp_path)
    assert "8x8" in line
    assert "9x9" in line


@pytest.mark.parametrize("packed", [True, False])
def test_data_fetch__corrupt_idx_file(tmp_path, packed):
    source, cache = tmp_path / "files", tmp_path / "cache"
    source.mkdir()
    content = b"\0\0\x08\x01\0\0\0\x03abc"
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                 "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):  # fmt: skip
        path = source / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content)[:-9] if packed else content)
    line = refused(
        "data", "fetch", "mnist", "--from", source, cwd=tmp_path, env={"XDG_CACHE_HOME": str(cache)}
    )
    assert "train-images-idx3-ubyte" in line
    assert ("damaged gzip" if packed else "truncated") in line
    assert not cache.exists()


def test_train__corrupt_label_file_in_cache(tmp_path):
    folder = tmp_path / "cache" / "cnnengine" / "data" / "mnist"
    folder.mkdir(parents=True)
    for name, size in (("train-images-idx3-ubyte", 47_040_016), ("train-labels-idx1-ubyte", 60_008),
                       ("t10k-images-idx3-ubyte", 7_840_016), ("t10k-labels-idx1-ubyte", 10_008),
                       ):  # fmt: skip
        (folder / name).write_bytes(b"\0" * min(size, 100_000))
    line = refused(
        "train", "--data", "mnist", cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path / "cache")}
    )
    assert "train-images-idx3-ubyte" in line
    assert "cnnengine data fetch mnist" in line


def test_train__data_not_fetched(tmp_path):
    line = refused(
        "train", "--data", "mnist", cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path / "cache")}
    )
    assert "cnnengine data fetch mnist" in line


@pytest.mark.parametrize("damage", ["truncated", "header", "empty", "one bit"])
def test_eval__corrupt_safetensors(finished, damage):
    model = finished / "model.safetensors"
    content = model.read_bytes()
    told = {"truncated": content[:-100], "header": b"\xff" * 8 + content[8:], "empty": b"",
            "one bit": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]}  # fmt: skip
    model.write_bytes(told[damage])
    before = snapshot(finished)
    line = refused("eval", "run", cwd=finished.parent)
    assert "model.safetensors" in line
    assert snapshot(finished) == before


def test_resume__corrupt_checkpoint(finished):
    last = finished / "checkpoint" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:500])
    before = snapshot(finished)
    line = refused("train", "--resume", "run", "--epochs", EPOCHS + 1, cwd=finished.parent)
    assert "last.safetensors" in line
    assert snapshot(finished) == before


def test_train__run_folder_exists(finished, pictures):
    before = snapshot(finished)
    line = refused(*small(pictures), "--out", "run", cwd=finished.parent)
    assert "run folder run exists" in line
    assert "--resume" in line
    assert "--overwrite" in line
    assert snapshot(finished) == before


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_train__another_process_trains_there(finished, pictures, how):
    before = snapshot(finished)
    again = ("train", "--resume", "run") if how == "resume" else (
        *small(pictures), "--out", "run", "--overwrite")  # fmt: skip
    with RunFolder(finished).held():
        line = refused(*again, cwd=finished.parent)
    assert "another process is training in run" in line
    assert snapshot(finished) == before


def test_train__overwrite_refuses_folder_with_other_files(finished, pictures):
    (finished / "thesis.tex").write_text("mine")
    before = snapshot(finished)
    line = refused(*small(pictures), "--out", "run", "--overwrite", cwd=finished.parent)
    assert "thesis.tex" in line
    assert snapshot(finished) == before


def test_train__bad_setting_leaves_run_to_be_overwritten(finished, pictures):
    before = snapshot(finished)
    refused(*small(pictures), "--out", "run", "--overwrite", "--lr", 0, cwd=finished.parent)
    assert snapshot(finished) == before


@pytest.mark.parametrize("parent", ["a file", "/proc"])
def test_train__no_permission_to_write(tmp_path, pictures, parent):
    (tmp_path / "a file").write_text("content")
    out = f"{parent}/run"
    line = refused(*small(pictures), "--out", out, cwd=tmp_path)
    assert out in line
    assert (tmp_path / "a file").read_text() == "content"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--arch", "lenet"), ("another arch", "vgg-small", "lenet")),
        (("--data", "fashion-mnist-mini"), ("another data", "pictures", "fashion-mnist-mini")),
        (("--lr", "0.5"), ("another lr", "0.03", "0.5")),
        (("--option", "width=0.2"), ("another options", "0.1", "0.2")),
        (("--seed", "7"), ("another seed", "0", "7")),
        (("--epochs", "2"), ("--epochs 2", "too few", f"epoch {EPOCHS}")),
        (("--out", "elsewhere"), ("--out", "--resume")),
        (("--overwrite",), ("--overwrite", "--resume")),
    ],
)
def test_resume__asked_for_something_else(finished, arguments, told):
    before = snapshot(finished)
    line = refused("train", "--resume", "run", *arguments, cwd=finished.parent)
    assert all(part in line for part in told), line
    assert snapshot(finished) == before


def test_resume__data_changed(tmp_path, pictures):
    data = tmp_path / "pictures"
    shutil.copytree(pictures, data)
    succeed(*small(data, epochs=1), "--out", "run", cwd=tmp_path)
    before = snapshot(tmp_path / "run")
    shutil.copy(data / "dark/00.png", data / "dark/01.png")
    line = refused("train", "--resume", "run", "--epochs", 2, cwd=tmp_path)
    assert "another content of the data" in line
    assert snapshot(tmp_path / "run") == before


def test_resume__not_a_run_folder(tmp_path):
    (tmp_path / "notes").mkdir()
    line = refused("train", "--resume", "notes", cwd=tmp_path)
    assert "notes is not a run folder" in line
    assert list((tmp_path / "notes").iterdir()) == []


def test_train__device_without_gpu(tmp_path):
    line = refused("train", "--device", "cuda", cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})
    assert "--device cuda: " in line
    assert any(part in line for part in ("driver", "CuPy", "no GPU kernels")), line


def test_eval__other_classes_and_sizes(tmp_path, trained):
    run_folder = trained[0]
    line = refused("eval", run_folder, "--data", "fashion-mnist-mini", cwd=tmp_path)
    assert "8x8x1" in line
    assert "28x28x1" in line
    larger = make_pictures(tmp_path / "larger", side=12)
    line = refused("eval", run_folder, "--data", larger, cwd=tmp_path)
    assert "12x12x1" in line
    assert "--image-size 8x8" in line
    others = make_pictures(tmp_path / "others", classes=("dark", "bright"))
    line = refused("eval", run_folder, "--data", others, cwd=tmp_path)
    assert "'dark' and 'bright'" in line or "'light'" in line


def test_eval__a_class_without_images(tmp_path, trained):
    bare = make_pictures(tmp_path / "bare")
    for picture in (bare / "dark").iterdir():
        picture.unlink()
    line = refused("eval", trained[0], "--data", bare, cwd=tmp_path)
    assert line.endswith("dark: the class 'dark' has no images")


def test_eval__nothing_there(tmp_path):
    assert "nothing does not exist" in refused("eval", "nothing", cwd=tmp_path)


def test_predict__bad_pictures(tmp_path, trained):
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in refused("predict", trained[0], "text.png", cwd=tmp_path)
    assert "none.png" in refused("predict", trained[0], "none.png", cwd=tmp_path)


def test_eval_and_predict__weights_that_are_not_numbers(finished, pictures, monkeypatch):
    """In this process, which takes a tenth of the time."""
    monkeypatch.chdir(finished.parent)
    tensors, meta = files.load_tensors(finished / "model.safetensors")
    tensors["conv2_1/w"][0] = np.nan
    files.save_tensors(finished / "model.safetensors", tensors, meta)
    before = snapshot(finished.parent)
    for told in (("eval", "run"), ("predict", "run", str(pictures / "dark/00.png"))):
        with pytest.raises(InputError, match="not finite; .* the parameter conv2_1/w$"):
            cli.main(list(told), standalone_mode=False)
    assert snapshot(finished.parent) == before


def test_predict__more_classes_than_there_are(trained, pictures):
    line = refused(
        "predict", trained[0], pictures / "dark/00.png", "--top", 3, cwd=trained[0].parent
    )
    assert "--top 3" in line
    assert "2 classes" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lenett",), ("'lenett'", "did you mean lenet")),
        (("vgg-small", "--input", "28x28"), ("--input", "'28x28'")),
        (("vgg-small", "--input", "4x4x1"), ("layer pool3",)),
        (("vgg-small", "--graph", "fusion"), ("'fusion'", "did you mean fuse")),
        (("vgg-small", "--option", "depth=3"), ("'depth'", "width")),
        (("--plan",), ("name the network",)),
        (("vgg-small", "--freeze-until", "conv9"), ("--freeze-until conv9: ", "no layer")),
    ],
)
def test_show__wrong_value(tmp_path, arguments, told):
    line = refused("show", *arguments, cwd=tmp_path)
    assert all(part in line for part in told), line


def test_main__what_would_steer_the_terminal_is_spelled_out(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "a\x1b[31m\nb")])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "a\\x1b[31m b" in told
    assert told.removesuffix("\n").isprintable()
