from __future__ import annotations

import itertools
import json
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from cnnengine.bench import (
    acceptance,
    accuracy,
    apart,
    kernels,
    network,
    program,
    short_table,
    suites,
    work,
)
from cnnengine.bench.log import Log
from cnnengine.bench.verify import suite
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.kernels import registry

TINY = program.Program(
    ("odd",), ("forward+relu", "max_pool"), (1,), ("fp32",), (("lenet", 2, "fp32"),), ("lenet", 2)
)
NAMES = ("log.jsonl", "report.html", "results.jsonl", "table.txt")


@pytest.fixture
def small(monkeypatch):
    """Two functions to verify, a few small calls of each, and the two first layers of `odd`."""
    monkeypatch.setitem(suite.SUITES, "quick", suite.Suite("quick", None, 6, 5, 1e5, False))
    monkeypatch.setattr(acceptance, "BRIEF", {"nasty": 2, "real": 0})
    monkeypatch.setattr(suite, "pick_functions", lambda wanted: ("relu", "conv2d"))
    short = suites.Suite("odd", 1, suites.get_suite("odd").layers[:2])
    monkeypatch.setitem(suites.SUITES, "odd", short)
    monkeypatch.setattr(accuracy, "STEPS", 3)


def make(folder, said, clock=lambda: 0.0, plan=TINY):
    device = open_device("cpu", "numpy")
    made = acceptance.Acceptance(device, folder, 1.0, plan, said.append, clock)
    made.seconds, made.against = 0.001, False
    return made


def test_run__writes_everything_and_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    said = []
    assert make(tmp_path / "out", said).run() == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == list(NAMES)
    table = (tmp_path / "out" / "table.txt").read_text()
    assert table.startswith("verify: 4 passed, 0 failed\n")
    assert "lenet/train/batch 2: train" in table
    assert "training lenet: 3 losses within 0.0e+00 of the CPU's" in table
    assert re.search(r"\nenergy: ceilings [\d.e-]+ Wh \(\w+\), verify .*, training .* Wh", table)
    kinds = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [told["kind"] for told in kinds] == ["kernels", "network"]
    assert len(kinds[0]["rows"]) == 3
    assert kinds[0]["ceilings"]["copy"] > 0
    log = (tmp_path / "out" / "log.jsonl").read_text()

    def again(*_, **__):
        pytest.fail("measured again")

    monkeypatch.setattr(kernels, "measure_row", again)
    monkeypatch.setattr(network, "run", again)
    assert make(tmp_path / "out", said).run() == 0
    assert (tmp_path / "out" / "log.jsonl").read_text() == log
    assert (tmp_path / "out" / "table.txt").read_text() == table


def test_run__time_is_over_and_the_next_run_does_the_rest(small, tmp_path):
    said = []
    ticks = itertools.chain((0, 12, 24, 36), itertools.count(60))  # seconds, look by look
    alone = replace(TINY, networks=())
    assert make(tmp_path / "out", said, lambda: float(next(ticks)), alone).run() == 0
    assert "kernels: the time is over" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == list(NAMES)
    rows = Log(tmp_path / "out", json.loads(first_line(tmp_path))["told"]).told("kernels")
    assert len(rows) < 3
    told = (tmp_path / "out" / "table.txt").read_text()
    assert "verify: 0 passed, 0 failed, 2 functions not reached\n" in told
    assert f"kernels: {len(rows)} of 3 rows\n" in told
    assert "training lenet: not reached\n" in told
    make(tmp_path / "out", said, plan=alone).run()
    rows = Log(tmp_path / "out", json.loads(first_line(tmp_path))["told"]).told("kernels")
    assert len(rows) == 3
    told = (tmp_path / "out" / "table.txt").read_text()
    assert told.startswith("verify: 4 passed, 0 failed\n")


def first_line(tmp_path):
    return (tmp_path / "out" / "log.jsonl").read_text().splitlines()[0]


