"""Whole networks: a training step and inference, ours beside torch's, checked, then timed.

A training step is forward, backward and an SGD update (momentum, Nesterov, weight decay on
weights only), and ends with the loss on the host, on a GPU too. Both sides start from the same
weights and see the same batch, which is in memory before the clock starts. On a CPU ours still
copies it in, as training does; on a GPU, where that would measure the bus, both sides have it in
the GPU's memory. The check comes first: logits, every parameter's gradient and every parameter
after one update, with one set of dropout masks on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine import nvml
from ..engine.device import Device, open_device
from ..engine.gpu import CudaDevice
from ..engine.network import Description
from . import steps
from .host_time import host_time
from .kernels import timed
from .our_side import OurSide, Setting, make_setting
from .timing import Candidate

__all__ = ["MODES", "OurSide", "Setting", "check", "compare", "make_setting", "our_answers", "run"]

STEADY_SECONDS = 0.25  # a turn: steps follow one another, as in a run, threads kept awake
MODES = ("train", "infer")

# Relative RMS of float32 against the other side. Logits are continuous in rounding errors; the
# gradients are not: a pre-activation or a maximum within rounding of its threshold may fall either
# way, and one such pixel among the 10^5 of a filter's sum shows as some 1e-3 of it.
LOGITS_RMS, GRADIENT_RMS = 2e-5, 5e-3
# Less precise numbers flip more of them: bfloat16 moves the gradient of the first layer by 0.16 in
# vgg-small, 0.31 in GoogLeNet, 0.40 in VGG16, and torch's by as much. Factors cut to TF32 lose some
# 7e-4 in every layer, always towards zero: 4e-3 in vgg-small, 1e-2 in vgg16. Only gross errors show
# here; `cnnengine verify` holds each kernel to its tolerance.
COARSE = {"tf32": (2e-2, 0.1), "bf16": (3e-2, 0.6), "fp16": (1e-2, 0.5)}
# Deep networks have more thresholds, and which of them flip is chance, on either side. Where
# gradients in float32 are further than GRADIENT_RMS from torch's, float64 judges both, and
# ours may be FLIPS times as far from it as torch's worst, at most GROSS. GoogLeNet at batch 2: ours
# 7e-3, torch 4e-3, in different layers.
# A batch norm over few pixels makes rounding grow in the logits, too. Inception v3 at batch 2:
# logits 3e-5 and 9e-5, gradients 5e-2 and 6e-2.
FLIPS, GROSS, GROSS_LOGITS = 4.0, 0.1, 2e-4
ROUNDING = 2.0**-24  # of a number stored in float32: at most half a unit in the last place
NOTHING = 1e-4  # of the largest gradient: what is less is rounding (a bias before a batch norm)


Answers = dict[str, np.ndarray]
INFERENCE = "inference logits"
REFERENCE = "our float64 (numpy)"


def our_answers(side: OurSide, modes: tuple[str, ...]) -> Answers:
    """What is compared: logits, losses, gradients, and the parameters' change in one update."""
    answers: Answers = {}
    with side.device.session():
        host = side.device.to_host
        if "infer" in modes:
            answers[INFERENCE] = np.array(side.infer())
        if "train" in modes:
            scale = side.progress.loss_scale
            side.train()
            network = side.networks["train"]
            plan = network.training[side.setting.batch]
            answers["logits"] = host(plan.output("logits"))
            answers["loss"] = host(plan.output("loss"))
            trained = [p.value.name for p in plan.graph.params if p.trainable]
            for name in trained:
                answers[f"gradient of {name}"] = host(network.parameters.gradient(name)) / scale
            after = network.parameters.state_dict()
            for name in trained:
                answers[f"update of {name}"] = after[name] - side.setting.weights[name]
    return answers


def _rms(array: np.ndarray) -> float:
    return math.sqrt(float(np.square(array, dtype=np.float64).mean()))


def compare(
    found: Answers, expected: Answers, precision: str = "fp32",
    least: tuple[float, float] = (0.0, 0.0), weights: Answers | None = None,
) -> tuple[dict[str, float], list[str]]:  # fmt: skip
    """Name → relative RMS difference, and a line for each that is not within tolerance.

    Tolerances of logits and of gradients below `least` are raised to that. `weights`, the float32
    parameters before the update: rounding of the new ones is not counted against an update, which
    may be as small as that rounding where a trained network learns little.
    """
    usual = COARSE.get(precision, (LOGITS_RMS, GRADIENT_RMS))
    logits, gradients = map(max, usual, least)
    differences, failed = {}, []
    scales = {name: _rms(right) for name, right in expected.items()}
    for name, right in expected.items():
        alike = [
            s for other, s in scales.items() if other.split(" of ")[0] == name.split(" of ")[0]
        ]
        scale = max(scales[name], NOTHING * max(alike))
        off = _rms(found[name].astype(np.float64) - right)
        differences[name] = off / scale if scale else off
        allowed = gradients if " of " in name else logits
        rounded = (weights or {}).get(name.removeprefix("update of "))
        if rounded is not None and scale:
            allowed += ROUNDING * _rms(rounded) / scale
        if not differences[name] <= allowed:
            failed.append(f"{name}: {differences[name]:.3g} (allowed {allowed:.3g})")
    return differences, failed


