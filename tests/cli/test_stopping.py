"""Runs that are stopped, killed, or run out of disk or of numbers, and what is left of them."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
from safetensors.numpy import load_file

from .command import (
    EPOCHS,
    STEPS,
    refused,
    run,
    signal_at_step,
    small,
    snapshot,
    start,
    steps_done,
    succeed,
    wait_until,
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_train__stopped_then_resumed_gives_same_bytes(tmp_path, pictures, trained, number, code):
    out = tmp_path / "run"
    process = start(*small(pictures), "--out", out, "--json", cwd=tmp_path)
    ended, stdout, err = signal_at_step(process, out, 2, number)
    assert ended == code, err
    assert err.splitlines()[-1].endswith(f"continue with: cnnengine train --resume {out}")
    assert '"finished": false' in stdout
    assert steps_done(out) < STEPS
    succeed("train", "--resume", out, cwd=tmp_path)
    assert (out / "model.safetensors").read_bytes() == (
        trained[0] / "model.safetensors"
    ).read_bytes()
    assert steps_done(out) == STEPS


def test_train__second_signal_stops_at_once(tmp_path):
    """Steps of seconds, so that both signals fall into one: nothing is saved."""
    out = tmp_path / "run"
    process = start("train", "--batch-size", 1000, "--kernels", "numpy", "--threads", 1,
                    "--out", out, cwd=tmp_path)  # fmt: skip
    wait_until(process, lambda: (out / "metrics.jsonl").exists())
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "cnnengine: error: interrupted"
    assert "Traceback" not in err
    assert not (out / "checkpoint" / "last.safetensors").exists()


def test_train__killed_at_random_moments_then_resumed_gives_same_bytes(tmp_path, pictures, trained):
    out = tmp_path / "run"
    process = start(*small(pictures), "--out", out, cwd=tmp_path)
    moments = random.Random(11)
    for kill in range(3):
        step = STEPS // 3 * kill + moments.randrange(1, 10)
        assert signal_at_step(process, out, step, signal.SIGKILL)[0] == -signal.SIGKILL
        process = start("train", "--resume", out, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (out / "model.safetensors").read_bytes() == (
        trained[0] / "model.safetensors"
    ).read_bytes()
    last, expected = (
        load_file(folder / "checkpoint/last.safetensors") for folder in (out, trained[0])
    )
    assert last.keys() == expected.keys()
    assert all(last[name].tobytes() == expected[name].tobytes() for name in last)


def test_train__disk_full_in_the_middle_of_a_checkpoint(finished):
    """A file may grow to almost a checkpoint; the writes of the next one then fail."""
    last = finished / "checkpoint" / "last.safetensors"
    limit = last.stat().st_size - 1000
    before = snapshot(finished)

    result = run(
        "train", "--resume", "run", "--epochs", EPOCHS + 1, cwd=finished.parent, largest_file=limit
    )
    assert result.code == 2
    error = [line for line in result.err.splitlines() if line.startswith("cnnengine: error: ")]
    assert len(error) == 1
    assert "cannot write run/checkpoint/" in error[0]
    assert "Traceback" not in result.err
    after = snapshot(finished)
    for name in ("checkpoint/last.safetensors", "checkpoint/best.safetensors"):
        assert after[name] == before[name]
    assert not [name for name in after if name.endswith(".part")]
    succeed("train", "--resume", "run", cwd=finished.parent)
    assert steps_done(finished) == STEPS + 4


def test_train__loss_not_finite_keeps_last_good_checkpoint(tmp_path, pictures):
    """Weight decay above 2 / lr makes weights grow step by step until float32 ends."""
    result = run(
        *small(pictures, epochs=50), "--out", "run", "--schedule", "constant", "--momentum", 0,
        "--weight-decay", 80, cwd=tmp_path,
    )  # fmt: skip
    assert result.code == 1
    line = result.err.splitlines()[-1]
    assert line.startswith("cnnengine: error: the loss ")
    assert " step " in line
    assert " layer " in line or " parameter " in line
    kept = "the last good checkpoint is run/checkpoint/last.safetensors"
    assert line.endswith(f"{kept}; a smaller --lr may help, it was 0.03")
    assert "Traceback" not in result.err
    told = json.loads(succeed("eval", "run", "--json", cwd=tmp_path).out)
    assert told["loss"] is not None, "the model that was kept gives numbers"


def test_train__huge_learning_rate(tmp_path, pictures):
    result = run(*small(pictures), "--out", "run", "--lr", 1e6, cwd=tmp_path)
    assert result.code == 1
    assert "the loss is " in result.err.splitlines()[-1]
    assert "Warning" not in result.err


def test_resume__run_stopped_before_its_first_checkpoint(tmp_path, trained):
    """Only config.toml is there: the run starts from its beginning and ends with the same bytes."""
    out = tmp_path / "run"
    (out / "checkpoint").mkdir(parents=True)
    (out / "config.toml").write_bytes((trained[0] / "config.toml").read_bytes())
    line = refused("train", "--resume", out, "--arch", "lenet", cwd=tmp_path)
    assert "another arch" in line
    succeed("train", "--resume", out, cwd=tmp_path)
    assert (out / "model.safetensors").read_bytes() == (
        trained[0] / "model.safetensors"
    ).read_bytes()
