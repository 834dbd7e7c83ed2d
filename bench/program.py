"""What `acceptance.py` measures on a kind of device, and in which order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import report, suites
from .targets import TARGETS

PICTURE = 3  # channels, at most
READ = 4  # rows of each target that are measured before the second row of anything else


@dataclass(frozen=True)
class Job:
    """One row of kernels: a layer of a suite, a pass, a batch size, a precision."""

    suite: str
    layer: suites.Layer
    name: str
    batch: int
    precision: str

    @property
    def key(self) -> str:
        """As the row is called in a result."""
        told = "" if self.precision == "fp32" else f"/{self.precision}"
        return f"{self.suite}/{self.layer}/{self.name}/batch {self.batch}{told}"


@dataclass(frozen=True)
class Program:
    """What is measured on a kind of device."""

    suites: tuple[str, ...]
    passes: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    networks: tuple[tuple[str, int, str], ...]
    training: tuple[str, int]
    accuracy: tuple[str, ...] = ()  # data sets, beside what the CPU reached
    compiled: tuple[tuple[str, int, str, str], ...] = ()  # beside torch.compile: that and the mode


# Expected of eight minutes on an H100 with 16 processors and empty caches. The networks have 460
# kernels, each 0.4 seconds of a processor to compile (Triton 3.9, sm_90), GoogLeNet's step half of
# them. Ceilings 15 seconds; verify 80, in which processes of their own compile those kernels;
# single kernels 115, some 50 rows; networks 170 (30 + 60 + 30 + 30 + 20); accuracy 30, 1300 steps
# and as long to compile; first steps 15, most of it NumPy's; torch.compile what is left, of 60 to
# 120 that it needs: where it is ended, the same command begins with it.
GPU = Program(
    tuple(name for name in suites.SUITES if name != "vgg-small"),
    ("forward+relu", "dgrad", "wgrad", "forward+relu+pool", "max_pool"), (64, 8, 1),
    ("bf16", "tf32x3", "tf32"),
    (
        ("vgg-small", 256, "bf16"), ("vgg16", 64, "bf16"), ("googlenet", 8, "bf16"),
        ("googlenet", 1, "bf16"), ("vgg-small", 256, "tf32"),
    ),
    ("vgg-small", 256), ("fashion-mnist-mini",), (("vgg-small", 256, "bf16", "train"),),
)  # fmt: skip
CPU = Program(
    ("vgg-small", "odd"), ("forward+relu", "dgrad", "wgrad"), (1,), ("fp32",),
    (("lenet", 8, "fp32"), ("vgg-small", 16, "fp32")), ("lenet", 8),
)  # fmt: skip


def network_key(told: tuple[str, int, str]) -> str:
    """As a network of a program is called: architecture, batch size, precision."""
    arch, batch, precision = told
    return f"{arch}/batch {batch}/{precision}"


def compiled_key(told: tuple[str, int, str, str]) -> str:
    """As a network beside torch.compile is called."""
    return f"torch.compile of {network_key(told[:3])}/{told[3]}"


def jobs(program: Program, known: dict[str, float]) -> list[Job]:
    """Every row of kernels: known ones by their ratio, worst first, then one of each kind in turn.

    The time is over long before the end: suites and passes take turns, by layers far apart, in the
    first precision; then in the others. What a target is read from, in whichever precision, has
    `READ` rows a turn, so that none rests on a row or two.
    """
    spread = {name: _spread(suites.get_suite(name).layers) for name in program.suites}
    made = [
        Job(name, layers[turn], one, batch, precision)
        for batch in program.batches
        for turn in range(max(map(len, spread.values())))
        for name, layers in spread.items()
        if turn < len(layers)
        for one in program.passes
        if _is_wanted(one, layers[turn])
        for precision in program.precisions
    ]
    count: Counter[tuple[str, str, int, str]] = Counter()
    places: dict[Job, tuple[float, int, int, int]] = {}
    for job in made:
        kind = job.suite, job.name, job.batch, job.precision
        turn, at = count[kind], program.precisions.index(job.precision)
        count[kind] += 1
        if any("*" in target.key and target.of({"key": job.key}) for target in TARGETS):
            turn, at = turn // READ, 0
        batch = program.batches.index(job.batch)
        places[job] = known.get(job.key, math.inf), at, batch, turn
    return sorted(made, key=places.__getitem__)


def _is_wanted(name: str, layer: suites.Layer) -> bool:
    """Whether a network has that pass of a layer: of pictures nobody wants the gradient."""
    if name == "dgrad":
        return layer.image[2] > PICTURE
    return "pool" not in name or layer.pool is not None


def _spread(layers: Sequence[suites.Layer]) -> list[suites.Layer]:
    """The first layer, then others so that any first few are spread over all."""
    golden = (math.sqrt(5) - 1) / 2
    order = sorted(range(len(layers)), key=lambda i: i * golden % 1)
    return [layers[i] for i in order]


def known_ratios(folder: Path) -> dict[str, float]:
    """Row → its latest ratio in the results that are kept."""
    found: dict[str, float] = {}
    for file in sorted(folder.rglob("*.jsonl")) if folder.exists() else ():
        for result in report.read(file):
            rows = [row for row in result["rows"] if row.get("ratio")]
            found |= {row["key"]: row["ratio"] for row in rows}
    return found