def test_run__wrong_kernels_end_with_one(small, tmp_path, monkeypatch):
    function = registry.load("numpy").function("conv2d")
    right = function.unchecked

    def wrong(*args, **arguments):
        right(*args, **arguments)
        if arguments["out"].dtype != np.float64:
            arguments["out"][...] = 0

    monkeypatch.setattr(function, "unchecked", wrong)
    said = []
    made = make(tmp_path / "out", said)
    for stage in (made.ceilings, lambda: made.verify(1.0), lambda: made.kernels(1.0)):
        stage()
    assert made.finish() == 1
    table = (tmp_path / "out" / "table.txt").read_text()
    assert "failed WRONG" in table
    assert "3x3/forward+relu/batch 1: WRONG numpy: relative RMS error" in table


def test_run__what_raises_is_told_and_the_rest_is_measured(small, tmp_path, monkeypatch):
    measure = kernels.measure_row

    def fail(*given, **told):
        if given[1].name == "max_pool":
            raise ValueError("no such kernel\nlong story")
        return measure(*given, **told)

    def die(*_):
        raise MemoryError("nothing left")

    monkeypatch.setattr(kernels, "measure_row", fail)
    monkeypatch.setattr(network, "make_setting", die)
    assert make(tmp_path / "out", []).run() == 1
    table = (tmp_path / "out" / "table.txt").read_text()
    assert "max_pool/batch 1: WRONG raised ValueError: no such kernel\n" in table
    assert "lenet/infer/batch 2: WRONG raised MemoryError: nothing left\n" in table
    assert "training lenet: raised MemoryError: nothing left WRONG\n" in table
    result = json.loads((tmp_path / "out/results.jsonl").read_text().splitlines()[0])
    assert {row["pass"]: bool(row.get("ours")) for row in result["rows"]} == {
        "forward+relu": True, "max_pool": False
    }  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == list(NAMES)


def test_run__ended_from_outside_leaves_what_is_known(small, tmp_path, monkeypatch):
    def end():
        raise KeyboardInterrupt

    made = make(tmp_path / "out", [], plan=replace(TINY, networks=()))
    monkeypatch.setattr(made, "training", end)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == list(NAMES)
    assert "kernels: 3 of 3 rows\n" in (tmp_path / "out" / "table.txt").read_text()


def test_table__names_the_networks_that_were_not_reached(small, tmp_path):
    made = make(tmp_path / "out", [])
    made.ceilings()
    made.finish()
    table = (tmp_path / "out" / "table.txt").read_text()
    assert table.splitlines()[1:4] == [
        "kernels: 0 of 3 rows", "lenet/batch 2/fp32: not reached", "training lenet: not reached"
    ]  # fmt: skip


def test_table__tells_speeds_beside_the_other_side(tmp_path):
    log = Log(tmp_path, {})
    for key, ratio in (("a", 2.0), ("b", 0.5)):
        log.add("kernels", key, {"key": key, "pass": "dgrad", "ratio": ratio, "failed": []})
    row = {"key": "lenet/train", "mode": "train", "ours": 1.0, "images_per_second": 8.0,
           "ratio": 1.25, "failed": []}  # fmt: skip
    log.add("networks", "lenet/batch 2/fp32", [row])
    told = list(short_table.lines(log, TINY))
    assert "dgrad: ours vs. the best of torch: geometric mean 1.00x, from 0.50x to 2.00x" in told[2]
    assert "lenet/train: train 8 images/s (1.25x)" in told


TRAINED = {"arch": "lenet", "epochs": 1, "images": 60, "batch_size": 20, "shift": 0}


def test_accuracy__stands_beside_what_the_cpu_reached(small, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "of_the_cpu", lambda config: 0.125)
    plan = replace(TINY, networks=(), accuracy=(accuracy.MINI,))
    said = []
    made = make(tmp_path / "out", said, plan=plan)
    made.settings = TRAINED
    made.ceilings()
    made.accuracy()
    assert made.finish() == 0
    row = made.log.told("accuracy")[accuracy.MINI]
    assert 0 <= row["accuracy"] <= 1
    assert (row["cpu_accuracy"], row["epochs"], row["device"]) == (0.125, 1, "cpu")
    told = (tmp_path / "out" / "table.txt").read_text()
    line = (
        f"accuracy/lenet/{accuracy.MINI}: {row['accuracy']:.2%} on the test images after 1 epochs"
    )
    assert f"{line}, the CPU 12.50%\n" in told
    (result,) = (tmp_path / "out/results.jsonl").read_text().splitlines()
    assert (json.loads(result)["kind"], json.loads(result)["rows"]) == ("accuracy", [row])
    assert "12.50%" in (tmp_path / "out" / "report.html").read_text()

    def again(*_):
        pytest.fail("trained again")

    monkeypatch.setattr(accuracy, "train", again)
    made.accuracy()


