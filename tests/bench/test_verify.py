from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from cnnengine.bench.verify import (
    bounds,
    calls,
    devices,
    judge,
    reference,
    shapes,
    suite,
    tolerance,
)
from cnnengine.bench.verify.draw import Draw
from cnnengine.cli.main import main
from cnnengine.engine.device import numpy_dtype, open_device
from cnnengine.engine.errors import InputError
from cnnengine.kernels import registry, spec
from cnnengine.kernels.errors import ShapeError
from cnnengine.kernels.numpy import threads
from cnnengine.kernels.spec import Conv2d, MaxPool2d, grid

SMALL = suite.Suite("small", 3, 1, 5, 1e5, False)
SAME = Conv2d(padding=(1, 1, 1, 1))


class Broken(registry.Backend):
    """The NumPy backend with `damage(arguments)` after every kernel."""

    def __init__(self, damage, workspace_bytes=None):
        super().__init__("broken", registry.load("numpy").package)
        object.__setattr__(self, "damage", damage)
        object.__setattr__(self, "workspace_bytes", workspace_bytes)

    def function(self, name):
        kernel = super().function(name)

        def run(**arguments):
            kernel(**arguments)
            self.damage(arguments)

        run.unchecked = run
        return run

    def choose(self, name, arguments):
        if self.workspace_bytes is None:
            return super().choose(name, arguments)
        return spec.Config("numpy", workspace_bytes=self.workspace_bytes)


def conv_call(seed=5, kind="float32"):
    return calls.BUILDERS["conv2d"](
        Draw(seed, "a test", kind), shapes.Conv((2, 6, 5, 3), (4, 3, 3, 3), SAME)
    )


def pooled_call(x):
    out = judge.blank((1, 1, 1, 1), "float32")
    w = np.ones((1, 1, 1, 1), np.float32)
    given = {"x": np.array(x, np.float32).reshape(1, 2, 2, 1), "w": w, "b": None}
    outputs = {"out": out, "code": judge.blank(out.shape, "int8")}
    return {**given, **outputs, "op": Conv2d(), "pool": MaxPool2d((2, 2), (2, 2))}


def test_verify__knows_calls_and_bounds_of_every_contract_function():
    assert set(calls.BUILDERS) == set(spec.CONTRACTS)
    assert bounds.EXACT | set(bounds.RULES) == set(spec.CONTRACTS)
    assert not bounds.EXACT & set(bounds.RULES)


@pytest.mark.parametrize("function", spec.CONTRACTS)
def test_suite__numpy_passes(function):
    device = open_device("cpu", "numpy")
    rows = list(suite.run(device, [function], SMALL, 7))
    assert {row["state"] for row in rows} == {"passed"}, rows
    assert 3 <= len(rows) <= 4 or function.startswith(("batch_norm", "conv2d_relu_pool"))
    for row in rows:
        assert row["rms"] <= row["allowed"]
        assert row["backend"] == "numpy"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda a: a["out"].__setitem__((1, 2, 3, 0), 9.0), "out: relative RMS error"),
        (lambda a: a["out"].__setitem__((1, 5, 4, 3), np.nan), "NaN or infinity: 1 of"),
        (lambda a: a["x"].__setitem__((0, 0, 0, 0), 0.5), "wrote outside its outputs: x"),
        (lambda a: beside(a["out"], behind=True).fill(0), "wrote outside its outputs: out"),
        (lambda a: beside(a["w"], behind=False).fill(0), "wrote outside its outputs: w"),
        (lambda a: a["missing"], "raised KeyError: 'missing'"),
    ],
)
def test_judge__finds_damage(damage, told):
    verdict = judge.judge("conv2d", conv_call(), Broken(damage))
    assert verdict.state == "failed"
    assert not verdict.ok
    assert told in verdict.told


def beside(view, *, behind):
    """One element of the memory right before or behind an array."""
    start = view.ctypes.data
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    end = start + last + view.itemsize
    at = (end if behind else start - view.itemsize) - view.base.ctypes.data
    return np.ndarray((1,), view.dtype, view.base, at)


