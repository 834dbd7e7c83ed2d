from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cnnengine.bench import acceptance, kernels, network, work
from cnnengine.bench.log import Log
from cnnengine.bench.verify import suite
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.kernels import registry

TINY = acceptance.Program(
    ("odd",), ("forward+relu", "max_pool"), (1,), ("fp32",), (("lenet", 2, "fp32"),), ("lenet", 2)
)
NAMES = ("log.jsonl", "report.html", "results.jsonl", "table.txt")


@pytest.fixture
def small(monkeypatch):
    """Two functions to verify, a few small calls of each, and the two first layers of `odd`."""
    monkeypatch.setitem(suite.SUITES, "quick", suite.Suite("quick", 2, 0, 5, 1e5, False))
    monkeypatch.setattr(suite, "pick_functions", lambda wanted: ("relu", "conv2d"))
    odd = acceptance.suites.get_suite("odd")
    short = acceptance.suites.Suite("odd", 1, odd.layers[:2])
    monkeypatch.setitem(acceptance.suites.SUITES, "odd", short)
    monkeypatch.setattr(acceptance, "STEPS", 3)


def make(folder, said, clock=lambda: 0.0, program=TINY):
    device = open_device("cpu", "numpy")
    made = acceptance.Acceptance(device, folder, 1.0, program, said.append, clock)
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
    ticks = iter(range(0, 10**6, 12))  # seconds; a look at the clock takes twelve
    alone = replace(TINY, networks=())
    assert make(tmp_path / "out", said, lambda: float(next(ticks)), alone).run() == 0
    assert "kernels: the time is over" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == list(NAMES)
    rows = Log(tmp_path / "out", json.loads(first_line(tmp_path))["told"]).told("kernels")
    assert len(rows) < 3
    make(tmp_path / "out", said, program=alone).run()
    rows = Log(tmp_path / "out", json.loads(first_line(tmp_path))["told"]).told("kernels")
    assert len(rows) == 3


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
    for stage in (made.ceilings, made.verify, made.kernels):
        stage()
    assert made.finish() == 1
    table = (tmp_path / "out" / "table.txt").read_text()
    assert "failed WRONG" in table
    assert "3x3/forward+relu/batch 1: WRONG numpy: relative RMS error" in table


def test_jobs__the_worst_known_come_first():
    plain = acceptance.jobs(TINY, {})
    assert len(plain) == len({job.key for job in plain}) == 12
    worst, bad = plain[7].key, plain[3].key
    ordered = acceptance.jobs(TINY, {bad: 0.9, worst: 0.2})
    assert [job.key for job in ordered[:3]] == [worst, bad, plain[0].key]
    made = work.make(plain[0].layer, plain[0].name, 1)
    row = kernels.measure_row("odd", made, open_device("cpu", "numpy"), seconds=0.001, rounds=2,
                              against=False)  # fmt: skip
    assert row["key"] == plain[0].key


def test_program__of_a_gpu_has_every_suite():
    made = acceptance.jobs(acceptance.GPU, {})
    assert {job.suite for job in made} >= {"vgg16", "alexnet", "inception-v3", "resnet50", "edge"}
    assert {job.precision for job in made} == {"bf16", "tf32x3", "tf32"}


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
    ],
)
def test_main__wrong_words_end_in_one_line(tmp_path, capsys, arguments, told):
    assert acceptance.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("acceptance: error: ")
    assert told in err
    assert err.count("\n") == 1
