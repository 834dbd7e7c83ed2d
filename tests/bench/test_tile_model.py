"""The model of a tile's time, and how its entries enter the committed table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cnnengine.kernels import registry, tiling
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.bench import tile_model, tile_tables
from cnnengine.kernels.tiling import Asked, Entry, Problem
from cnnengine.kernels.triton.tiles import Tile

SAME = Conv2d(padding=(1, 1, 1, 1))
RULE, LARGE = Tile(128, 128, 64, 8, 8, 3), Tile(128, 256, 64, 8, 8, 3)


def asked(function="conv2d", x=(64, 56, 56, 256), w=(256, 3, 3, 256), count=1):
    problem = Problem("triton", function, "implicit-gemm", "bfloat16", x, w, SAME)
    return Asked(problem, (x[0] * x[1] * x[2], w[0], count), vars(RULE))


def test_clocks__of_one_round_by_hand():
    """128 x 128 x 64 products at 2048 a clock are 512; 32 KiB at 5120/132 bytes are 844.8."""
    one = asked(x=(1, 16, 8, 64), w=(128, 1, 1, 64))
    assert tile_model.clocks(RULE, one, 1) == pytest.approx(844.8)
    two = replace(one, products=(128 * 133, 128, 1))  # a second round for one program more
    assert tile_model.clocks(RULE, two, 1) == pytest.approx(2 * 844.8)


def test_clocks__like_large_tiles_of_deep_products_and_no_idle_processors():
    deep = asked()
    assert tile_model.clocks(LARGE, deep, 1) < 0.9 * tile_model.clocks(RULE, deep, 1)
    few = asked(x=(2, 56, 56, 256))  # 49 programs of 128 x 256, 98 of 128 x 128
    assert tile_model.clocks(LARGE, few, 1) > 0.9 * tile_model.clocks(RULE, few, 1)
    shallow = asked(w=(256, 1, 1, 64))
    assert tile_model.clocks(LARGE, shallow, 1) > 0.9 * tile_model.clocks(RULE, shallow, 1)


@pytest.mark.parametrize(
    ("function", "depth"),
    [("conv2d", 9 * 256), ("conv2d_dgrad", 9 * 256), ("conv2d_wgrad", 64 * 56 * 56)],
)
def test_depth__is_the_number_of_terms(function, depth):
    assert tile_model._depth(asked(function)) == depth


def test_replace_modelled__keeps_what_was_measured(tmp_path):
    measured = dict.fromkeys(tiling.MEASURED, "told") | {"kind": "measured"}
    first, second = asked().problem, asked(x=(8, 9, 9, 256)).problem
    table = [
        Entry(first, vars(RULE), {**measured, "median_us": 1.0, "rule_us": 2.0}).as_json(),
        Entry(second, vars(RULE), {"kind": "modelled", "model": "old"}).as_json(),
    ]
    (tmp_path / "sm_90.json").write_text(json.dumps({"format": 1, "entries": table}))
    new = [Entry(p, vars(LARGE), {"kind": "modelled", "model": "new"}) for p in (first, second)]
    with tiling.using(tmp_path, tmp_path / "user"):
        assert tile_tables.replace_modelled(90, new) == 2
    found = json.loads((tmp_path / "sm_90.json").read_text())["entries"]
    assert [entry["provenance"]["kind"] for entry in found] == ["measured", "modelled"]
    assert found[1]["tile"]["columns"] == 256


def test_main__compiles_nothing_in_the_interpreter(capsys):
    assert tile_model.main([]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().out
