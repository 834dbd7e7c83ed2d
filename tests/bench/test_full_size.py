"""The check of whole networks beside torch's float64: it passes, and it can fail."""

import json

import pytest

from cnnengine.bench import full_size
from cnnengine.kernels.numpy import threads


@pytest.fixture(autouse=True)
def all_threads_again():
    yield
    threads.set_threads(0)


def test_main__writes_counts_and_errors(torch, tmp_path, capsys):
    assert full_size.main(["lenet", "--threads", "1", "--out", str(tmp_path / "r.json")]) == 0
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert json.loads(capsys.readouterr().out) == row
    assert (row["parameters"], row["image"], row["failed"]) == (61_706, [28, 28, 1], [])
    assert 0 < row["errors"]["ours float64"] < 1e-13 < row["errors"]["ours float32"] < 1e-5


def test_main__a_wrong_logit_is_named(torch, monkeypatch, capsys):
    right = full_size._ours
    monkeypatch.setattr(full_size, "_ours", lambda *told: right(*told) * (1 + 1e-4))
    assert full_size.main(["lenet", "--threads", "1"]) == 1
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    errors = row["errors"]
    assert errors["ours float64"] == pytest.approx(1e-4, rel=1e-9)
    assert errors["ours float32"] == pytest.approx(1e-4, rel=0.05)  # and its own rounding
    assert row["failed"] == [
        f"ours float32: {errors['ours float32']:.3g} (allowed 2e-05)",
        "ours float64: 0.0001 (allowed 1e-11)",
    ]


def test_main__an_unknown_network(torch, capsys):
    assert full_size.main(["lenett"]) == 2
    assert "did you mean lenet" in capsys.readouterr().err
