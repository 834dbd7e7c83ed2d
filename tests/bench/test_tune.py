"""Tuning without a GPU: tiny layers in Triton's interpreter, with a watch and a clock of ours."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cnnengine.kernels import registry, spec, stopwatch, tiling
from cnnengine.kernels.spec import grid
from cnnengine.kernels.tiling import Machine

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.bench import machine, tile_tables, tune, tune_tasks
from cnnengine.bench.suites import HALVING, layer
from cnnengine.bench.verify import judge
from cnnengine.engine import compile, hardware
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import get_model
from cnnengine.engine.network import Description
from cnnengine.kernels.triton import conv, tiles

H100 = Machine(90, "NVIDIA H100", "triton 3.9")
FACTS = {"driver": "570.1", "cuda": "12.8", "commit": "abc"}
LAYERS = (layer(4, 16, 16, 1), layer(4, 16, 32, 1, pool=HALVING))
SPACE = ((64, 16, 16, 4, 2), (32, 16, 16, 4, 2))  # the rule's has 128 rows


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench in the interpreter whose watch likes tiles of few rows; its tables are its own."""
    monkeypatch.setattr(tiles, "machine", lambda: H100)
    monkeypatch.setattr(tiles, "SPACE", SPACE)
    monkeypatch.setattr(tiles, "GROUPS", (1,))
    monkeypatch.setattr(tune, "ROUNDS", 3)

    def watch(call):
        call()
        return float(call.keywords["config"]["rows"])

    with tiling.using(tmp_path / "committed", tmp_path / "user"):
        backend = registry.load("triton")
        yield tune.Bench(open_device("interpreter"), backend, H100, FACTS, watch)


@pytest.fixture
def quick(bench, monkeypatch):
    """The bench with a judge that believes and a watch that runs nothing."""
    passed = judge.Verdict("passed")
    monkeypatch.setattr(judge.Question, "judge", lambda *a, **k: passed)
    return replace(bench, watch=lambda call: float(call.keywords["config"]["rows"]))


def tasks(passes=("forward",), types=("fp32",), layers=LAYERS):
    return list(tune.layer_tasks(layers, passes, types, 8))


def entries():
    return json.loads((tiling.user_folder() / "sm_90.json").read_text())["entries"]


def test_run__keeps_the_best_tile_and_choose_follows_it(bench):
    (task,) = tasks(layers=LAYERS[:1])
    (row,) = tune.run([task], bench, 10)
    assert (row.state, row.tile["rows"]) == ("measured", 32)
    assert (row.median_us, row.rule_us) == (32.0, 128.0)
    assert row.timed == 3
    assert (row.wrong, row.failed) == ([], [])
    (entry,) = entries()
    assert entry["x"] == [8, 4, 4, 16]
    assert entry["provenance"].items() >= {"kind": "measured", "median_us": 32.0, **FACTS}.items()
    config = bench.backend.choose(task.function, task.arguments)
    assert config["rows"] == 32
    assert "tile: your table sm_90, measured" in config.reason


def test_run__tunes_every_pass_and_type(bench):
    made = tasks(tuple(tune.PASSES), ("bf16",), LAYERS[1:]) + tasks(types=("tf32x3",))
    rows = list(tune.run(made, replace(bench, watch=lambda call: 1.0), 10))
    assert [row.state for row in rows] == ["measured"] * len(made)
    told = {(entry["function"], entry["dtype"]) for entry in entries()}
    assert told == {("conv2d", "float32"), *((name, "bfloat16") for name in tune.PASSES.values())}
    assert {e["op"]["precision"] for e in entries() if e["dtype"] == "float32"} == {"tf32x3"}


def test_run__tunes_images_in_a_border_as_the_layout_pass_gives_them(bench, monkeypatch):
    """On a GPU with a copy engine that is how a network's convolutions run."""
    monkeypatch.setattr(tune_tasks, "LEAST_WIDTH", 4)
    same, strided, alone = layer(4, 16, 16, 3), layer(4, 16, 16, 3, stride=2), layer(4, 16, 16, 1)
    seen = []

    def watch(call):
        images = call.keywords.get("x", call.keywords.get("dy"))
        seen.append((call.func.__name__, grid.border(images), grid.border(call.keywords["out"])))
        call()
        return 1.0

    made = tasks(("forward", "dgrad"), ("bf16",), (same, strided, alone))
    told = [("in a border" in task.label, task.function) for task in made]
    functions = "conv2d", "conv2d_dgrad"
    assert told == [(bordered, f) for bordered in (True, False, False, False) for f in functions]
    rows = list(tune.run(made[:2], replace(bench, watch=watch), 10))
    assert [row.state for row in rows] == ["measured"] * 2
    assert {entry["algorithm"] for entry in entries()} == {"halo"}
    assert set(seen) == {(name, (1, 1), (1, 1)) for name in functions}


