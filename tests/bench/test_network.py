from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cnnengine.bench import memory, network, steps
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.kernels import registry

INFERENCE_OF_LENET = ["conv1", "conv2", "dense1", "dense2", "dense3"]
LENET = ("network", "--arch", "lenet", "--batch", "2", "--seconds", "0.001", "--no-compile")


@pytest.fixture
def wrong_wgrad(monkeypatch):
    """Leave the last filter's weight gradient out, in every float32 backend of the CPU."""
    for name in open_device("cpu").backends:
        function = registry.load(name).function("conv2d_wgrad")

        def broken(*args, kernel=function.unchecked, **arguments):
            kernel(*args, **arguments)
            if arguments["out"].dtype == np.float32:
                arguments["out"][-1] = 0

        monkeypatch.setattr(function, "unchecked", broken)


def test_network__json_tells_all_of_a_row(torch, bench_json):
    code, told, err = bench_json(*LENET)
    assert code == 0, err
    assert told["kind"] == "network"
    assert told["settings"]["batch"] == 2
    assert [row["mode"] for row in told["rows"]] == ["train", "infer"]
    for row in told["rows"]:
        times = {name: c["median"] for name, c in row["candidates"].items()}
        assert set(times) == {"cnnengine", "torch contiguous", "torch channels_last"}
        assert row["ours"] == times["cnnengine"]
        assert row["baseline"] == times[row["baseline_name"]] == min(list(times.values())[1:])
        assert row["ratio"] == pytest.approx(row["baseline"] / row["ours"])
        assert row["images_per_second"] == pytest.approx(2 / row["ours"])
        assert row["reference"] == "torch float32"
    train, infer = (row["differences"] for row in told["rows"])
    assert {"logits", "loss", "gradient of conv1/w", "update of dense3/b"} <= set(train)
    assert set(infer) == {"inference logits"}
    assert all(0 <= value < 5e-3 for value in (train | infer).values())


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("bf16", 1e-4, 3e-2), ("fp16", 1e-5, 1e-2)]
)
def test_network__16_bits_stand_beside_torchs_mixed_precision(
    torch, bench_json, precision, least, most
):
    code, told, err = bench_json(*LENET, "--precision", precision)
    assert code == 0, err
    train, infer = told["rows"]
    assert (train["key"], infer["precision"]) == (f"lenet/train/batch 2/{precision}", precision)
    assert train["ratio"] > 0
    assert least < infer["differences"]["inference logits"] < most
    assert train["differences"]["update of conv1/w"] < 0.5  # no update was skipped


def test_torch_side__bf16_keeps_parameters_in_float32(torch):
    from cnnengine.bench.torch_side import TorchSide

    plain, mixed = (
        TorchSide(network.make_setting("lenet", 2, p), "infer", "channels_last")
        for p in ("fp32", "bf16")
    )
    assert {p.dtype for p in mixed.twin.parameters().values()} == {torch.float32}
    a, b = plain.infer(), mixed.infer()
    off = float(((a - b).square().mean() / a.square().mean()).sqrt())
    assert 1e-4 < off < 3e-2


def test_network__steps_tell_where_the_time_goes(bench_json):
    code, told, err = bench_json(*LENET, "--against", "none", "--steps")
    assert code == 0, err
    train, infer = (row["steps"] for row in told["rows"])
    assert [step["op"] for step in train[:1] + train[-1:]] == ["feed", "update"]
    assert [step["layer"] for step in infer] == ["feed", *INFERENCE_OF_LENET]
    made = {step["op"] for step in train}
    assert {"conv2d_relu_pool", "dense", "dense_wgrad", "conv2d_dgrad"} <= made
    for found in (train, infer):
        assert sum(step["share"] for step in found) == pytest.approx(1)
        assert all(step["seconds"] > 0 for step in found)
    dense1 = next(step for step in infer if step["layer"] == "dense1")
    assert dense1["output"] == [2, 120]
    assert dense1["flops"] == 2 * 2 * 400 * 120
    assert dense1["gflops"] == pytest.approx(dense1["flops"] / dense1["seconds"] / 1e9)
    totals = steps.by_kernel(train)
    assert sum(total["calls"] for total in totals) == len(train)
    assert [t["seconds"] for t in totals] == sorted((t["seconds"] for t in totals), reverse=True)


