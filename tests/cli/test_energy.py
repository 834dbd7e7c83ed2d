"""What `train` says about energy, and how it stops at a limit."""

from __future__ import annotations

import json

from .command import refused, run, small, succeed


def test_train__tells_energy_and_forecast(trained):
    _, said = trained
    assert " g CO2 (estimated)" in said.out
    assert "forecast: all 10 epochs use about " in said.err


def test_train__stops_above_wh_and_resumes(tmp_path, pictures, trained):
    out = tmp_path / "run"
    ended = run(*small(pictures), "--out", out, "--stop-above-wh", 1e-6, "--json", cwd=tmp_path)
    assert ended.code == 3, ended.err
    last = ended.err.splitlines()[-1]
    assert "and saved: above 1e-06 Wh; continue with: cnnengine train --resume" in last
    told = json.loads(ended.out)
    assert told["energy"]["wh"] > 1e-6
    assert not told["finished"]
    line = refused("train", "--resume", out, cwd=tmp_path)
    assert "--stop-above-wh 1e-06: the run has used" in line
    succeed("train", "--resume", out, "--stop-above-wh", 0, cwd=tmp_path)
    name = "model.safetensors"
    assert (out / name).read_bytes() == (trained[0] / name).read_bytes()


def test_train__energy_settings_refused(tmp_path):
    assert "--stop-above-wh must be 0 or a positive number, not -1" in refused(
        "train", "--stop-above-wh", -1, cwd=tmp_path
    )
    assert "--energy-country" in refused("train", "--energy-country", "FRANCE", cwd=tmp_path)