def test_run__refuses_a_candidate_that_is_wrong(bench, monkeypatch):
    honest = judge.Question.judge

    def suspicious(question, backend, config=None, device=None):
        verdict = honest(question, backend, config, device)
        wrong = config["rows"] == 32
        return replace(verdict, state="failed", told="out: off") if wrong else verdict

    monkeypatch.setattr(judge.Question, "judge", suspicious)
    (row,) = tune.run(tasks(layers=LAYERS[:1]), bench, 10)
    assert row.tile["rows"] == 64
    assert row.timed == 2
    assert row.wrong == ["rows=32 columns=16 depth=16 group=1 warps=4 stages=2: out: off"]


def test_run__refuses_a_kernel_that_is_wrong_with_one_tile(bench, monkeypatch):
    """The real judge finds the one number that such a tile spoils."""
    real = conv.conv2d.unchecked

    def spoiled(x, w, b, out, *, config=None, **rest):
        real(x, w, b, out, config=config, **rest)
        if config["rows"] == 32:
            out[-1, -1, -1, -1] += 1

    monkeypatch.setattr(conv, "conv2d", spec.implements(spec.conv2d)(spoiled))
    (row,) = tune.run(tasks(layers=LAYERS[:1]), bench, 10)
    assert row.tile["rows"] == 64
    assert len(row.wrong) == 1
    assert row.wrong[0].startswith("rows=32 ")


def test_run__enters_nothing_where_the_rule_s_own_tile_is_wrong(bench, monkeypatch):
    verdict = judge.Verdict("failed", told="raised OutOfResources: too much")
    monkeypatch.setattr(judge.Question, "judge", lambda *a, **k: verdict)
    rows = list(tune.run(tasks(), bench, 10))
    assert [row.state for row in rows] == ["refused", "refused"]
    assert "raised OutOfResources" in rows[0].failed[0]
    assert not tiling.user_folder().exists()


def test_run__that_was_interrupted_goes_on(quick):
    def stop_at_second(call):
        if call.keywords["out"].shape[-1] == 32:
            raise KeyboardInterrupt
        return 1.0

    rows = []
    with pytest.raises(KeyboardInterrupt):
        rows.extend(tune.run(tasks(), replace(quick, watch=stop_at_second), 10))
    assert len(entries()) == 1
    again = [row.state for row in tune.run(tasks(), quick, 10)]
    assert again == ["kept", "measured"]
    assert len(entries()) == 2
    other = replace(H100, compiler="triton 3.6")
    assert next(tune.run(tasks(), replace(quick, machine=other), 10)).state == "measured"
    assert len(entries()) == 3


def test_run__ends_when_the_time_is_over(quick):
    times = iter([0, 1, 2, 3, 4, *[61] * 9])
    rows = list(tune.run(tasks(), replace(quick, clock=lambda: next(times)), 1))
    assert [row.state for row in rows] == ["measured"]
    assert len(entries()) == 1


def test_run__passes_over_calls_without_a_tile(bench):
    made = {n: tune_tasks.Shape.make("float32", 4, 8) for n in ("x", "out")}
    wide = {n: tune_tasks.Shape.make("float64", 4, 8) for n in ("x", "out")}  # not this backend's
    found = [tune.Task(f"relu {i}", "relu", given) for i, given in enumerate((made, wide))]
    rows = list(tune.run(found, bench, 10))
    assert [(row.label, row.state) for row in rows] == [(f"relu {i}", "untiled") for i in (0, 1)]
    assert not tiling.user_folder().exists()


def test_on_cuda__tells_what_it_measures_on(bench, monkeypatch):
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: hardware.Driver("570.1", (12, 8), ()))
    monkeypatch.setattr(machine, "revision", lambda: None)
    monkeypatch.setattr(stopwatch, "Stopwatch", lambda: "watch")
    made = tune.on_cuda(bench.device)
    assert made.facts == {"driver": "570.1", "cuda": "12.8", "commit": "released"}
    assert (made.machine, made.watch, made.backend.name) == (H100, "watch", "triton")


def test_clear_damaged__puts_the_table_aside_and_tells(bench):
    assert tile_tables.clear_damaged(tile_tables.user_file(H100)) is None
    tiling.user_folder().mkdir()
    for content in ("{", '{"format": 99, "entries": []}'):
        file = tile_tables.user_file(H100)
        file.write_text(content)
        told = tile_tables.clear_damaged(file)
        assert "sm_90.json.damaged" in told
        assert not file.exists()
        assert (file.parent / "sm_90.json.damaged").read_text() == content


