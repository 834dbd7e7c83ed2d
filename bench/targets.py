"""The speeds and accuracies that a GPU is to reach, and how far what was measured is from them.

Of an H100. Kernels: the speed over the best of torch's ways, the geometric mean of the rows that
were measured. Networks: over the ways that the target names. All in one run of the acceptance
program, each behind its check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

REACHED, SHORT, UNMEASURED = "reached", "short", "not measured"
Row = Mapping[str, Any]


def _ratio(way: str) -> Callable[[Row], float | None]:
    return lambda row: row.get("ratios", {}).get(way)


def _best(row: Row) -> float | None:
    return row.get("ratio")


def _bytes_a_second(row: Row) -> float | None:
    return row["bytes"] / row["ours"] / 1e12 if row.get("ours") else None


def _host_time(row: Row) -> float | None:
    return row["host_seconds"] * 1e6 if "host_seconds" in row else None


def _gap(row: Row) -> float | None:
    """Percentage points between the device's accuracy and the CPU's."""
    known = row.get("accuracy") is not None and row.get("cpu_accuracy") is not None
    return 100 * abs(row["accuracy"] - row["cpu_accuracy"]) if known else None


def _accuracy(row: Row) -> float | None:
    return None if row.get("accuracy") is None else 100 * row["accuracy"]


@dataclass(frozen=True)
class Target:
    """`what` is to be at least `bound` (or at most), read by `figure` from the rows of `key`.

    `key` begins and, behind a "*", ends the keys of those rows.
    """

    what: str
    key: str
    figure: Callable[[Row], float | None]
    bound: float
    unit: str = "x"
    at_most: bool = False

    def of(self, row: Row) -> bool:
        """Whether it is read from this row."""
        first, star, last = self.key.partition("*")
        key = row["key"]
        return key.startswith(first) and key.endswith(last) if star else key == first


@dataclass(frozen=True)
class Verdict:
    """What became of a target: `found` of `rows` rows; None where nothing was measured."""

    target: Target
    found: float | None
    rows: int

    @property
    def state(self) -> str:
        """reached, short or not measured."""
        if self.found is None:
            return UNMEASURED
        apart = self.found - self.target.bound
        return REACHED if (apart <= 0 if self.target.at_most else apart >= 0) else SHORT

    def __str__(self) -> str:
        """Like "reached: VGG16 training ... over torch eager: 1.31x (at least 1.2x)"."""
        target, told = self.target, f"{self.target.what}: "
        rule = f"{'at most' if target.at_most else 'at least'} {_figure(target.bound, target.unit)}"
        if self.found is None:
            return f"{self.state}: {told}{rule}"
        told += _figure(self.found, target.unit)
        if "*" in target.key:
            told += f" in {self.rows} rows"
        if self.state == SHORT:
            share = abs(self.found / target.bound - 1)
            missing = _figure(abs(self.found - target.bound), target.unit)
            return f"{self.state} by {missing} ({share:.0%}): {told} ({rule})"
        return f"{self.state}: {told} ({rule})"

    def to_json(self) -> dict[str, Any]:
        """As a row of a result."""
        target = self.target
        return {
            "key": target.what, "rows": self.rows, "found": self.found, "bound": target.bound,
            "unit": target.unit, "at_most": target.at_most, "state": self.state, "told": str(self),
            "failed": [],
        }  # fmt: skip


def _figure(value: float, unit: str) -> str:
    return f"{value:.2f}x" if unit == "x" else f"{value:.4g} {unit}"


def _kernels(what: str, key: str, bound: float) -> Target:
    return Target(f"{what} over {_REST}", key, _best, bound)


_REST = "the best of torch without torch.compile"  # for which the time is too short
_SMALL, _VGG = "vgg-small/train/batch 256/bf16", "vgg16/{}/batch 64/bf16"
_INCEPTION = "googlenet/{}/batch {}/bf16"
_LAYERS = "VGG16's layers, batch 64, bf16"
TARGETS = (
    Target("vgg-small training step, batch 256, bf16, over torch eager", _SMALL,
           _ratio("eager"), 1.3),
    Target("vgg-small training step, batch 256, bf16, over torch.compile", _SMALL,
           _ratio("compile"), 1.0),
    Target("VGG16 training step, batch 64, bf16, over torch eager", _VGG.format("train"),
           _ratio("eager"), 1.2),
    Target("VGG16 inference, batch 64, bf16, over torch eager", _VGG.format("infer"),
           _ratio("eager"), 1.4),
    *(
        Target(f"GoogLeNet {name}, batch {batch}, bf16, over {_REST}",
               _INCEPTION.format(mode, batch), _best, 1.2)
        for mode, name in (("train", "training step"), ("infer", "inference"))
        for batch in (1, 8)
    ),
    Target("the host's time for a training step of vgg-small, batch 256, bf16", _SMALL,
           _host_time, 30.0, "µs", at_most=True),
    _kernels(f"forward with bias and ReLU, {_LAYERS},", "vgg16/*/forward+relu/batch 64/bf16", 0.95),
    _kernels(f"forward with ReLU and max pool, {_LAYERS},",
             "vgg16/*/forward+relu+pool/batch 64/bf16", 1.2),
    _kernels(f"dgrad, {_LAYERS},", "vgg16/*/dgrad/batch 64/bf16", 0.85),
    _kernels(f"wgrad, {_LAYERS},", "vgg16/*/wgrad/batch 64/bf16", 0.8),
    _kernels(f"max pool, {_LAYERS},", "vgg16/*/max_pool/batch 64/bf16", 1.4),
    Target(f"max pool, {_LAYERS}, bytes read and written", "vgg16/*/max_pool/batch 64/bf16",
           _bytes_a_second, 2.6, "TB/s"),
    _kernels("forward with ReLU and edge padding, batch 64, bf16,",
             "edge/*/forward+relu/batch 64/bf16", 1.3),
    _kernels("forward with ReLU, VGG16's layers, batch 64, tf32x3,",
             "vgg16/*/forward+relu/batch 64/tf32x3", 1.3),
    Target("vgg-small on the embedded images: test accuracy, away from the CPU's",
           "accuracy/vgg-small/fashion-mnist-mini", _gap, 0.5, "points", at_most=True),
    Target("vgg-small on all of Fashion-MNIST, at most 10 epochs: test accuracy",
           "accuracy/vgg-small/fashion-mnist", _accuracy, 93.0, "%"),
)  # fmt: skip


def judge(rows: Iterable[Row], targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """A verdict on each target; of two rows with one key the later counts."""
    latest = {row["key"]: row for row in rows if not row.get("failed")}
    verdicts = []
    for target in targets:
        read = [target.figure(row) for row in latest.values() if target.of(row)]
        found = [figure for figure in read if figure is not None]
        mean = geometric_mean(found) if len(found) > 1 else next(iter(found), None)
        verdicts.append(Verdict(target, mean, len(found)))
    return verdicts