def check(side: OurSide, modes: tuple[str, ...], against: bool) -> dict[str, Any]:
    """The check before timing: against torch's float32, or our own float64.

    The latter without torch, and where float32 and torch's disagree: then both are held to it.
    """
    found, precision = our_answers(side, modes), side.setting.description.precision
    if against:
        from .torch_side import torch_answers

        theirs = torch_answers(side.setting, modes, place_of(side.device))
        differences, failed = compare(found, theirs, precision)
        if not failed or precision != "fp32":
            return {"reference": "torch float32", "differences": differences, "failed": failed}
        expected = _float64_answers(side.setting, modes)
        off = compare(theirs, expected)[0]
        kinds = [[v for n, v in off.items() if (" of " in n) == g] for g in (False, True)]
        logits, worst = (max(kind, default=0.0) for kind in kinds)
        told = f", torch float32 is {max(logits, worst):.1g} off"
        least = min(FLIPS * logits, GROSS_LOGITS), min(FLIPS * worst, GROSS)
    else:
        expected, told, least = _float64_answers(side.setting, modes), "", (0.0, 0.0)
    differences, failed = compare(found, expected, precision, least, side.setting.weights)
    return {"reference": REFERENCE + told, "differences": differences, "failed": failed}


def place_of(device: Device) -> str:
    """What torch calls the kind of a device."""
    return "cuda" if device.name.startswith("cuda") else "cpu"


def _float64_answers(setting: Setting, modes: tuple[str, ...]) -> Answers:
    told = setting.description.to_json() | {"precision": "fp64"}
    wide = Setting(
        setting.arch, Description.from_json(told), setting.batch, setting.x, setting.labels,
        {name: array.astype(np.float64) for name, array in setting.weights.items()},
    )  # fmt: skip
    return our_answers(OurSide(wide, open_device("cpu", "numpy"), modes), modes)


def run(
    setting: Setting, device: Device, modes: tuple[str, ...], *, against: bool, compiled: bool,
    seconds: float, rounds: int | None, note: Callable[[str], None], with_steps: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each mode. Where the check fails, rows have `failed` and no times.

    `with_steps` adds the `steps` of ours, on a CPU only.
    """
    precision = setting.description.precision
    told = "" if precision == "fp32" else f"/{precision}"
    with device.session():
        side = OurSide(setting, device, modes)
    checked = check(side, modes, against)
    rows: list[dict[str, Any]] = []
    for mode in modes:
        row: dict[str, Any] = {
            "key": f"{setting.arch}/{mode}/batch {setting.batch}{told}",
            "precision": precision,
            "arch": setting.arch,
            "mode": mode,
            "batch": setting.batch,
            "backends": side.backends(),
            "reference": checked["reference"],
            "differences": {
                name: value
                for name, value in checked["differences"].items()
                if (name == INFERENCE) == (mode == "infer")
            },
            "failed": list(checked["failed"]),
        }
        rows.append(row)
        if checked["failed"]:
            continue
        candidates = [Candidate(side.name, side.timed(mode), device.session)]
        if against:
            from .torch_side import torch_ways
            from .torch_terms import terms

            ways = torch_ways(setting, mode, compiled=compiled, note=note, place=place_of(device))
            candidates += ways.candidates
            ways.candidates.clear()
            row["failed"] += ways.wrong
            row["declined"] = ways.declined
            row["torch_terms"] = terms(precision)
            if ways.wrong:
                continue
        watch = nvml.Watch(device.gpu.bus()) if isinstance(device, CudaDevice) else None
        row |= timed(candidates, [side.name], seconds, rounds, STEADY_SECONDS)
        if watch is not None:
            row["gpu"] = watch.told()
        candidates.clear()  # before the next mode's: both hold memory of the device
        if against and device.slots:
            from .baselines_cuda import release

            release()
        row["images_per_second"] = setting.batch / row["ours"]
        if row["baseline"]:
            row["baseline_images_per_second"] = setting.batch / row["baseline"]
        row["ratios"] = ratios(row)
        if mode == "train" and device.slots:
            row |= host_time(side)
        if with_steps:
            row["steps"] = steps.measure(side, mode, seconds)
    return rows


def ratios(row: Mapping[str, Any]) -> dict[str, float]:
    """Our speed over torch's, way by way; "eager": in the better memory format."""
    times = {n.removeprefix("torch "): t["median"] for n, t in row["candidates"].items()}
    ways = {"eager": ("contiguous", "channels_last"), "graph": ("graph",), "compile": ("compile",)}
    found = {name: [times[way] for way in group if way in times] for name, group in ways.items()}
    return {name: min(told) / row["ours"] for name, told in found.items() if told}