@pytest.mark.parametrize("function", spec.CONTRACTS)
def test_reference__loops_agree_with_numpy_in_float64(function):
    for number, (label, geometry) in enumerate(suite.geometries(function, SMALL, 11)):
        draw = Draw(number, label, ("float32", "bfloat16")[number % 2])
        if (given := calls.BUILDERS[function](draw, geometry)) is None:
            continue
        loops, numpys = reference.looped(function, given), reference._numpys(function, given)
        assert set(loops) >= {n for n, v in numpys.items() if v is not None}
        for name, values in loops.items():
            bound, expected = bounds.bounds(function, given)[name], numpys[name]
            if bound.exact:  # the loops of `cast` round, which others leave to the comparison
                kind = given[name].dtype
                told = tolerance.exact(values.astype(kind), expected.astype(kind))
            else:
                sizes = bound.reduction, bound.floor + 1e-3
                told = tolerance.deviation(values, expected, "float64", *sizes)
            assert told.wrong == "", (name, told.wrong)


def test_reference__numpy_is_not_its_own_judge(monkeypatch):
    """What is wrong with the NumPy backend is wrong in float64, too; the loops know better."""
    kernel = registry.load("numpy").function("avg_pool2d")
    right = kernel.unchecked

    def wrong(x, out, op):
        right(x, out, op=op)
        out *= 2

    monkeypatch.setattr(kernel, "unchecked", wrong)
    rows = list(suite.run(open_device("cpu", "numpy"), ["avg_pool2d"], SMALL, 1))
    assert {row["state"] for row in rows} == {"failed"}
    large = np.zeros((8, 64, 64, 3), np.float32)
    assert reference.steps("relu", {"x": large, "out": large}) > reference.STEPS


def swallow(a):
    """Make a ReLU's NaN what a maximum that ignores NaN makes of it."""
    if a.get("relu", "pool" in a):
        a["out"][np.isnan(a["out"])] = 0


def stop(a):
    """Take a mask's NaN for a value that stops the gradient."""
    for name in ("mask", "y"):
        if a.get(name) is not None and "dgamma" not in a:
            a["out"][np.isnan(a[name])] = 0


@pytest.mark.parametrize(
    ("function", "damage"),
    [
        *((name, swallow) for name in ("conv2d", "conv2d_relu_pool", "dense", "add")),
        *((name, swallow) for name in ("batch_norm_training", "batch_norm_inference")),
        *((name, stop) for name in ("conv2d_dgrad", "dense_dgrad", "relu_backward")),
    ],
)
def test_judge__finds_a_nan_that_is_lost(function, damage):
    states = {"right": set(), "wrong": set()}
    made = [g for g in shapes.NASTY[shapes.family(function)].values() if g.cost < SMALL.cost]
    for number, geometry in enumerate(4 * made):
        draw = Draw(number, "lost", "float32")
        if (given := calls.BUILDERS[function](draw, geometry)) is not None:
            for name, change in (("right", lambda a: None), ("wrong", damage)):
                states[name].add(judge.judge(function, given, Broken(change)).state)
    assert states == {"right": {"passed"}, "wrong": {"passed", "failed"}}


def test_judge__finds_runs_that_differ():
    turn = iter((1.0, 1.0 + 1e-6))

    def damage(arguments):
        arguments["out"] *= np.float32(next(turn))

    verdict = judge.judge("conv2d", conv_call(), Broken(damage))
    assert verdict.told == "out: two runs differ"


def test_judge__finds_bits_that_depend_on_the_number_of_threads():
    def damage(arguments):
        arguments["out"] *= np.float32(1 + 1e-6 * threads.get_threads())

    before = threads.get_threads()
    for count in (1, 2):
        threads.set_threads(count)
        verdict = judge.judge("conv2d", conv_call(), Broken(damage))
        assert verdict.told == "out: two runs differ"
        assert threads.get_threads() == count
    threads.set_threads(before)


def test_judge__finds_writes_behind_the_workspace():
    given = {"dy": np.ones((3, 4), np.float32), "out": judge.blank((4,), "float32")}

    def damage(arguments):
        if arguments.get("workspace") is not None:
            beside(arguments["workspace"], behind=True)[...] = 1

    assert judge.judge("bias_grad", given, Broken(lambda a: None, 8)).ok
    verdict = judge.judge("bias_grad", given, Broken(damage, 8))
    assert verdict.told == "wrote outside its outputs: the end of its workspace"