def test_network__steps_are_printed(bench):
    code, out, err = bench(*LENET, "--against", "none", "--mode", "infer", "--steps")
    assert code == 0, err
    assert "lenet/infer/batch 2, call by call" in out
    assert re.search(r"dense1 +dense +2x120 .* 1?\d?\d\.\d% +\d+\n", out), out
    assert "lenet/infer/batch 2, by kernel" in out
    code, out, err = bench(*LENET, "--steps", "--device", "cuda")
    assert code == 2
    assert "--steps is for the CPU: on cuda calls return before they are done" in err


@pytest.mark.parametrize("side", ["torch", "no_torch"])
def test_network__wrong_gradient_has_no_times_and_fails(request, side, wrong_wgrad, bench_json):
    request.getfixturevalue(side)
    code, told, err = bench_json(*LENET, "--mode", "train")
    assert code == 1
    (row,) = told["rows"]
    assert not {"ours", "ratio", "candidates"} & set(row)
    failed = {line.partition(":")[0] for line in row["failed"]}
    assert failed == {
        f"{what} of conv{n}/w" for what in ("gradient", "update") for n in (1, 2)
    }  # fmt: skip
    assert "WRONG RESULT" in err


def test_network__without_torch_is_held_to_our_float64(no_torch, bench_json):
    code, told, _ = bench_json(*LENET, "--mode", "infer")
    assert code == 0
    (row,) = told["rows"]
    assert row["reference"] == "our float64 (numpy)"
    assert 0 < row["differences"]["inference logits"] < 1e-5
    assert row["ratio"] is None
    assert "torch is not installed" in row["baseline_missing"]
    used = told["energy"]
    assert used["wh"] > 0
    assert used["label"] in ("measured", "estimated")
    assert used["co2_g"] == pytest.approx(0.475 * used["wh"])


@pytest.mark.parametrize(("off", "passes"), [(0.02, True), (0.0, False)], ids=["torch", "ours"])
def test_check__float64_judges_where_the_two_sides_disagree(torch, monkeypatch, off, passes):
    from cnnengine.bench import torch_side

    exact = torch_side.torch_answers
    monkeypatch.setattr(torch_side, "torch_answers", lambda *given: _shifted(exact(*given), off))
    ours = network.our_answers
    if not passes:  # ours in float32, the reference stays right
        monkeypatch.setattr(
            network, "our_answers",
            lambda side, modes: _shifted(
                ours(side, modes), 0.02 * (side.setting.description.precision == "fp32")
            ),
        )  # fmt: skip
    side = network.OurSide(network.make_setting("lenet", 2), open_device("cpu"), ("train",))
    checked = network.check(side, ("train",), against=True)
    assert bool(checked["failed"]) != passes
    assert checked["reference"].startswith("our float64 (numpy), torch float32 is")


@pytest.mark.parametrize(("torchs", "ours", "passes"), [(1e-4, 3e-5, True), (0, 3e-5, False)])
def test_check__float64_judges_logits_too(torch, monkeypatch, torchs, ours, passes):
    """Rounding grows in a batch norm over few pixels: Inception v3 at batch 2, on both sides."""
    from cnnengine.bench import torch_side

    exact, mine = torch_side.torch_answers, network.our_answers

    def shifted(answers, share):
        return {**answers, "logits": (1 + share) * answers["logits"]}

    monkeypatch.setattr(torch_side, "torch_answers", lambda *given: shifted(exact(*given), torchs))
    monkeypatch.setattr(
        network, "our_answers",
        lambda side, modes: shifted(
            mine(side, modes), ours * (side.setting.description.precision == "fp32")
        ),
    )  # fmt: skip
    side = network.OurSide(network.make_setting("lenet", 2), open_device("cpu"), ("train",))
    assert bool(network.check(side, ("train",), against=True)["failed"]) != passes


def _shifted(answers, share):
    """The answers, one gradient of them off by a share of itself."""
    return {**answers, "gradient of conv1/w": (1 + share) * answers["gradient of conv1/w"]}


def test_network__memory_of_a_fresh_process(bench_json):
    code, told, err = bench_json(*LENET, "--mode", "train", "--against", "none", "--memory")
    assert code == 0, err
    figures = told["rows"][0]["memory"]["cnnengine"]
    assert 0 < figures["growth_bytes"] < figures["peak_bytes"] < 1 << 30
    assert "fresh process" in err


def test_measure_memory__does_not_count_the_parents():
    ballast = np.ones(1 << 27, np.uint8)  # 128 MiB, resident here
    figures = memory.measure_memory("cnnengine", "lenet", 2, "infer", 1)
    assert figures["peak_bytes"] < ballast.nbytes