def test_accuracy__cut_by_the_time_begins_anew(small, tmp_path):
    plan = replace(TINY, networks=(), accuracy=(accuracy.MINI,))
    said = []
    ticks = itertools.chain((0.0, 1.0), itertools.repeat(60.0))
    made = make(tmp_path / "out", said, lambda: next(ticks), plan)
    made.settings = TRAINED
    made.ceilings()
    made.accuracy()
    assert made.log.told("accuracy") == {}
    assert said == [f"accuracy on {accuracy.MINI}: the time is over; it begins anew next time"]
    made.accuracy()
    made.finish()
    assert f"accuracy on {accuracy.MINI}: not reached\n" in (tmp_path / "out/table.txt").read_text()


COMPILED = replace(
    TINY, networks=(("lenet", 2, "fp32"),), compiled=(("lenet", 2, "fp32", "train"),)
)
KEY = "torch.compile of lenet/batch 2/fp32/train"


def test_compiled__takes_the_place_of_the_row_without(small, tmp_path, monkeypatch):
    asked = []

    def compiled(*told, limit):
        asked.append((told, limit))
        return {"rows": [rows["compiled"]], "why": None}

    rows = {
        name: {"key": "lenet/train/batch 2", "arch": "lenet", "mode": "train", "batch": 2,
               "ours": 1.0, "images_per_second": 2.0, "ratio": ratio, "ratios": ratios,
               "failed": []}
        for name, ratio, ratios in (
            ("networks", 2.0, {"eager": 2.0}), ("compiled", 0.9, {"eager": 1.8, "compile": 0.9})
        )
    }  # fmt: skip
    monkeypatch.setattr(network, "run", lambda *_, **__: [rows["networks"]])
    monkeypatch.setattr(apart, "compiled_rows", compiled)
    made = make(tmp_path / "out", [], plan=COMPILED)
    made.against = True
    for stage in (made.ceilings, made.networks, made.compiled, made.compiled):
        stage()
    made.finish()
    assert asked == [(("cpu", "lenet", 2, "fp32", "train", 0.01), 60.0)]
    told = (tmp_path / "out" / "table.txt").read_text()
    assert "train 2 images/s (0.90x; eager 1.80x, compile 0.90x)\n" in told
    result = json.loads((tmp_path / "out/results.jsonl").read_text().splitlines()[-1])
    assert result["rows"] == [rows["compiled"]]


@pytest.mark.parametrize(
    ("seconds", "made", "told"),
    [
        (44.0, None, f"{KEY}: not begun, 45 seconds are too few"),
        (60.0, None, f"{KEY}: ended, the time is over; it begins anew next time"),
        (60.0, {"rows": [], "why": "no figure: out of memory"}, f"{KEY}: no figure: out of memory"),
    ],
)
def test_compiled__without_a_figure_is_told(small, tmp_path, monkeypatch, seconds, made, told):
    monkeypatch.setattr(apart, "compiled_rows", lambda *_, limit: made)
    said = []
    ticks = itertools.chain((0.0, 60 - seconds), itertools.repeat(60.0))
    program = make(tmp_path / "out", said, lambda: next(ticks), COMPILED)
    program.against = True
    program.ceilings()
    program.compiled()
    assert said == [told]
    assert program.finish() == 0
    line = f"{KEY}: {made['why'] if made else 'not reached'}\n"
    assert line in (tmp_path / "out" / "table.txt").read_text()


