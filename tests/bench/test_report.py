from __future__ import annotations

import json

import pytest

from cnnengine.bench import machine, report


def result(**times):
    """A result whose rows have these times of ours, each with a baseline of one second."""
    rows = [
        {
            "key": key, "layer": key, "pass": "forward", "batch": 1, "ours": ours,
            "baseline": 1.0, "ratio": 1.0 / ours, "failed": [],
        }
        for key, ours in times.items()
    ]  # fmt: skip
    told = {"cpu": "a processor"}
    return report.document(
        "kernels", rows, machine=told, versions={}, settings={"threads": 1}, notes=[]
    )


def write(path, *results):
    for told in results:
        report.append(path, told)
    return path


def test_compare__shows_the_changes(tmp_path, bench_json):
    old = write(tmp_path / "old.jsonl", result(a=2.0, b=1.0, gone=1.0))
    new = write(tmp_path / "new.jsonl", result(a=0.5, b=1.0, fresh=1.0))
    code, told, err = bench_json("compare", old, new)
    assert code == 0
    a, b = told["rows"]
    assert (a["key"], a["ours"], a["speedup"], a["ratio"]) == ("a", [2.0, 0.5], 4.0, [0.5, 2.0])
    assert b["speedup"] == 1.0
    assert (told["only_old"], told["only_new"]) == (["gone"], ["fresh"])
    assert "gone" in err
    assert "fresh" in err


def test_compare__prints_a_table(tmp_path, bench):
    old = write(tmp_path / "old.jsonl", result(a=2.0))
    new = tmp_path / "new.json"
    new.write_text(json.dumps(result(a=0.5), indent=1))
    code, out, _ = bench("compare", old, new)
    assert code == 0
    (line,) = (line.split() for line in out.splitlines() if line.startswith("a "))
    assert line[-3:] == ["4.00x", "0.50x", "2.00x"]


@pytest.mark.parametrize(("q3", "speed"), [(1.05, "1.10x"), (1.15, "~1.10x")])
def test_compare__marks_what_may_be_noise(tmp_path, bench, q3, speed):
    results = [result(a=1.1), result(a=1.0)]
    for told, quartiles in zip(results, ((1.08, 1.2), (0.9, q3)), strict=True):
        (row,) = told["rows"]
        row["ours_name"] = "numpy"
        row["candidates"] = {"numpy": dict(zip(("q1", "q3"), quartiles, strict=True))}
    paths = [write(tmp_path / name, told) for name, told in zip("ab", results, strict=True)]
    _, out, _ = bench("compare", *paths)
    (line,) = (line.split() for line in out.splitlines() if line.startswith("a "))
    assert line[-3] == speed


def test_compare__warns_when_the_machines_differ(tmp_path, bench):
    other = result(a=1.0)
    other["machine"]["cpu"] = "another processor"
    other["settings"]["threads"] = 2
    old, new = write(tmp_path / "old", result(a=1.0)), write(tmp_path / "new", other)
    _, _, err = bench("compare", old, new)
    assert "processor: a processor → another processor" in err
    assert "threads: 1 → 2" in err


def test_read__the_last_row_of_a_key_counts(tmp_path):
    path = write(tmp_path / "grown.jsonl", result(a=3.0, b=2.0), result(a=1.0))
    told = report.compare(report.read(path), [result(a=1.0, b=2.0)])
    assert [row["speedup"] for row in told["rows"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"format": 99}', "has result format 99; this version reads 1"),
        ('{"format": 1}', "is damaged"),
        ("[1, 2]", "is no result of cnnengine bench"),
        ('{"format": 1, "machine": {}, "settings": {}, "rows": []}\n{"form', "line 2 is not JSON"),
        ("", "is empty"),
    ],
)
def test_compare__refuses_other_files_in_one_line(tmp_path, bench, content, told):
    path = tmp_path / "other.json"
    path.write_text(content)
    code, out, err = bench("compare", path, path)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_compare__names_a_file_that_is_not_there(tmp_path, bench):
    code, _, err = bench("compare", tmp_path / "none", tmp_path / "none")
    assert code == 2
    assert "No such file" in err


def test_out__adds_one_line_a_run(tmp_path, bench_json):
    path = tmp_path / "results.jsonl"
    arguments = (
        "kernels",
        "--suite",
        "odd",
        "--layers",
        "1",
        "--passes",
        "forward",
        "--batch",
        "1",
    )
    for count in (1, 2):
        code, told, _ = bench_json(*arguments, "--repeats", "2", "--against", "none", "--out", path)
        assert code == 0
        assert len(path.read_text().splitlines()) == count
        assert report.read(path)[-1]["rows"] == told["rows"]


def test_out__that_cannot_be_written_ends_in_one_line(tmp_path, bench):
    arguments = (
        "kernels",
        "--suite",
        "odd",
        "--layers",
        "1",
        "--passes",
        "forward",
        "--batch",
        "1",
    )
    code, _, err = bench(
        *arguments, "--repeats", "2", "--against", "none", "--out", tmp_path / "no" / "folder"
    )
    assert code == 2
    assert "--out: cannot write" in err
    assert "ceilings" not in err  # refused before anything is timed


def described(core_type, *vector, load=0.0):
    blas = {"library": "openblas", "version": "0.3", "core_type": core_type, "threads": 1}
    return {"blas": [blas], "vector": vector, "cores": 2, "load": load}


@pytest.mark.parametrize(
    ("machine_told", "threads", "told"),
    [
        (described("Prescott", "avx2"), 1, "Prescott kernels"),
        (described("Haswell", "avx2", "avx512f"), 1, "Haswell kernels"),
        (described("SkylakeX", "avx2", "avx512f"), 3, "3 threads on 2 cores"),
        (described("Haswell", "avx2", load=1.5), 1, "busy (load 1.5)"),
        ({**described("Haswell"), "blas": []}, 1, "no BLAS"),
    ],
)
def test_warnings__tell_what_hobbles_the_machine(machine_told, threads, told):
    (line,) = machine.warnings(machine_told, threads)
    assert told in line


@pytest.mark.parametrize(("share", "told"), [(1.7, True), (0.9, False), (None, False)])
def test_above_roof__says_how_a_row_can_pass_it(share, told):
    found = report.above_roof([{"key": "a"}, {"key": "b", "roofline": share}])
    assert (found is not None and "Winograd" in found) == told


def test_warnings__are_silent_where_all_is_well():
    assert machine.warnings(described("SkylakeX", "avx2", "avx512f"), 2) == []
    assert machine.warnings(described("Zen", "avx2"), 2) == []


def test_elsewhere__is_a_share_of_the_machine():
    elsewhere = machine.Elsewhere()
    sum(range(1_000_000))
    share = elsewhere.share()
    assert share is None or 0 <= share <= 1
