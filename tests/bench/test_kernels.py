from __future__ import annotations

import re

import numpy as np
import pytest

from cnnengine.bench import kernels, work
from cnnengine.bench.suites import SUITES
from cnnengine.engine.device import open_device
from cnnengine.kernels import registry

HARD = [*SUITES["odd"].layers, *SUITES["edge"].layers]
QUICK = ("--batch", "1", "--seconds", "0.001")


@pytest.fixture
def wrong_relu(monkeypatch):
    """Make every backend's convolution wrong in one pixel when a ReLU is fused."""
    for name in open_device("cpu").backends:
        function = registry.load(name).function("conv2d")

        def broken(*args, kernel=function.unchecked, **arguments):
            kernel(*args, **arguments)
            if arguments.get("relu"):
                arguments["out"][0, 0, 0, 0] += 1

        monkeypatch.setattr(function, "unchecked", broken)


def test_kernels__json_tells_all_of_a_row(torch, bench_json):
    code, told, err = bench_json("kernels", "--suite", "odd", "--layers", "2", *QUICK)
    assert code == 0, err
    assert told["format"] == 1
    assert told["kind"] == "kernels"
    assert told["settings"]["threads"] == 1
    assert told["machine"]["cpu"]
    assert told["machine"]["blas"][0]["core_type"]
    assert told["versions"]["torch"] == torch.__version__
    assert [row["pass"] for row in told["rows"]] == list(work.PASSES)
    for row in told["rows"]:
        times = {name: c["median"] for name, c in row["candidates"].items()}
        torchs = {name: t for name, t in times.items() if name.startswith("torch ")}
        assert {"torch contiguous", "torch channels_last"} <= set(torchs)
        assert ("torch onednn-packed" in torchs) == row["pass"].startswith("forward")
        assert row["ours"] == times[row["ours_name"]]
        assert row["baseline"] == min(torchs.values()) == torchs[row["baseline_name"]]
        assert row["ratio"] == pytest.approx(row["baseline"] / row["ours"])
        assert all(c["q1"] <= c["median"] <= c["q3"] for c in row["candidates"].values())
        assert set(row["errors"]) == set(times)
        assert row["failed"] == []
        if row["flops"]:
            assert row["gflops"] == pytest.approx(row["flops"] / row["ours"] / 1e9)


def test_kernels__batches_and_precisions_are_rows_of_their_own(torch, bench_json, tmp_path):
    page = tmp_path / "page.html"
    arguments = ("--suite", "odd", "--layers", "1", "--passes", "forward+relu,wgrad")
    arguments += ("--precision", "fp32,bf16", "--seconds", "0.001", "--html", page)
    code, told, err = bench_json("kernels", *arguments, "--batch", "1,3")
    assert code == 0, err
    keys = [row["key"].removeprefix("odd/29x29x3 → 5, 3x3/") for row in told["rows"]]
    assert sorted(keys) == sorted(
        f"{name}/batch {batch}{kind}"
        for name in ("forward+relu", "wgrad") for batch in (1, 3) for kind in ("", "/bf16")
    )  # fmt: skip
    copy, gemm = told["ceilings"]["copy"], told["ceilings"]["gemm"]["float32"]
    for row in told["rows"]:
        full = row["precision"] == "fp32"
        x, y = 29 * 29 * 3 * row["batch"], 29 * 29 * 5 * row["batch"]
        bias = 5 if row["pass"] == "forward+relu" else 0  # float32, as a gradient of filters is
        filters = 4 if full or row["pass"] == "wgrad" else 2
        assert row["bytes"] == (4 if full else 2) * (x + y) + 135 * filters + 4 * bias
        floor = max(row["flops"] / gemm, row["bytes"] / copy) if full else None
        assert row["floor"] == floor
        assert row["roofline"] == (floor / row["ours"] if full else None)
    assert page.read_text().count("<circle") == 2 * 8


def test_kernels__what_torch_cannot_do_is_told(torch, bench_json, monkeypatch):
    from cnnengine.bench import baselines

    def refuse(*_):
        raise NotImplementedError("not for this type\nlong story")

    monkeypatch.setattr(baselines, "_packed", lambda *_: refuse)
    arguments = ("--suite", "odd", "--layers", "1", "--passes", "forward", *QUICK)
    code, told, _ = bench_json("kernels", *arguments)
    assert code == 0
    (row,) = told["rows"]
    assert "torch onednn-packed: not for this type" in row["declined"]
    assert "torch onednn-packed" not in row["candidates"]


def test_kernels__table_has_a_line_for_each_row(bench):
    arguments = ("--suite", "odd", "--layers", "1,6", "--passes", "forward,wgrad,max_pool")
    code, out, _ = bench("kernels", *arguments, *QUICK)
    assert code == 0
    lines = [line for line in out.splitlines() if "13x13x37 → 41, 1x1" in line]
    assert [line.split("1x1")[1].split()[0] for line in lines] == ["forward", "wgrad"]