def test_judge__finds_filters_that_are_packed_wrong(monkeypatch):
    if (reason := registry.missing("native")) is not None:
        pytest.skip(f"backend native: {reason}")
    backend = registry.load("native")
    geometry = shapes.Conv((1, 6, 6, 32), (32, 3, 3, 32))
    given = calls.BUILDERS["conv2d"](Draw(0, "packed wrong", "float32"), geometry)
    assert judge.judge("conv2d", given, backend).state == "passed"
    right = registry.Backend.prepare

    def wrong(self, name, arguments):
        made = right(self, name, arguments)

        def pack(w, out):
            made.pack(w, out)
            out[:] = out[::-1].copy()

        return replace(made, pack=pack)

    monkeypatch.setattr(registry.Backend, "prepare", wrong)
    told = judge.judge("conv2d", given, backend)
    assert told.state == "failed"
    assert "out, filters packed once: " in told.told


def test_judge__passes_what_is_right_and_leaves_its_arguments_alone():
    given = conv_call()
    before = {n: v.tobytes() for n, v in given.items() if isinstance(v, np.ndarray)}
    verdict = judge.judge("conv2d", given, registry.load("numpy"))
    assert verdict.ok
    assert verdict.told == ""
    name, told = verdict.worst
    assert name == "out"
    assert 0 < told.rms < told.allowed == 2e-6
    assert before == {n: given[n].tobytes() for n in before}


def test_judge__runs_the_config_that_it_is_given():
    seen = []
    config = spec.Config("im2col", (("images", 1), ("rows", 2), ("workers", 1)), 1 << 20)
    given = conv_call()
    backend = Broken(lambda a: seen.append(a["config"]))
    verdict = judge.judge("conv2d", given, backend, config)
    assert verdict.config is config
    assert seen == [config, config]


def test_judge__in_place_and_pitched():
    wide = np.zeros((2, 3, 2, 9), np.float32)
    wide[..., 2:7] = np.random.default_rng(0).standard_normal((2, 3, 2, 5))
    given = {"x": wide[..., 2:7], "out": judge.blank((2, 5), "float32")}
    seen = []
    backend = Broken(lambda a: seen.append(a["x"].strides[2]))
    assert judge.judge("global_avg_pool2d", given, backend).ok
    assert seen == [36, 36]
    x = np.array([1.0, -1.0, np.nan], np.float32)
    seen.clear()
    backend = Broken(lambda a: seen.append(np.shares_memory(a["x"], a["out"])))
    assert judge.judge("relu", {"x": x, "out": x}, backend).ok
    assert seen == [True, True]


def bordered_call():
    draw, op = Draw(1, "a test", "float32"), SAME
    draw.chance = lambda probability: probability == 1 / 4  # borders, and nothing optional
    made = calls.BUILDERS["conv2d"](draw, shapes.Conv((2, 6, 5, 3), (4, 3, 3, 3), op))
    assert grid.border(made["x"]) == grid.border(made["out"]) >= (1, 1)
    return made


def test_judge__a_border_holds_zeros():
    seen = []
    given = bordered_call()
    keep = Broken(lambda a: seen.append((grid.border(a["x"]), grid.border(a["out"]))))
    assert judge.judge("conv2d", given, keep).ok
    assert seen == [(grid.border(given["x"]), grid.border(given["out"]))] * 2
    spoil = Broken(lambda a: beside(a["out"], behind=True).fill(1))
    told = judge.judge("conv2d", given, spoil).told
    assert told == "wrote outside its outputs: out, whose border must be zero"


def test_judge__codes_of_rounded_sums_count_by_the_value_they_point_at():
    numpy, x = registry.load("numpy"), [0.3, 0.3 + 1e-7, 0.1, -0.5]
    other = Broken(lambda a: a["code"].fill(0))  # 1e-7 less than the maximum: may round so
    assert judge.judge("conv2d_relu_pool", pooled_call(x), numpy).ok
    assert judge.judge("conv2d_relu_pool", pooled_call(x), other).ok
    for code in (2, 3, spec.DEAD, 7):
        wrong = Broken(lambda a, code=code: a["code"].fill(code))
        assert "code: " in judge.judge("conv2d_relu_pool", pooled_call(x), wrong).told
    tie = pooled_call([1, 1, 0, -1])  # sums are exact: the first maximum must be found
    assert judge.judge("conv2d_relu_pool", tie, numpy).ok
    second = Broken(lambda a: a["code"].fill(1))
    assert "code: 1 of 1 values differ" in judge.judge("conv2d_relu_pool", tie, second).told


