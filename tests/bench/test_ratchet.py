"""The ratchet: what it calls worse, what it writes, and what it says of a damaged table."""

from __future__ import annotations

import pytest

from cnnengine.bench import ratchet
from cnnengine.engine.errors import InputError

FIGURES = {"registers": 100, "spill_bytes": 0, "shared_bytes": 64, "mma": 4, "tma": 2, "loop": 180}
ROWS = {"conv → 64": {"sm_80": FIGURES, "sm_90": FIGURES}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of tables of the test's own."""
    monkeypatch.setattr(ratchet, "FOLDER", tmp_path / "compile")
    return tmp_path / "compile"


@pytest.mark.parametrize("name", FIGURES)
def test_worse__names_the_figure_that_got_worse(name):
    better = 1 if name in ("mma", "tma") else -1
    for change, lines in ((better, 0), (0, 0), (-better, 1)):
        now = {"conv": {"sm_90": {**FIGURES, name: FIGURES[name] + change}}}
        before = {"conv": {"sm_90": FIGURES}}
        told = ratchet.worse(now, before)
        assert len(told) == lines
        assert all(f"conv, sm_90: {name} {FIGURES[name]} -> " in line for line in told)
        assert ratchet.better(now, before) == (change == better)


def test_worse__names_a_row_and_a_figure_that_are_not_in_the_table():
    assert ratchet.worse({"conv": {"sm_90": FIGURES}}, {}) == ["conv, sm_90: not in the table"]
    told = ratchet.worse({"conv": {"sm_90": FIGURES}}, {"conv": {"sm_90": {"registers": 100}}})
    assert "conv, sm_90: tma is not in the table" in told


def test_hold__reads_what_it_wrote(folder, capsys):
    assert ratchet.hold("triton", "3.9.0", ROWS, mode="update") == 0
    assert ratchet.read(folder / "triton-3.9.json") == ROWS
    assert ratchet.hold("triton", "3.9.1", ROWS) == 0
    assert "1 launches: none worse than in triton-3.9.json" in capsys.readouterr().out


def test_hold__fails_for_what_is_worse_gone_or_broken(folder, capsys):
    ratchet.hold("triton", "3.9.0", ROWS, mode="update")
    now = {"conv → 64": {"sm_80": {**FIGURES, "loop": 181}}}
    assert ratchet.hold("triton", "3.9.0", now) == 1
    told = capsys.readouterr().out
    assert "conv → 64, sm_80: loop 180 -> 181" in told
    assert "conv → 64, sm_90: in the table, compiled no more" in told
    assert ratchet.hold("triton", "3.9.0", ROWS, mode="update", broken=["a rule"]) == 1
    assert ratchet.hold("triton", "3.9.0", ROWS, broken=["a rule"]) == 1
    assert capsys.readouterr().out.count("a rule\n") == 2


def test_hold__quick_expects_no_other_rows(folder, capsys):
    ratchet.hold("triton", "3.9.0", {**ROWS, "other": ROWS["conv → 64"]}, mode="update")
    now = {"conv → 64": {"sm_90": {**FIGURES, "registers": 90}}}
    assert ratchet.hold("triton", "3.9.0", now, mode="quick") == 0
    assert "1 figures are better" in capsys.readouterr().out
    assert ratchet.hold("triton", "3.9.0", {"new": now["conv → 64"]}, mode="quick") == 1
    assert "new, sm_90: not in the table" in capsys.readouterr().out


def test_hold__missing_drops_what_is_gone(folder):
    ratchet.hold("triton", "3.9.0", {**ROWS, "gone": ROWS["conv → 64"]}, mode="update")
    assert ratchet.hold("triton", "3.9.0", ROWS, mode="missing") == 0
    assert ratchet.read(folder / "triton-3.9.json") == ROWS


def test_mode__is_one_of_three_or_none():
    assert [ratchet.mode([option]) for option in ratchet.MODES] == ["update", "missing", "quick"]
    assert ratchet.mode([]) == ""
    for wrong in (["--updat"], ["update"], ["--update", "--quick"], [""]):
        with pytest.raises(InputError, match=r"takes one of --update, --missing, --quick, or none"):
            ratchet.mode(wrong)


def test_spills__names_the_rows():
    assert ratchet.spills(ROWS) == []
    spilling = {"conv": {"sm_90": {**FIGURES, "spill_bytes": 8}}}
    assert ratchet.spills(spilling) == ["conv, sm_90: spills 8 bytes"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"launches": 3}', '{"launches": {"a": 1}}'])
def test_read__refuses_a_damaged_table(folder, content):
    folder.mkdir()
    (folder / "triton-3.9.json").write_text(content)
    with pytest.raises(InputError, match=r"triton-3\.9\.json is damaged"):
        ratchet.read(folder / "triton-3.9.json")


def test_read__refuses_a_missing_table(folder):
    with pytest.raises(InputError, match=r"no table triton-3\.7\.json; write it with --update"):
        ratchet.read(ratchet.table_file("triton", "3.7.2"))
