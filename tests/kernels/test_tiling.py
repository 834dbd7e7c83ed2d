"""Tile tables: who is asked first, what is refused, and that nothing wrong in one is fatal."""

from __future__ import annotations

import json
import timeit
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cnnengine.kernels import registry, tiling
from cnnengine.kernels.spec import Conv2d
from cnnengine.kernels.tiling import Machine, Problem

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.kernels.triton import choose, gpu, tiles

H100 = Machine(90, "NVIDIA H100", "triton 3.9")
SAME = Conv2d(padding=(1, 1, 1, 1))
PROBLEM = Problem(
    "triton", "conv2d", "implicit-gemm", "bfloat16", (64, 56, 56, 256), (256, 3, 3, 256), SAME
)
PRODUCTS = (64 * 56 * 56, 256, 1)
RULE = tiles.product_tile(64 * 56 * 56, 256, 256, "bfloat16")
TILE = {"rows": 128, "columns": 256, "depth": 64, "group": 8, "warps": 8, "stages": 3}
MEASURED = {
    "kind": "measured", "device": "NVIDIA H100", "driver": "570.1", "cuda": "12.8",
    "compiler": "triton 3.9", "date": "2026-11-23", "commit": "abc", "median_us": 9.0,
    "rule_us": 10.0,
}  # fmt: skip


