from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cnnengine.bench import accuracy, apart, network


def python(monkeypatch, code):
    """The processes run this instead."""
    monkeypatch.setattr(apart, "_command", lambda *_: [sys.executable, "-c", code])


def wait_for(what):
    """Its first truth, within ten seconds."""
    deadline = time.monotonic() + 10
    while not (told := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return told


def test_prepared__processes_are_ended_and_leave_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(apart.tempfile, "tempdir", str(tmp_path))
    python(monkeypatch, "import tempfile, time; made = tempfile.mkdtemp(); time.sleep(60)")
    monkeypatch.setattr(apart.threads, "cores", lambda: 4)
    prepared = apart.Prepared("cuda:0", [("lenet", 2, "fp32", "train")] * 3)
    assert len(prepared._processes) == 2
    wait_for(lambda: len(list(tmp_path.glob("*/*"))) == 2)
    prepared.end()
    assert all(process.popen.returncode < 0 for process in prepared._processes)  # by a signal
    assert list(tmp_path.iterdir()) == []


def test_end_with_starter__whoever_started_it_is_gone(monkeypatch):
    python(monkeypatch, "import time; from cnnengine.bench import apart\n"
                        "apart.end_with_starter(); time.sleep(60)")  # fmt: skip
    process = apart.Process("prepare", "cpu")
    os.dup2(os.open(os.devnull, os.O_RDONLY), process._ours)  # as the system does for one who died
    assert process.popen.wait(30) == -signal.SIGKILL
    process.end()


def test_prepare__makes_a_step_or_trains_an_epoch(monkeypatch):
    ran = []
    monkeypatch.setattr(network.OurSide, "infer", lambda side: ran.append(side.setting.arch))
    apart.main(["prepare", "cpu", '"lenet"', "2", '"fp32"', '"infer"'])
    monkeypatch.setattr(accuracy, "train", lambda config, *_: ran.append(config.epochs))
    apart.main(["prepare", "cpu", '"accuracy"', "0", '""', '""'])
    assert ran == ["lenet", 1]


def test_main__what_is_printed_beside_the_rows_does_not_disturb_them(monkeypatch, capfd):
    monkeypatch.setattr(network, "run", lambda *_, **told: [print("torch says"), told["compiled"]])
    apart.main(["compiled", "cpu", '"lenet"', "2", '"fp32"', '"train"', "0.1"])
    assert json.loads(capfd.readouterr().out) == [None, True]


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("print('torch'); print('[1]')", {"rows": [1], "why": None}),
        ("import sys; sys.exit('Traceback\\nOutOfMemory: no room')",
         {"rows": [], "why": "no figure: OutOfMemory: no room"}),
        ("import os; os._exit(3)", {"rows": [], "why": "no figure: no message"}),
    ],
)  # fmt: skip
def test_compiled_rows__come_from_a_process(monkeypatch, code, made):
    python(monkeypatch, code)
    told = apart.compiled_rows("cpu", "lenet", 2, "fp32", "train", 0.1, limit=20.0)
    assert told == made


def test_compiled_rows__late_is_ended_with_what_it_started(monkeypatch, tmp_path):
    """What a compiler prints into stays open as long as it runs: nobody waits for that."""
    file = tmp_path / "pid"
    code = f"""
import subprocess, time
from pathlib import Path
started = subprocess.Popen(["sleep", "60"])
Path({str(file)!r}).write_text(str(started.pid))
time.sleep(60)
"""
    python(monkeypatch, code)
    begun = time.monotonic()
    assert apart.compiled_rows("cpu", limit=2.0) is None
    assert time.monotonic() - begun < 10
    state = Path("/proc", file.read_text(), "stat")
    wait_for(lambda: not state.exists() or ") Z " in state.read_text())