def test_judge__a_refusal_is_told_and_the_answer_not_computed(monkeypatch):
    monkeypatch.setattr(judge, "reference", lambda *a: pytest.fail("not needed"))
    backend = Broken(lambda a: None)
    monkeypatch.setattr(backend.package, "supports", lambda *a: "has no time")
    verdict = judge.judge("conv2d", conv_call(), backend)
    assert (verdict.state, verdict.told, verdict.worst) == ("not taken", "has no time", None)


def test_question__refuses_what_the_contract_refuses():
    given = {"x": np.zeros(3, np.float32), "out": np.zeros(4, np.float32)}
    with pytest.raises(ShapeError, match=r"relu: out must be \(3,\)"):
        judge.Question("relu", given)


@pytest.mark.parametrize("kind", shapes.NASTY)
def test_real__tries_no_geometry_twice(kind):
    made = shapes.real(kind, 2, 224)
    assert len(made) == len(set(made.values())) > 0


def test_run__is_named_by_its_seed():
    def inputs(seed):
        given = conv_call(seed)
        return given["x"].tobytes()

    assert inputs(1) == inputs(1) != inputs(2)
    labels = [tuple(label for label, _ in suite.geometries("conv2d", SMALL, s)) for s in (1, 1, 2)]
    assert labels[0] == labels[1] != labels[2]


def test_run__tells_what_time_did_not_allow():
    device = open_device("cpu", "numpy")
    left = iter((1.0, 1.0, 0.0, 0.0))
    rows = list(suite.run(device, ["relu", "add"], SMALL, 1, until=lambda: next(left)))
    assert [row["state"] for row in rows] == ["passed"] * 2 + ["not reached"] * 2
    assert suite.summary(rows)["not reached"] == 2
    assert suite.refusals(rows) == [("-", "the time is over", ["relu", "add"], 2)]


def test_run__a_function_without_a_call_fails(monkeypatch):
    monkeypatch.delitem(calls.BUILDERS, "relu")
    (row,) = suite.run(open_device("cpu", "numpy"), ["relu"], SMALL, 1)
    assert (row["state"], row["told"]) == ("failed", "verify knows no call of it")


WAYS = {  # (function, algorithm, whether its sums are split) that every quick run takes
    "triton": {
        *((name, "implicit-gemm", split) for name in suite.PRODUCTS[:3] for split in (0, 1)),
        ("conv2d_relu_pool", "implicit-gemm", 0),
        *((name, "halo", 0) for name in suite.PRODUCTS[:3]),
        *((name, "depthwise", 0) for name in suite.PRODUCTS[:3]),
        ("conv2d_wgrad", "halo", 1),
        ("conv2d_wgrad", "depthwise", 1),
    },
    "cupy": {
        *((name, kind, 0) for name in suite.PRODUCTS for kind in ("direct", "mma")),
        *(("conv2d_wgrad", kind, 1) for kind in ("direct", "mma")),
    },
}
BOTH = {
    *((f"dense{of}", "tiled", split) for of in ("", "_dgrad", "_wgrad") for split in (0, 1)),
    ("bias_grad", "split sums", 1),
}  # fmt: skip


def taken(backend, function, seed):
    """The ways that a backend takes in a quick run without a GPU."""
    for label, geometry, kinds in suite.calls(function, suite.INTERPRETED["quick"], seed, "gpu"):
        for kind in kinds:
            given = calls.BUILDERS[function](Draw(seed, f"{function}/{label}", kind), geometry)
            if given is not None and backend.supports(function, given) is None:
                with backend.pretended(shapes.aim(geometry).processors):
                    config = backend.choose(function, given)
                yield function, config.algorithm, int(dict(config.tile).get("splits", 1) > 1)
                break


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("seed", [0, 3])
def test_quick__takes_every_way_of_a_gpu_backend(name, seed):
    if (reason := registry.missing(name)) is not None:
        pytest.skip(f"backend {name}: {reason}")
    backend = registry.load(name)
    wanted = WAYS[name] | BOTH
    if name == "triton":
        wanted = wanted | {("reduce_sum", "splits", 1)}
    found = {way for f in {f for f, _, _ in wanted} for way in taken(backend, f, seed)}
    assert not wanted - found


