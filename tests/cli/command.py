"""Runs the real command in a process of its own, and makes small data for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMMAND = (sys.executable, "-m", "cnnengine.cli")
SIDE = 8
PER_CLASS = 20  # of which 4 become test images: 32 train images, 4 steps of 8
EPOCHS = 10  # of the run in `trained`: long enough to be hit by a signal on a busy machine
STEPS = 4 * EPOCHS
LIMITED = (  # Python ignores SIGXFSZ, so a write past the limit fails as on a full disk
    "import os, resource, sys; size = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def start(
    *arguments: object,
    cwd: Path,
    env: dict[str, str] | None = None,
    largest_file: int | None = None,
) -> subprocess.Popen[str]:
    """Start the command; no file that it writes may pass `largest_file` bytes."""
    limit = [] if largest_file is None else [sys.executable, "-c", LIMITED, str(largest_file)]
    return subprocess.Popen(
        [*limit, *COMMAND, *map(str, arguments)], cwd=cwd, env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(*arguments: object, cwd: Path, **started: Any) -> Result:
    """Run the command to its end."""
    process = start(*arguments, cwd=cwd, **started)
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def succeed(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Result:
    """Run a command that must end well."""
    result = run(*arguments, cwd=cwd, env=env)
    assert result.code == 0, result.err
    return result


def refused(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command that must exit with 2 and one line on stderr, and return that line."""
    result = run(*arguments, cwd=cwd, env=env)
    assert result.code == 2, (result.code, result.err)
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("cnnengine: error: ")
    return lines[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_pictures(root: Path, *, side: int = SIDE, classes: tuple[str, ...] = ("dark", "light")):
    """A folder of grey noise, one brightness a class."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        middle = 255 * (label + 1) / (len(classes) + 1)
        for number in range(PER_CLASS):
            noise = generator.normal(middle, 40, (side, side)).clip(0, 255)
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:02}.png")
    return root


def small(data: Path, *, epochs: int = EPOCHS) -> tuple[object, ...]:
    """Arguments of a training run that takes a moment."""
    return (
        "train", "--data", data, "--epochs", epochs, "--batch-size", 8, "--option", "width=0.1",
        "--shift", 1, "--lr", 0.03, "--threads", 1,
    )  # fmt: skip


def steps_done(run_folder: Path) -> int:
    """How many steps metrics.jsonl tells of so far."""
    metrics = run_folder / "metrics.jsonl"
    return metrics.read_bytes().count(b'"kind": "step"') if metrics.exists() else 0


def wait_until(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    """Wait for `true`, or for the end of the process."""
    deadline = time.monotonic() + 60
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)


def signal_at_step(
    process: subprocess.Popen[str], run_folder: Path, step: int, number: signal.Signals
) -> tuple[int, str, str]:
    """Send a signal once the run has made `step` steps; returns (exit code, stdout, stderr)."""
    wait_until(process, lambda: steps_done(run_folder) >= step)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err