@pytest.mark.parametrize("name", work.PASSES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_make__arrays_begin_where_the_engines_do(name, precision):
    made = work.make(SUITES["vgg16"].layers[1], name, 1, precision)
    calls, out = work.our_calls(made, work.Host(made.given))
    arrays = [a for _, told in calls for a in told.values() if isinstance(a, np.ndarray)]
    assert len(arrays) >= 2
    for array in (*arrays, out):
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous


@pytest.mark.parametrize("name", work.PASSES)
@pytest.mark.parametrize("layer", HARD, ids=map(str, HARD))
def test_ways__all_agree_with_float64(torch, layer, name):
    from cnnengine.bench.baselines import torch_ways

    made = work.make(layer, name, 2)
    if made is None:
        assert "pool" in name
        assert layer.pool is None
        return
    results = {}
    for way in kernels.our_ways(made, open_device("cpu").backends)[0]:
        with way.session():
            results[way.name] = np.array(way())
    for way in torch_ways(made):
        with way.session():
            results[way.name] = way.host(way.call())
    checks = work.check(made, results, kernels.float64)
    assert all(c.ok for c in checks.values()), checks


def test_check__is_made_in_parts(monkeypatch, torch):
    layer = SUITES["odd"].layers[1]
    monkeypatch.setattr(work, "PART_BYTES", 8 * 31 * 31 * (13 + 17) * 2)
    for name in ("forward", "wgrad"):
        made = work.make(layer, name, 5)
        sizes = [part.batch for part in made.parts()]
        assert len(sizes) > 1
        assert sum(sizes) == 5
        way = kernels.our_ways(made, ("numpy",))[0][0]
        assert work.check(made, {"ours": way()}, kernels.float64)["ours"].ok


@pytest.mark.parametrize("damage", [1.0, np.nan])
def test_check__finds_one_wrong_element(no_torch, damage):
    made = work.make(SUITES["odd"].layers[1], "forward", 2)
    result = kernels.our_ways(made, ("numpy",))[0][0]()
    result[1, 30, 30, 16] += damage
    assert not work.check(made, {"ours": result}, kernels.float64)["ours"].ok


def test_kernels__wrong_result_has_no_times_and_fails(wrong_relu, bench_json):
    arguments = ("--suite", "odd", "--layers", "2", "--passes", "forward,forward+relu")
    code, told, err = bench_json("kernels", *arguments, *QUICK)
    assert code == 1
    assert "WRONG RESULT" in err
    right, wrong = told["rows"]
    assert "ours" in right
    assert "relative RMS error" in wrong["failed"][0]
    assert not {"ours", "ratio", "candidates"} & set(wrong)


def test_kernels__a_table_says_what_its_times_are(no_torch, bench):
    code, out, err = bench(
        "kernels", "--suite", "edge", "--layers", "1", "--passes", "dgrad", *QUICK
    )
    assert code == 0
    assert "ours ms" in out
    assert "times: medians, quartiles in brackets; ~: they lie far apart, noisy" in err


def test_kernels__without_torch_shows_our_figures_and_the_install_line(no_torch, bench_json):
    arguments = ("--suite", "edge", "--layers", "1", "--passes", "dgrad")
    code, told, err = bench_json("kernels", *arguments, *QUICK)
    assert code == 0
    (row,) = told["rows"]
    assert row["ours"] > 0
    assert (row["baseline"], row["baseline_name"], row["ratio"]) == (None, None, None)
    assert "torch is not installed; pip install" in row["baseline_missing"]
    assert "torch is not installed; pip install" in err
    assert re.search(r"energy of this benchmark, all sides: [\d.e-]+ Wh \((mea|estima)", err)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("kernels", "--suite", "vgg61"), "unknown suite 'vgg61' (did you mean vgg16"),
        (("kernels", "--passes", "forwards"), "unknown pass 'forwards' (did you mean forward"),
        (("kernels", "--layers", "7"), "--layers 7: '7' is not a number or range of 1 … 6"),
        (("kernels", "--layers", "1", "--passes", "max_pool"), "no layer of --suite vgg-small"),
        (("kernels", "--against", "tensorflow"), "unknown --against 'tensorflow'"),
        (("kernels", "--device", "tpu"), "unknown device 'tpu'"),
        (("kernels", "--precision", "tf32"), "unknown precision of --device cpu 'tf32'"),
        (("kernels", "--batch", "1,0"), "--batch 1,0: must be numbers of at least 1"),
        (("network", "--arch", "vgg-smal"), "unknown architecture 'vgg-smal' (did you mean vgg-"),
        (
            ("network", "--precision", "bf61"),
            "unknown precision 'bf61' (did you mean bf16 or fp16?)",
        ),
        (("network", "--precision", "tf32"), "precision tf32 needs a GPU"),
        (("network", "--mode", "training"), "unknown mode 'training' (did you mean train"),
    ],
)
def test_bench__wrong_words_end_in_one_line(bench, arguments, told):
    code, out, err = bench(*arguments)
    assert code == 2
    assert out == ""
    assert told in err
    assert err.splitlines()[-1].startswith("cnnengine: error: ")