def test_measure_memory__tells_why_a_side_failed():
    with pytest.raises(InputError, match="the process of cnnengine failed: .*unknown architecture"):
        memory.measure_memory("cnnengine", "no-such-network", 2, "infer", 1)


def test_measure_memory__needs_proc(monkeypatch):
    monkeypatch.setattr(memory, "STATUS", Path(sys.prefix) / "not here")
    with pytest.raises(InputError, match="--memory needs Linux"):
        memory.measure_memory("cnnengine", "lenet", 2, "infer", 1)


def test_torch_side__trains_alike_in_both_memory_formats(torch):
    from cnnengine.bench.torch_side import TorchSide

    setting = network.make_setting("lenet", 2)
    losses = {}
    for way in ("contiguous", "channels_last"):
        side = TorchSide(setting, "train", way)
        losses[way] = [side.train() for _ in range(3)]
    assert losses["contiguous"] == pytest.approx(losses["channels_last"], rel=1e-5)
    assert losses["contiguous"][2] < losses["contiguous"][0]


class NoGraph:
    """A graph that replays nothing."""

    replay = staticmethod(lambda: None)


@pytest.fixture
def graph_way(torch, monkeypatch):
    """The way "graph" on a machine without a GPU."""
    from cnnengine.bench import torch_side

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda given, **told: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", NoGraph)
    monkeypatch.setattr(torch_side, "WAYS", {"cpu": ("channels_last", "graph")})
    return torch


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_torch_ways__a_graph_is_a_way_and_must_do_its_work(graph_way, mode):
    from cnnengine.bench.torch_side import torch_ways

    setting = network.make_setting("lenet", 2)
    found = torch_ways(setting, mode, compiled=False, note=print)
    assert [way.name for way in found.candidates] == ["torch channels_last", "torch graph"]
    stale = ["torch graph: a step leaves parameters as they are"]
    assert found.wrong == (stale if mode == "train" else [])
    assert found.declined == []


def test_torch_ways__what_cannot_be_captured_is_told(graph_way, monkeypatch):
    from cnnengine.bench.torch_side import torch_ways

    def refuse(given, stream):
        raise RuntimeError("operation not permitted when stream is capturing\nlong story")

    monkeypatch.setattr(graph_way.cuda, "graph", refuse)
    told = []
    found = torch_ways(network.make_setting("lenet", 2), "train", compiled=False, note=told.append)
    assert [way.name for way in found.candidates] == ["torch channels_last"]
    (line,) = found.declined
    assert line == told[0]
    assert line.startswith("torch graph: no figure: RuntimeError: operation not permitted")
    assert "long story" not in line


def test_torch_answers__are_float32_whatever_ours_computes_in(torch):
    from cnnengine.bench.torch_side import torch_answers

    plain, mixed = (
        torch_answers(network.make_setting("lenet", 2, p), network.MODES) for p in ("fp32", "bf16")
    )
    assert all(np.array_equal(plain[name], mixed[name]) for name in plain)


def test_ratios__tell_every_way_apart():
    times = {"cnnengine": 2.0, "torch contiguous": 5.0, "torch channels_last": 4.0}
    row = {"ours": 2.0, "candidates": {name: {"median": t} for name, t in times.items()}}
    assert network.ratios(row) == {"eager": 2.0}
    row["candidates"] |= {"torch compile": {"median": 1.0}, "torch graph": {"median": 3.0}}
    assert network.ratios(row) == {"eager": 2.0, "graph": 1.5, "compile": 0.5}


def test_compare__noise_of_a_gradient_that_is_nothing_passes():
    expected = {"gradient of a": np.ones(4), "gradient of b": np.full(4, 1e-9)}
    noise = {"gradient of a": np.ones(4), "gradient of b": np.full(4, -1e-9)}
    assert network.compare(noise, expected)[1] == []
    wrong = {"gradient of a": np.ones(4), "gradient of b": np.full(4, 1e-3)}
    assert len(network.compare(wrong, expected)[1]) == 1


def test_compare__an_update_as_small_as_the_rounding_of_its_weight_passes():
    rng = np.random.default_rng(0)
    before = {"w": rng.standard_normal(1000).astype(np.float32)}
    update = 1e-7 * rng.standard_normal(1000)
    found = {"update of w": (before["w"] + update).astype(np.float32) - before["w"]}
    assert len(network.compare(found, {"update of w": update})[1]) == 1
    assert network.compare(found, {"update of w": update}, weights=before)[1] == []
    none = {"update of w": np.zeros(1000)}
    assert len(network.compare(none, {"update of w": update}, weights=before)[1]) == 1