def test_prepare__runs_beside_verify_and_ends_with_it(small, tmp_path, monkeypatch):
    told = []

    class Prepared:
        def __init__(self, device, jobs):
            told.append((device, list(jobs)))

        def end(self):
            told.append("ended")

    monkeypatch.setattr(apart, "Prepared", Prepared)
    made = make(tmp_path / "out", [])
    made.prepares = True
    made.ceilings()
    monkeypatch.setattr(made, "verify", lambda share: told.append(share))
    made.prepare_and_verify()
    jobs = [("lenet", 2, "fp32", "train"), ("accuracy", 0, "", ""), ("lenet", 2, "fp32", "infer")]
    assert told == [("cpu", jobs), acceptance.VERIFY, "ended"]


def test_jobs__the_worst_known_come_first():
    plain = program.jobs(TINY, {})
    assert len(plain) == len({job.key for job in plain}) == 12
    worst, bad = plain[7].key, plain[3].key
    ordered = program.jobs(TINY, {bad: 0.9, worst: 0.2})
    assert [job.key for job in ordered[:3]] == [worst, bad, plain[0].key]
    made = work.make(plain[0].layer, plain[0].name, 1)
    row = kernels.measure_row("odd", made, open_device("cpu", "numpy"), seconds=0.001, rounds=2,
                              against=False)  # fmt: skip
    assert row["key"] == plain[0].key


def test_program__of_a_gpu_meets_every_suite_and_pass_early():
    made = program.jobs(program.GPU, {})
    assert {job.precision for job in made} == {"bf16", "tf32x3", "tf32"}
    early = {(job.suite, job.name) for job in made[:40]}
    assert {suite for suite, _ in early} == set(suites.SUITES) - {"vgg-small"}
    assert {name for _, name in early} == set(program.GPU.passes)
    assert {("resnet50", "wgrad"), ("inception-v3", "dgrad")} <= early
    deep = [job.layer for job in made[:100] if job.suite == "vgg16" and job.name == "dgrad"]
    assert min(layer.image[0] for layer in deep) <= 28


def test_jobs__have_no_gradient_of_pictures():
    made = program.jobs(program.GPU, {})
    assert {job.layer.image[2] <= 3 for job in made if job.name == "dgrad"} == {False}
    assert {job.layer.image[2] <= 3 for job in made if job.name == "wgrad"} == {False, True}


def test_log__a_line_that_was_cut_off_is_done_again(tmp_path):
    log = Log(tmp_path, {"device": "cpu"})
    log.add("kernels", "a", 1)
    with log.path.open("a") as file:
        file.write('{"stage": "kernels", "key": "b", "to')
    again = Log(tmp_path, {"device": "cpu"})
    assert again.told("kernels") == {"a": 1}
    again.add("kernels", "b", 2)
    assert Log(tmp_path, {"device": "cpu"}).told("kernels") == {"a": 1, "b": 2}


def test_log__of_another_device_or_damaged_is_refused(tmp_path):
    Log(tmp_path / "one", {"device": "cpu"})
    with pytest.raises(InputError, match="holds a run of .*cpu.*take another --out"):
        Log(tmp_path / "one", {"device": "cuda"})
    (tmp_path / "one" / "log.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        Log(tmp_path / "one", {"device": "cpu"})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out"):
        Log(tmp_path / "file", {})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--device", "cpu", "--minutes", "0"), "--minutes 0.0: must be more than 0"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--data", "fashion-mnits"), "unknown data set 'fashion-mnits' (did you mean"),
        (("--data-dir", "here"), "--data-dir here needs --data NAME"),
        (("--data", "fashion-mnist", "--data-dir", "nowhere"), "nowhere"),
    ],
)
def test_main__wrong_words_end_in_one_line(tmp_path, capsys, arguments, told):
    assert acceptance.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("acceptance: error: ")
    assert told in err
    assert err.count("\n") == 1


def test_main__sigterm_ends_it_in_order(small, tmp_path, monkeypatch):
    """Not at once: processes that it has started and its folders go first."""
    told = []

    def run(made):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            told.append("ended")

    before = signal.signal(signal.SIGTERM, lambda *_: told.append("not caught"))
    try:
        monkeypatch.setattr(acceptance.Acceptance, "run", run)
        with pytest.raises(SystemExit) as error:
            acceptance.main(["--out", str(tmp_path / "out"), "--device", "cpu"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (error.value.code, told) == (143, ["ended"])