def entry(problem=PROBLEM, tile=TILE, **provenance):
    return tiling.Entry(problem, tile, {**MEASURED, **provenance}).as_json()


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Writes a table: tables("user" or "committed", content)."""
    monkeypatch.setattr(tiles, "machine", lambda: H100)
    folders = {name: tmp_path / name for name in ("committed", "user")}
    for folder in folders.values():
        folder.mkdir()

    def write(which, *entries, content=None, format=tiling.FORMAT):
        told = content or json.dumps({"format": format, "entries": list(entries)})
        (folders[which] / "sm_90.json").write_text(told)
        tiling.forget()

    with tiling.using(**folders):
        yield write


def picked(problem=PROBLEM, products=PRODUCTS, rule=RULE):
    return tiles.pick(problem, products, 132, rule)


def test_pick__without_a_table_is_the_rule(tables):
    assert picked() == (RULE, "tile: rule, not in the table of sm_90")


def test_pick__of_an_unknown_architecture_is_the_rule(tables, monkeypatch):
    tables("committed", entry())
    monkeypatch.setattr(tiles, "machine", lambda: Machine(0, "", "triton 3.9"))
    assert picked() == (RULE, "tile: rule")


def test_pick__takes_the_entry_of_the_problem(tables):
    tables("committed", entry())
    assert picked() == (tiles.Tile(**TILE), "tile: table sm_90, measured 2026-11-23")
    tables("committed", {**entry(), "provenance": {"kind": "modelled", "model": "a guess"}})
    assert picked()[1] == "tile: table sm_90, modelled"


@pytest.mark.parametrize(
    "other",
    [
        replace(PROBLEM, function="conv2d_dgrad"),
        replace(PROBLEM, dtype="float16"),
        replace(PROBLEM, algorithm="halo"),
        replace(PROBLEM, op=replace(SAME, stride=(2, 2))),
        replace(PROBLEM, w=(128, 3, 3, 256)),
        replace(PROBLEM, x=(64, 28, 28, 256)),
    ],
)
def test_pick__takes_no_entry_of_another_problem(tables, other):
    tables("committed", entry(other))
    assert picked()[0] == RULE


def test_pick__tells_precisions_of_float32_apart(tables):
    precise = replace(PROBLEM, dtype="float32", op=replace(SAME, precision="tf32x3"))
    tile = {**TILE, "depth": 32}
    tables("committed", entry(precise, tile))
    assert picked(precise)[0] == tiles.Tile(**tile)
    assert picked(replace(precise, op=SAME))[0] == RULE
    assert picked(replace(PROBLEM, op=replace(SAME, precision="tf32x3")))[0] == RULE
    tables("committed", entry())  # 16-bit numbers have one precision
    assert picked(replace(PROBLEM, op=replace(SAME, precision="tf32x3")))[0] == tiles.Tile(**TILE)


def test_pick__takes_a_near_entry_if_it_keeps_the_processors_busy(tables):
    tables("committed", entry())
    near = replace(PROBLEM, x=(32, 50, 60, 256))
    tile, told = picked(near, (32 * 50 * 60, 256, 1))
    assert tile == tiles.Tile(**TILE)
    assert told == "tile: table sm_90, measured 2026-11-23, of the near 64x56x56x256"
    small = replace(RULE, rows=64, columns=32)
    assert picked(replace(near, x=(1, 50, 60, 256)), (3000, 256, 1), small)[0] == small


def test_pick__takes_the_nearest_entry(tables):
    batches = [entry(replace(PROBLEM, x=(n, 56, 56, 256)), {**TILE, "group": n}) for n in (4, 16)]
    tables("committed", *batches)
    for batch, group in ((5, 4), (16, 16), (60, 16)):
        assert picked(replace(PROBLEM, x=(batch, 56, 56, 256)))[0].group == group


@pytest.mark.parametrize(
    ("mine", "wins"),
    [
        ({}, True),
        ({"date": "2026-11-24"}, True),
        ({"date": "2026-11-22"}, False),
        ({"device": "NVIDIA H200"}, False),
        ({"compiler": "triton 3.6"}, False),
    ],
)
def test_pick__prefers_the_user_s_own_measurement(tables, mine, wins):
    tables("committed", entry())
    tables("user", entry(tile={**TILE, "stages": 2}, **mine))
    tile, told = picked()
    assert tile.stages == (2 if wins else 3)
    assert told.startswith("tile: your table sm_90" if wins else "tile: table sm_90")


def test_pick__prefers_an_exact_entry_to_the_user_s_near_one(tables):
    tables("committed", entry())
    tables("user", entry(replace(PROBLEM, x=(60, 56, 56, 256)), {**TILE, "stages": 2}))
    assert picked()[0].stages == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "it is damaged"),
        ("[]", "it is damaged"),
        ('{"format": 1}', "it is damaged"),
        ('{"format": 2, "entries": []}', "its format is 2, this version reads 1"),
        ('{"format": 1, "entries": [3]}', "entry 1: unknown or missing keys"),
    ],
)
@pytest.mark.parametrize("which", ["committed", "user"])
def test_pick__warns_once_of_a_damaged_table(tables, content, told, which):
    tables(which, content=content)
    with pytest.warns(UserWarning, match=told) as caught:
        tile, _ = picked()
    assert tile == RULE
    assert picked(replace(PROBLEM, dtype="float16"))[0] == RULE  # and no second warning
    assert len(caught) == 1
    assert f"{which}/sm_90.json: left out: " in str(caught[0].message)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"colour": "red"}, "unknown or missing keys"),
        ({"function": "relu"}, "no function 'relu' has tiles"),
        ({"x": [64, 256]}, "no problem: x"),
        ({"x": None}, "no problem"),
        ({"x": [64, 0, 56, 256]}, "no problem: x"),
        ({"op": {"stride": [0, 1]}}, "no problem: conv2d: stride"),
        ({"op": {"strides": [1, 1]}}, "no problem"),
        ({"provenance": {"kind": "measured"}}, "of no known kind, or not complete"),
        ({"provenance": {"kind": "guessed"}}, "of no known kind"),
        ({"provenance": 3}, "of no known kind"),
        ({"provenance": {"kind": ["rule"]}}, "of no known kind"),
        ({"provenance": {**MEASURED, "date": 20261123}}, "date must not be 20261123"),
        ({"provenance": {**MEASURED, "rule_us": None}}, "rule_us must not be None"),
        ({"dtype": "float64"}, "the kernels do not compute in float64"),
        ({"tile": {"rows": 64}}, "a tile has rows"),
        ({"tile": 3}, "a tile has rows"),
        ({"tile": {**TILE, "rows": 100}}, "rows must be a power of two from 16"),
        ({"tile": {**TILE, "depth": 8}}, "depth must be a power of two from 16"),
        ({"tile": {**TILE, "stages": "3"}}, "whole numbers from 1"),
        ({"tile": {**TILE, "stages": 9}}, "more than 16 warps, 8 stages"),
        ({"tile": {**TILE, "stages": 5}}, "245760 bytes of shared memory, more than 232448"),
        ({"tile": {**TILE, "warps": 4}}, "4 warps hold no 128 x 256 sums"),
    ],
)
def test_pick__leaves_out_a_wrong_entry_and_keeps_the_others(tables, change, told):
    good = replace(PROBLEM, dtype="float16")
    tables("user", {**entry(), **change}, entry(good))
    with pytest.warns(UserWarning, match=told):
        assert picked()[0] == RULE
    assert picked(good)[0] == tiles.Tile(**TILE)


def test_pick__passes_over_entries_of_other_backends(tables):
    tables("committed", {**entry(), "backend": "cupy", "tile": {"threads": 256}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picked()[0] == RULE


def test_trying__gives_its_tile_to_every_problem(tables):
    with tiling.trying(TILE):
        assert picked()[0] == tiles.Tile(**TILE)
    assert picked()[0] == RULE


def value(*shape, dtype="bfloat16"):
    return SimpleNamespace(shape=shape, dtype=dtype)


CALLS = {
    "conv2d": {"x": value(4, 28, 28, 64), "w": value(64, 3, 3, 64), "out": value(4, 28, 28, 64)},
    "conv2d_dgrad": {
        "dy": value(4, 28, 28, 64), "w": value(64, 3, 3, 64), "out": value(4, 28, 28, 64),
    },
    "conv2d_wgrad": {
        "x": value(4, 28, 28, 64), "dy": value(4, 28, 28, 64),
        "out": value(64, 3, 3, 64, dtype="float32"),
    },
    "conv2d_relu_pool": {
        "x": value(4, 28, 28, 64), "w": value(64, 3, 3, 64), "out": value(4, 14, 14, 64),
    },
    "dense": {"x": value(8, 512), "w": value(128, 512)},
    "dense_dgrad": {"dy": value(8, 128), "w": value(128, 512)},
    "dense_wgrad": {"x": value(8, 512), "dy": value(8, 128)},
}  # fmt: skip


@pytest.mark.parametrize("function", CALLS)
def test_choose__follows_the_table_and_says_so(tables, function):
    convolution = function.startswith("conv")
    x, w = ((4, 28, 28, 64), (64, 3, 3, 64)) if convolution else ((8, 512), (128, 512))
    algorithm = "implicit-gemm" if convolution else "tiled"
    op = SAME if convolution else None
    problem = Problem("triton", function, algorithm, "bfloat16", x, w, op)
    tile = {**TILE, "rows": 16, "columns": 32, "warps": 2}
    given = {**CALLS[function], **({"op": SAME} if convolution else {})}
    assert "not in the table of sm_90" in choose(function, given).reason
    tables("committed", entry(problem, tile))
    config = choose(function, given)
    assert tile.items() <= dict(config.tile).items()
    assert "tile: table sm_90, measured 2026-11-23" in config.reason


def test_recorded__tells_the_architecture():
    assert gpu.architecture() == 0
    with gpu.recorded(132, 90):
        assert (gpu.architecture(), gpu.multiprocessors(), gpu.device_name()) == (90, 132, "")
    assert gpu.architecture() == 0


def test_pick__does_not_read_tables_again(tables, monkeypatch):
    tables("committed", entry())
    picked()
    monkeypatch.setattr(tiling, "read", None)
    assert min(timeit.repeat(picked, number=100, repeat=5)) < 0.1  # a look-up, no file: < 1 ms


@pytest.mark.parametrize("file", sorted(tiling.committed_folder().glob("*.json")), ids=str)
def test_committed_tables__are_whole(file):
    architecture = int(file.stem.removeprefix("sm_"))
    check = tiles._impossible_on(architecture)
    entries, wrong = tiling.read(file, "triton", check)
    assert wrong == []
    problems = [found.problem for found in entries]
    assert len(problems) == len(set(problems))
