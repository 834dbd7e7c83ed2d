from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from cnnengine.bench import accuracy, apart, network


def test_prepared__processes_are_ended(monkeypatch):
    monkeypatch.setattr(
        apart, "_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    monkeypatch.setattr(apart.threads, "cores", lambda: 4)
    prepared = apart.Prepared("cuda:0", [("lenet", 2, "fp32", "train")] * 3)
    assert len(prepared._processes) == 2
    prepared.end()
    assert all(process.returncode < 0 for process in prepared._processes)  # by a signal


def test_prepare__makes_a_step_or_trains_an_epoch(monkeypatch):
    ran = []
    monkeypatch.setattr(network.OurSide, "infer", lambda side: ran.append(side.setting.arch))
    apart.main(["prepare", "cpu", '"lenet"', "2", '"fp32"', '"infer"'])
    monkeypatch.setattr(accuracy, "train", lambda config, *_: ran.append(config.epochs))
    apart.main(["prepare", "cpu", '"accuracy"', "0", '""', '""'])
    assert ran == ["lenet", 1]


def test_compiled_rows__come_from_a_process_that_can_be_ended(monkeypatch, capfd):
    """The process is this module; what it prints beside its rows does not disturb them."""
    monkeypatch.setattr(network, "run", lambda *_, **told: [print("torch says"), told["compiled"]])
    asked = []

    def process(command, timeout, **_):
        asked.append(timeout)
        apart.main(command[command.index("compiled") :])
        return SimpleNamespace(returncode=0, stdout=capfd.readouterr().out, stderr="")

    monkeypatch.setattr(apart.subprocess, "run", process)
    told = ("cpu", "lenet", 2, "fp32", "train", 0.1)
    assert apart.compiled_rows(*told, limit=9.0) == {"rows": [None, True], "why": None}
    assert asked == [9.0]

    def fail(*_, **__):
        return SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nOutOfMemory: no room\n")

    monkeypatch.setattr(apart.subprocess, "run", fail)
    failed = {"rows": [], "why": "no figure: OutOfMemory: no room"}
    assert apart.compiled_rows(*told, limit=9.0) == failed

    def late(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(apart.subprocess, "run", late)
    assert apart.compiled_rows(*told, limit=9.0) is None