@pytest.mark.parametrize("function", ["conv2d", "conv2d_wgrad", "dense", "relu"])
def test_geometries__of_few_the_aimed_ones_come_first(function):
    few = suite.Suite("few", 2, 0, 5, 3e7, False)
    family = shapes.NASTY[shapes.family(function)].values()
    aimed = [g for g in family if function in shapes.aim(g).functions]
    for seed in range(3):
        made = suite.geometries(function, replace(few, aimed_first=True), seed)
        assert [g in aimed for _, g in made] == [i < len(aimed) for i in range(2)]
    drawn = [suite.geometries(function, few, seed) for seed in range(30)]
    assert any(g not in aimed for made in drawn for _, g in made)


@pytest.mark.parametrize("name", WAYS)
def test_pretended__splits_sums_as_a_larger_gpu_does(name):
    if (reason := registry.missing(name)) is not None:
        pytest.skip(f"backend {name}: {reason}")
    backend, geometry = registry.load(name), shapes.NASTY["conv"]["many pixels"]
    given = calls.BUILDERS["conv2d_wgrad"](Draw(0, "a test", "bfloat16"), geometry)

    def splits():
        return backend.choose("conv2d_wgrad", given)["splits"]

    alone = splits()
    with pytest.raises(InputError), backend.pretended(shapes.aim(geometry).processors):
        assert splits() > alone
        raise InputError("as where a call fails")
    assert splits() == alone


@pytest.mark.parametrize(
    ("function", "label", "module", "name"),
    [
        ("conv2d", "261 channels", "conv_forward", "finish"),
        ("conv2d_dgrad", "131 filters", "conv_dgrad", "finish"),
        ("conv2d_wgrad", "many pixels, bordered", "conv_halo_wgrad", "add_in_order"),
        ("conv2d_wgrad", "many pixels, depthwise", "conv_wgrad", "add_in_order"),
    ],
)
def test_run__finds_a_part_of_a_sum_that_is_left_out(function, label, module, name, monkeypatch):
    if (reason := registry.missing("triton")) is not None:
        pytest.skip(f"backend triton: {reason}")
    backend, geometry = registry.load("triton"), shapes.NASTY["conv"][label]
    module = importlib.import_module(f"cnnengine.kernels.triton.{module}")
    right = getattr(module, name)

    def wrong(parts, *given, **options):
        if name == "finish":
            return right(parts, given[0] - 1, *given[1:], **options)
        return right(parts, given[0], given[1] - 1)

    kind = (shapes.aim(geometry).kinds or ("float16",))[0]
    given = calls.BUILDERS[function](Draw(1, "a test", kind), geometry)
    question = judge.Question(function, given)
    with backend.pretended(shapes.aim(geometry).processors):
        assert question.judge(backend).ok
        monkeypatch.setattr(module, name, wrong)
        verdict = question.judge(backend)
    assert verdict.state == "failed"
    assert "out: relative RMS error" in verdict.told


def test_aim__says_who_is_tried_and_in_which_types(monkeypatch):
    aim = shapes.Aim(("conv2d",), ("tf32", "float16"))
    made = {"aimed": shapes.Conv((1, 2, 2, 1), (1, 1, 1, 1), aim=aim)}
    monkeypatch.setitem(shapes.NASTY, "conv", made)
    quick = suite.SUITES["quick"]
    tried = [next(suite.calls("conv2d", quick, seed, "cuda")) for seed in (0, 1)]
    assert [kinds for _, _, kinds in tried] == [("float16", "tf32"), ("tf32", "float16")]
    (first, *_) = suite.calls("conv2d", quick, 0, "cpu")
    assert first[2] == ("float16",)
    assert "aimed" not in [label for label, _, _ in suite.calls("conv2d_dgrad", quick, 0, "cuda")]
    given = calls.BUILDERS["conv2d"](Draw(0, "a test", "tf32"), made["aimed"])
    assert given["relu"]
    assert given["b"] is not None
    assert given["residual"] is not None


def test_full__tries_every_type_and_every_layer():
    full = suite.get_suite("full", "cpu")
    labels = [label for label, _ in suite.geometries("conv2d", full, 1)]
    layers = sum(len(s.layers) for s in suite.shapes.SUITES.values())
    nasty = [
        n for n, g in shapes.NASTY["conv"].items() if "conv2d" in (g.aim.functions or "conv2d")
    ]
    assert len(labels) == len(nasty) + layers
    device = open_device("cpu", "numpy")
    every = suite.Suite("every", 2, 0, 5, 1e5, True)
    rows = list(suite.run(device, ["relu"], every, 1))
    assert [row["kind"] for row in rows[:3]] == ["float16", "bfloat16", "float32"]
    assert len(rows) == 6