def test_run__does_not_overwrite_a_table_that_was_damaged_meanwhile(quick):
    def damage(call):
        tiling.user_folder().mkdir(exist_ok=True)
        tile_tables.user_file(H100).write_text("{")
        return 1.0

    with pytest.raises(InputError, match="sm_90.json: it is damaged .*; run again"):
        list(tune.run(tasks(), replace(quick, watch=damage), 10))
    assert tile_tables.user_file(H100).read_text() == "{"


def test_export__joins_the_repository_s_entries_and_mine(quick, tmp_path):
    rows = list(tune.run(tasks(), quick, 10))
    made = entries()
    tiling.committed_folder().mkdir()
    old = {**made[0], "provenance": {"kind": "modelled", "model": "a guess"}}
    other = {**made[0], "x": [1, 9, 9, 16], "provenance": {"kind": "rule"}}
    foreign = {**made[0], "backend": "cupy", "tile": {"threads": 128}}
    table = {"format": 1, "entries": [old, other, foreign]}
    (tiling.committed_folder() / "sm_90.json").write_text(json.dumps(table))
    count = tile_tables.export(tmp_path / "sm_90.json", H100, "triton", quick.impossible)
    found = json.loads((tmp_path / "sm_90.json").read_text())["entries"]
    assert count == len(found) == len(rows) + 2
    assert old not in found
    assert all(entry in found for entry in (*made, other, foreign))


def test_layer_tasks__refuse_what_they_do_not_know():
    with pytest.raises(InputError, match="unknown pass 'backward'"):
        tasks(passes=("backward",))
    with pytest.raises(InputError, match="unknown type 'bf17'.*bf16"):
        tasks(types=("bf17",))


def test_candidates__begin_with_the_rule_and_are_possible(bench, monkeypatch):
    monkeypatch.undo()
    large = layer(56, 256, 256)
    for task in tune.layer_tasks((large,), ("forward", "wgrad"), ("bf16", "fp32"), 64):
        with tiling.listening() as asked:
            bench.backend.choose(task.function, task.arguments)
        found = tiles.candidates(asked[0], 90)
        assert vars(found[0]) == asked[0].rule
        assert len(found) == len(set(found)) > 10
        dtype = asked[0].problem.dtype
        assert all(tiles.impossible(90, vars(tile), dtype) is None for tile in found)


def test_network_tasks__are_the_calls_of_its_step_once():
    steps = tune.network_steps("vgg-small", 4, ["bf16", "tf32x3"])
    found = list(tune.network_tasks(steps, ("triton",)))
    assert {task.function for task in found} == {
        "conv2d", "conv2d_relu_pool", "conv2d_dgrad", "conv2d_wgrad",
        "dense", "dense_dgrad", "dense_wgrad",
    }  # fmt: skip
    first = found[0].arguments["x"]
    assert (first.shape, first.dtype) == ((4, 28, 28, 1), "bfloat16")
    last = found[-1].arguments
    assert (last["x"].dtype, last["op"].precision) == ("float32", "tf32x3")
    assert len({f"{task.function} {task.arguments}" for task in found}) == len(found)


def test_network_tasks__lie_as_in_the_compiled_step(bench):
    """What is tuned is what a training step asks for: borders, algorithms and problems."""
    (step,) = tune.network_steps("vgg-small", 4, ["bf16"])
    model = get_model("vgg-small")
    classes = tuple(map(str, range(model.classes)))
    flat = (0.0,) * model.input_shape[2]
    description = Description("vgg-small", model.input_shape, classes, flat, flat, precision="bf16")
    graph = description.graph(4, training=True, products="ieee")
    *_, (_, final) = compile.stages(graph, bench.device, training=True)
    asked = {
        (n.op, n["out"].shape, n["out"].border, n.choice.config.algorithm)
        for n in final.nodes
        if n.op in tiling.FUNCTIONS
    }
    found = set()
    for task in tune.network_tasks([step], bench.device.backends):
        config = bench.backend.choose(task.function, task.arguments)
        out = task.arguments["out"]
        found.add((task.function, out.shape, out.border, config.algorithm))
        assert ("in a border" in task.label) >= any(out.border)
    assert found == asked
    assert {function for function, _, _, how in found if how == "halo"} >= {"conv2d_wgrad"}
    plain = list(tune.network_tasks([step], ()))
    assert not any("in a border" in task.label for task in plain)
