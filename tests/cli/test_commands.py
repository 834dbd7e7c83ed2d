"""Every command doing what it is for."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cnnengine.cli import output
from cnnengine.cli.doctor import examine
from cnnengine.cli.eval import command as eval_command
from cnnengine.cli.main import COMMANDS
from cnnengine.cli.main import cli as group
from cnnengine.cli.predict import command as predict_command
from cnnengine.cli.summary import best_line
from cnnengine.engine import counters, data, hardware
from cnnengine.engine.checkpoint import RunFolder, save_model
from cnnengine.engine.config import TrainConfig
from cnnengine.engine.model_meta import Source
from cnnengine.engine.network import Description

from .command import COMMAND, EPOCHS, refused, run, small, snapshot, start, succeed


def test_help__loads_no_numpy(tmp_path):
    """Help is instant only while no large package is imported for it."""
    for arguments in (("--help",), ("-h",), ("train", "-h"), ("show", "-h"), ()):
        result = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "cnnengine.cli", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "Usage: cnnengine" in result.stdout
        loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
        assert "click" in loaded
        for package in ("numpy", "matplotlib", "rich", "PIL", "safetensors"):
            assert package not in loaded, (arguments, package)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help__every_command_has_it(tmp_path, name):
    assert "-h, --help" in succeed(name, "-h", cwd=tmp_path).out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_commands__are_what_the_list_says(name):
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.name == name


def test_version(tmp_path):
    assert succeed("--version", cwd=tmp_path).out.startswith("cnnengine ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion__prints_the_shell_s_lines(tmp_path, shell):
    assert "_CNNENGINE_COMPLETE" in succeed("completion", shell, cwd=tmp_path).out


def test_completion__knows_names_of_networks(tmp_path):
    told = succeed(
        cwd=tmp_path,
        env={"_CNNENGINE_COMPLETE": "bash_complete", "COMP_CWORD": "3",
             "COMP_WORDS": "cnnengine train --arch vgg-s"},
    )  # fmt: skip
    assert "vgg-small" in told.out


def test_train__writes_the_whole_run_folder(trained):
    folder, said = trained
    assert set(snapshot(folder)) == {
        "config.toml", "metrics.jsonl", "model.safetensors", "checkpoint/last.safetensors",
        "checkpoint/best.safetensors", "curves.png", "confusion.png",
    }  # fmt: skip
    for picture in ("curves.png", "confusion.png"):
        with Image.open(folder / picture) as image:
            assert min(image.size) > 300
    for part in ("test accuracy", "images/s", "memory plan", "parameters", "cnnengine eval run"):
        assert part in said.out
    assert f"epoch {EPOCHS}/{EPOCHS}" in said.err
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["arch"] == TrainConfig.arch
    assert config["lr"] == 0.03
    assert config["options"] == {"width": 0.1}


@pytest.mark.parametrize(("last", "best"), [(0.75, 0.875), (0.75, 0.75), (None, None)])
def test_summary__says_how_to_get_a_best_model_that_is_not_the_last(trained, last, best):
    folder = RunFolder(trained[0])
    told = best_line(folder, SimpleNamespace(test_accuracy=last, best_accuracy=best))
    hint = f"87.50 %; cnnengine import {folder.best} --out MODEL.safetensors"
    assert told == {0.875: hint, 0.75: "75.00 %", None: "-"}[best]


def test_train__json_is_one_object(tmp_path, pictures):
    told = succeed(*small(pictures, epochs=1), "--json", cwd=tmp_path)
    report = json.loads(told.out)
    assert report["finished"] is True
    assert report["run"] == "runs/vgg-small-pictures-1"
    assert len(report["history"]) == 1
    assert 0 <= report["test_accuracy"] <= 1
    assert "epoch 1/1" in told.err


def test_train__in_the_interpreter(tmp_path):
    pytest.importorskip("triton", reason="the interpreter is Triton's")
    result = succeed(
        "train", "--device", "interpreter", "--images", 4, "--image-size", 8, "--batch-size", 4,
        "--epochs", 1, "--option", "width=0.1", "--out", "run", cwd=tmp_path,
        env={"TRITON_INTERPRET": ""},
    )  # fmt: skip
    assert "interpreter, kernels triton, fp32" in result.err
    assert "warning: the interpreter runs the GPU's kernels" in result.err
    assert "epoch 1/1" in result.err
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_train__live_display_on_a_terminal(tmp_path, pictures):
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, small(pictures, epochs=2))], cwd=tmp_path, stdout=end, stderr=end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "\x1b[" in text
    assert "images/s" in text
    assert " left" in text
    assert "epoch 2/2  loss " in text
    assert "cnnengine eval runs/vgg-small-pictures-1" in text


def test_train__flags_beat_the_file(tmp_path, pictures):
    (tmp_path / "run.toml").write_text(
        f"data = {str(pictures)!r}\nepochs = 9\nbatch-size = 16\noptimizer = 'adamw'\n"
        "[options]\nwidth = 0.2\ndropout = 0.1\n"
    )
    succeed("train", "--config", "run.toml", "--epochs", 1, "--option", "width=0.1",
            "--no-flip", "--out", "run", cwd=tmp_path)  # fmt: skip
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["epochs"] == 1
    assert config["batch_size"] == 16
    assert config["lr"] == 1e-3
    assert config["flip"] is False
    assert config["options"] == {"width": 0.1, "dropout": 0.1}


def test_train__overwrite_replaces_a_run(finished, pictures, trained):
    told = succeed(*small(pictures, epochs=1), "--out", "run", "--overwrite", cwd=finished.parent)
    assert "epoch 1/1" in told.err
    assert len(snapshot(finished)) == 7
    assert (finished / "metrics.jsonl").read_text().count('"epoch"') < (
        trained[0] / "metrics.jsonl"
    ).read_text().count('"epoch"')


def test_train__skip_bad_leaves_pictures_out_and_says_so(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "pictures/dark/03.png").write_bytes(b"no picture")
    told = succeed(*small(tmp_path / "pictures", epochs=1), "--skip-bad", "--out", "run",
                   cwd=tmp_path)  # fmt: skip
    assert "warning: left out: " in told.err
    assert "03.png" in told.err
    assert "left out" in succeed("eval", "run", cwd=tmp_path).err


def test_train__threads_do_not_change_the_weights(tmp_path, pictures, trained):
    succeed(*small(pictures), "--threads", 3, "--out", "run", cwd=tmp_path)
    assert (tmp_path / "run/model.safetensors").read_bytes() == (
        trained[0] / "model.safetensors"
    ).read_bytes()


def test_resume__with_more_epochs(finished):
    told = succeed(
        "train", "--resume", "run", "--epochs", EPOCHS + 1, "--json", cwd=finished.parent
    )
    report = json.loads(told.out)
    assert report["epochs"] == EPOCHS + 1
    assert [record["epoch"] for record in report["history"]] == list(range(EPOCHS + 1))
    assert tomllib.loads((finished / "config.toml").read_text())["epochs"] == EPOCHS + 1


def test_resume__of_a_finished_run_says_that_nothing_is_left(finished):
    out = succeed("train", "--resume", "run", cwd=finished.parent).out
    assert "nothing was left to train" in out
    assert "0 images/s" not in out


def test_eval__agrees_with_training(trained, tmp_path):
    folder, said = trained
    told = succeed("eval", folder, cwd=tmp_path)
    for figure in ("test accuracy  ", "test loss  "):
        both = [
            next(line.split() for line in text.splitlines() if line.startswith(figure))
            for text in (said.out, told.out)
        ]
        assert both[0] == both[1]
    assert "precision" in told.out
    assert "dark" in told.out


def test_eval__json_and_picture_of_a_model_file(trained, tmp_path, pictures):
    shutil.copy(trained[0] / "model.safetensors", tmp_path / "alone.safetensors")
    line = refused("eval", "alone.safetensors", cwd=tmp_path)
    assert "'pictures'" in line
    assert "--data" in line
    told = succeed("eval", "alone.safetensors", "--data", pictures, "--out", "matrix.png",
                   "--json", cwd=tmp_path)  # fmt: skip
    report = json.loads(told.out)
    assert report["images"] == sum(map(sum, report["confusion"])) == 8
    assert [c["name"] for c in report["classes"]] == ["dark", "light"]
    with Image.open(tmp_path / "matrix.png") as image:
        assert min(image.size) > 300


def test_eval__of_other_images_than_the_test_split(trained, tmp_path):
    told = {}
    for split in ("test", "train", "all"):
        done = CliRunner().invoke(
            eval_command,
            [str(trained[0]), "--split", split, "--out", str(tmp_path / "c.png"), "--json"],
        )
        assert done.exit_code == 0, done.output
        told[split] = json.loads(done.stdout)
    assert [told[split]["images"] for split in told] == [8, 32, 40]
    both = np.add(told["test"]["confusion"], told["train"]["confusion"])
    assert told["all"]["confusion"] == both.tolist()


def test_count__tells_how_far_it_is_on_a_terminal_only(monkeypatch, capsys):
    output.count("measured", 64, 100)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    output.count("measured", 64, 100)
    output.count("measured", 100, 100)
    assert capsys.readouterr().err == "\r\x1b[Kmeasured 64 of 100 images\r\x1b[K"


def test_eval__model_file_splits_a_folder_as_its_run_did(tmp_path, pictures):
    succeed(*small(pictures, epochs=1), "--seed", 3, "--image-size", 10, "--out", "run",
            cwd=tmp_path)  # fmt: skip
    model = tmp_path / "run" / "model.safetensors"
    told = [
        json.loads(succeed("eval", path, "--data", pictures, "--out", "c.png", "--json",
                           cwd=tmp_path).out)
        for path in ("run", model)
    ]  # fmt: skip
    assert told[0]["loss"] == told[1]["loss"]
    assert told[0]["confusion"] == told[1]["confusion"]


@pytest.mark.parametrize(
    ("mean", "told"),
    [
        (0.28, "paper.png: light along the edge, while the training images are mostly dark; "),
        (0.7, "night.png: dark along the edge, while the training images are mostly light; "),
        (0.5, None),
    ],
)
def test_predict__a_picture_with_dark_and_light_swapped(tmp_path, mean, told):
    description = Description("lenet", (28, 28, 1), ("a", "b"), (mean,), (1.0,))
    params = description.graph(1, training=False).params
    weights = {p.value.name: np.zeros(p.value.shape, np.float32) for p in params}
    save_model(tmp_path / "model.safetensors", description, weights, Source("none"))
    shape = np.zeros((28, 28), np.uint8)
    shape[8:20, 8:20] = 230
    names = [str(tmp_path / name) for name in ("night.png", "paper.png")]
    for name, pixels in zip(names, (shape, 255 - shape), strict=True):
        Image.fromarray(pixels).save(name)
    model = str(tmp_path / "model.safetensors")
    for invert, way in (((), "--invert swaps the two"), (("--invert",), "leave --invert out")):
        done = CliRunner().invoke(predict_command, [model, *names, *invert])
        assert done.exit_code == 0, done.output
        lines = [line for line in done.stderr.splitlines() if "along the edge" in line]
        assert len(lines) == (told is not None)
        for line in lines:
            assert line.endswith(way)
            assert (told in line) is not bool(invert)


def test_predict__pictures_of_any_size_and_mode(trained, tmp_path):
    Image.new("RGBA", (40, 17), (250, 250, 250, 255)).save(tmp_path / "light.webp")
    Image.new("L", (3, 9), 20).save(tmp_path / "dark.png")
    told = succeed("predict", trained[0], "light.webp", "dark.png", "--json", cwd=tmp_path)
    first, second = json.loads(told.out)["predictions"]
    assert first["image"] == "light.webp"
    for prediction in (first, second):
        assert sum(t["probability"] for t in prediction["top"]) == pytest.approx(1)
        assert {t["class"] for t in prediction["top"]} == {"dark", "light"}
    inverted = succeed("predict", trained[0], "dark.png", "--invert", "--top", 1, cwd=tmp_path)
    assert len([line for line in inverted.out.splitlines() if "%" in line]) == 1


def test_show__layers_of_vgg_small(tmp_path):
    out = succeed("show", "vgg-small", cwd=tmp_path).out
    row = next(line for line in out.splitlines() if line.lstrip().startswith("conv1_2"))
    assert "1x28x28x32" in row
    assert str(32 * 32 * 9 + 32) in row
    assert f"{2 * 28 * 28 * 32 * 32 * 9 / 1e6:.1f} M" in row
    assert "memory plan" in out


def test_show__list(tmp_path):
    out = succeed("show", cwd=tmp_path).out
    assert "lenet" in out
    assert "vgg-small" in out
    assert "width=1.0" in out


@pytest.mark.parametrize(
    ("stage", "has", "lacks"),
    [
        ("build", "= relu(", "conv2d_dgrad"),
        ("autodiff", "= relu_backward(", "conv2d_relu_pool"),
        ("fuse", "conv2d_relu_pool(", "config="),
        ("select", "config=", "= relu("),
    ],
)
def test_show__graph_after_a_pass(tmp_path, stage, has, lacks):
    out = succeed("show", "lenet", "--training", "--graph", stage, cwd=tmp_path).out
    assert out.startswith("graph lenet\n")
    assert has in out
    assert lacks not in out


def test_show__graph_without_a_pass_is_the_last(tmp_path):
    last = succeed("show", "lenet", "--graph", cwd=tmp_path).out
    assert last == succeed("show", "lenet", "--graph", "pack", cwd=tmp_path).out


def test_show__plan_gives_backend_and_reason(tmp_path):
    out = succeed("show", "lenet", "--plan", "--kernels", "numpy", cwd=tmp_path).out
    assert "conv2d_relu_pool" in out
    assert "numpy" in out
    assert "im2col" in out
    assert "blocks of" in out


def test_show__what_would_be_frozen(tmp_path):
    """Four convolutions of vgg-small with a dropout further on; all in front of it may be kept."""
    told = succeed("show", "vgg-small", "--freeze-until", "conv2_2", cwd=tmp_path).out.splitlines()
    frozen = [line.split()[0] for line in told if line.endswith("frozen")]
    assert frozen[0] == "conv1_1"
    assert frozen[-1] == "pool2"
    facts = {line[:21].strip(): line[21:].strip() for line in told}
    held = sum(9 * c * k + k for c, k in ((1, 32), (32, 32), (32, 64), (64, 64)))
    assert facts["frozen"] == f"up to and including conv2_2: {held:,} of 584,170 parameters"
    assert facts["training starts from"] == "pool2/y 7x7x64"
    assert facts["kept on disk"].startswith(f"{4 * 7 * 7 * 64 / 1e3:.1f} kB an image")
    told = succeed("show", "alexnet", "--freeze-until", "dense7", cwd=tmp_path).out
    assert "kept on disk          nothing: there is dropout among them" in told


def test_show__in_a_pipe_has_no_blanks_at_the_ends_of_lines(tmp_path):
    lines = succeed("show", "lenet", cwd=tmp_path).out.splitlines()
    assert any("memory plan" in line for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []


def test_data__list_and_info(tmp_path, pictures):
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    rows = json.loads(succeed("data", "list", "--json", cwd=tmp_path, env=env).out)["data_sets"]
    where = {row["name"]: row["where"] for row in rows}
    assert where["fashion-mnist-mini"] == "in the package"
    assert where["mnist"] == "not fetched"
    assert "cifar10" in succeed("data", "list", cwd=tmp_path, env=env).out
    assert "SHA-256" in succeed("data", "info", "mnist", cwd=tmp_path, env=env).out
    info = json.loads(succeed("data", "info", pictures, "--json", cwd=tmp_path).out)
    assert info["image_shape"] == [8, 8, 1]
    assert info["train_images"] == 32
    assert "dark" in succeed("data", "info", pictures, cwd=tmp_path).out
    assert "did you mean mnist" in refused("data", "info", "mnits", cwd=tmp_path)


def test_data__fetch_of_what_is_in_the_package(tmp_path):
    assert (
        "fashion-mnist-mini is in"
        in succeed("data", "fetch", "fashion-mnist-mini", cwd=tmp_path).out
    )


def test_data__pictures_come_back_as_a_folder_of_images(tmp_path):
    asked = ("data", "pictures", "fashion-mnist-mini", "--images", 3, "--out", "seen/few")
    assert "30 pictures are in seen/few" in succeed(*asked, cwd=tmp_path).out
    assert (tmp_path / "seen/few/T-shirt-top/0002.png").is_file()
    test = data.load("fashion-mnist-mini").test
    first = test.images[test.labels == test.classes.index("Sneaker")][0]
    found = data.read_image(tmp_path / "seen/few/Sneaker/0000.png", None, None)
    assert (found == first).all()
    info = json.loads(succeed("data", "info", "seen/few", "--json", cwd=tmp_path).out)
    assert info["train_images"] + info["test_images"] == 30
    assert "seen/few exists" in refused(*asked, cwd=tmp_path)


def test_doctor__names_what_is_here_and_what_is_missing(tmp_path):
    report = json.loads(succeed("doctor", "--json", cwd=tmp_path).out)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["kernels: numpy"]["state"] == "ok"
    assert found["blas"]["value"]
    assert "what --device auto means" in found["device: cpu"]["value"]
    assert found["energy: processor"]["value"].startswith(("measured: RAPL", "estimated: "))
    for finding in report["findings"]:
        assert finding["state"] in ("ok", "missing", "warning")
        assert finding["state"] == "ok" or finding["mend"], finding
    shown = succeed("doctor", cwd=tmp_path).out
    assert "kernels: numpy" in shown
    assert "device: cuda" in shown


def test_doctor__names_what_lets_rapl_be_read(monkeypatch):
    def refuse(root=None):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(counters, "Rapl", refuse)
    found = next(finding for finding in examine() if finding.name == "energy: processor")
    assert found.state == "warning"
    assert "only root may read RAPL here" in found.value
    assert found.mend.startswith("sudo chmod o+r /sys/class/powercap/intel-rapl:*")


def test_doctor__a_driver_that_sees_no_gpu_need_not_be_installed(monkeypatch):
    told = "the NVIDIA driver is here but finds no GPU it can use (cuInit answers 100)"
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: told)
    found = next(finding for finding in examine() if finding.name == "gpu")
    assert (found.value, found.mend) == (told, "look at CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("driver", "cupy", "torch"),
    [
        ("no NVIDIA driver", "of use with an NVIDIA GPU only", "pip install torch"),
        (hardware.Driver("580.1", (13, 0), ()), *["pip install 'cnnengine[cuda13]'"] * 2),
        (hardware.Driver("550.1", (12, 4), ()), *["pip install 'cnnengine[cuda12]'"] * 2),
    ],
)
def test_doctor__packages_by_the_driver(monkeypatch, driver, cupy, torch):
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: driver)
    monkeypatch.setattr(hardware, "installed_like", lambda pattern: None)
    mend = {found.name: found.mend for found in examine()}
    assert (mend["cupy"], mend["torch"]) == (cupy, torch)
    assert mend["onnx"] == "pip install 'cnnengine[onnx]'"


def test_output__full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "data"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "cnnengine: error: the output cannot be written: the disk is full\n"


def test_output__closed_pipe_is_quiet(tmp_path):
    with start("show", "vgg-small", "--graph", cwd=tmp_path) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert err == ""


def test_module__runs_as_the_command(tmp_path):
    assert COMMAND[-1] == "cnnengine.cli"
    assert run("show", "-h", cwd=tmp_path).out.startswith("Usage: cnnengine show")