def test_kinds_of__precisions_are_those_of_products_on_a_gpu():
    assert suite.kinds_of("conv2d", "cpu") == suite.KINDS
    assert suite.kinds_of("conv2d", "cuda")[3:] == ("tf32x3", "tf32")
    assert suite.kinds_of("relu", "cuda") == suite.KINDS
    made = conv_call(kind="tf32")
    assert made["op"].precision == "tf32"
    assert bounds.row("conv2d", made, "out", bounds.Bound()) == "tf32"


def test_allowed__long_sums_lose_as_the_root_of_their_length():
    assert tolerance.allowed("float32", 1024) == 2e-6
    assert tolerance.allowed("float32", 1025) == 2e-5
    assert tolerance.allowed("float32", 4 << 20) == pytest.approx(4e-5)
    with pytest.raises(KeyError, match="no tolerance for float8"):
        tolerance.allowed("float8")


def test_deviation__counts_units_of_the_last_place():
    expected = np.array([1.0, 4.0, 0.0])
    actual = expected + np.array([2.0**-23, -(2.0**-21), 0.0])
    told = tolerance.deviation(actual, expected, "float32", floor=1.0)
    assert told.wrong == ""
    assert told.ulps == pytest.approx(1.0)
    assert tolerance.deviation(actual[:2], expected, "float32").rms == np.inf


def cut_off(values):
    """float32 to bfloat16 without rounding."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_deviation__sixteen_bits_are_rounded_once(kind):
    rng = np.random.default_rng(3)
    values = rng.standard_normal((40, 50, 64)).astype(np.float32)
    sums, to = values.sum(-1), numpy_dtype(kind)
    exact, floor = values.sum(-1, dtype=np.float64), 8.0
    once = sums.astype(to)
    assert tolerance.deviation(once, exact, kind, 64, floor).wrong == ""
    in_parts = values.astype(to).reshape(40, 50, 8, 8).sum(-1).astype(to).sum(-1).astype(to)
    cut = cut_off(sums).astype(to) if kind == "bfloat16" else np.nextafter(once, to.type(0))
    for wrong in (in_parts, cut):
        told = tolerance.deviation(wrong, exact, kind, 64, floor)
        assert told.rms < told.allowed  # the table alone would let it pass
        assert f"of 2000 values are not float32 sums rounded once to {kind}" in told.wrong
    tiny = np.array([2.0**-24, 2.0**-133, 0.0]).astype(to)
    assert tolerance.deviation(tiny, tiny.astype(np.float64), kind).wrong == ""


@pytest.fixture
def verify(monkeypatch, capsys):
    """Run `cnnengine verify …`: (exit code, stdout, stderr)."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", *arguments])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture
def small(monkeypatch):
    """A quick suite of three calls for each function."""
    monkeypatch.setitem(suite.SUITES, "quick", SMALL)


def test_verify__prints_the_worst_call_of_every_op(verify, small):
    ops = ("--ops", "loss, relu", "--seed", "3", "--kernels", "numpy")
    code, out, err = verify("--device", "cpu", *ops)
    assert code == 0
    first = [line.split()[0] for line in out.splitlines()[2:]]
    assert first == ["relu", "softmax_cross_entropy"]
    assert "passed (4)" in out
    assert "8 calls passed, 0 failed" in err
    assert "--seed 3" in err


def test_verify__lists_every_call_when_asked(verify, small):
    ops = ("--ops", "relu", "--seed", "3", "--kernels", "numpy")
    code, out, _ = verify("--device", "cpu", *ops, "--all")
    assert code == 0
    assert len(out.splitlines()) == 2 + 4


def test_verify__json_holds_all_rows(verify, small):
    code, out, _ = verify("--device", "cpu", "--ops", "dense", "--json", "--kernels", "numpy")
    told = json.loads(out)
    assert code == 0
    assert told["counts"] == {"passed": 3, "failed": 0, "not taken": 0, "not reached": 0}
    assert len(told["rows"]) == 3
    assert told["machine"]["cpu"]
    assert told["ops"] == ["dense", "dense_dgrad", "dense_wgrad", "bias_grad"][: len(told["ops"])]
    assert told["created"].endswith("+00:00")
    assert told["rows"][0]["shapes"]["x"]
    assert {"rms", "ulps", "allowed", "tile", "seconds"} <= set(told["rows"][0])


def test_verify__tells_what_was_not_taken(verify, small, monkeypatch):
    package = registry.load("numpy").package
    monkeypatch.setattr(package, "supports", lambda name, a: f"has no {name}")
    code, _, err = verify("--device", "cpu", "--kernels", "numpy", "--ops", "relu,add")
    assert code == 1
    assert "not taken by numpy, 24 calls of relu, add: has none" in err
    assert "0 calls passed, 0 failed, 24 not taken; nothing was verified" in err


def test_verify__stops_in_time_and_tells_what_it_left(verify, small):
    code, _, err = verify("--device", "cpu", "--ops", "relu,add", "--minutes", "1e-9")
    assert code == 1
    assert "not reached, the time is over: relu, add" in err
    told = "0 calls passed, 0 failed, 2 functions not reached or not to the end"
    assert f"{told}; nothing was verified" in err


def test_verify__a_wrong_kernel_ends_with_one(verify, small, monkeypatch):
    function = registry.load("numpy").function("relu")

    def wrong(x, out):
        out[...] = x

    monkeypatch.setattr(function, "unchecked", wrong)
    code, out, err = verify(
        "--device", "cpu", "--kernels", "numpy", "--ops", "relu,add", "--seed", "2"
    )
    assert code == 1
    assert "FAILED relu [" in err
    assert "FAILED 4 of 4" in next(line for line in out.splitlines() if line.startswith("relu"))
    assert "4 calls passed, 4 failed" in err
    assert err.splitlines()[-1] == "--ops relu --seed 2 repeats what failed"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--ops", "conv2"), "unknown op 'conv2' (did you mean conv2d"),
        (("--ops", "conv2d,,pool"), "--ops 'conv2d,,pool': a name is missing"),
        (("--minutes", "nan"), "--minutes nan: must be a number of minutes"),
        (("--suite", "quik"), "unknown suite 'quik' (did you mean quick?)"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--kernels", "numpi"), "unknown kernels 'numpi' (did you mean numpy?)"),
        (("--device", "cpu", "--kernels", "triton"), "--kernels triton: "),
    ],
)
def test_verify__wrong_words_end_in_one_line(verify, arguments, told):
    code, out, err = verify(*arguments)
    assert code == 2
    assert out == ""
    assert told in err.splitlines()[-1]


def test_verify__without_a_gpu_ends_in_one_line(verify):
    try:
        open_device("cuda")
    except InputError:
        code, out, err = verify("--device", "cuda")
        assert (code, out) == (2, "")
        assert err.startswith("cnnengine: error: ")
        assert err.count("\n") == 1
    else:
        pytest.skip("a GPU is here")


def test_verify__runs_the_gpu_kernels_in_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if (reason := registry.missing("triton")) is not None:
        pytest.skip(f"backend triton: {reason}")
    arguments = ["verify", "--device", "interpreter", "--ops", "relu,bias_grad", "--seed", "1"]
    code = f"from cnnengine.cli.main import main; main({arguments!r})"
    monkeypatch.delenv("TRITON_INTERPRET")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "23 calls passed, 0 failed" in done.stderr
    assert "triton" in done.stdout


def test_open_for_verify__takes_one_backend():
    assert devices.open_for_verify("cpu", "numpy").backends == ("numpy",)
    with contextlib.suppress(InputError):  # where it was not compiled
        assert devices.open_for_verify("cpu", "native").backends == ("native",)


def _cut(array):
    """Factors as tensor cores take float32 for TF32: without their last 13 bits, not rounded."""
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 9, 2), (3, 27, 5), (32, 576, 32)])
def test_tolerance__of_tf32_takes_factors_that_are_cut(sizes):
    rows, depth, columns = sizes
    rng = np.random.default_rng(0)
    for _ in range(50):
        a = rng.standard_normal((rows, depth), np.float32)
        b = rng.standard_normal((depth, columns), np.float32)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        told = tolerance.deviation(_cut(a) @ _cut(b), exact, "tf32", depth, np.sqrt(depth))
        assert told.wrong == ""
