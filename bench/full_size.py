"""Every listed network at the size that it was made for: its parameters, its logits beside torch's.

    python -m cnnengine.bench.full_size --out bench/results/networks/full-size.json [ARCH …]

Both sides get the same random weights (biases and batch norms random too) and one random image.
Torch's float64 is the reference; a side's error is the largest difference of a logit as a share of
the largest logit. Ours in float64 must agree to 1e-11, and ours in float32 must be within 2e-5 or
within twice torch's own float32 error; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import files
from ..engine.device import open_device
from ..engine.errors import InputError
from ..engine.models import list_models
from ..engine.network import Description, Network
from . import machine, network, report

BATCH = 1
EXACT, CLOSE, ALIKE = 1e-11, 2e-5, 2.0


def measure(arch: str) -> dict[str, Any]:
    """One network: parameters of inference, image, errors of float32 and float64, and `failed`."""
    from .torch_twin import TorchTwin

    setting = network.make_setting(arch, BATCH)
    graph = setting.description.graph(BATCH, training=False)
    logits: dict[str, np.ndarray] = {}
    for dtype, precision in (("float32", "fp32"), ("float64", "fp64")):
        logits[f"ours {dtype}"] = _ours(setting, precision)
        twin = TorchTwin(graph, dtype=dtype)
        twin.load(setting.weights)
        logits[f"torch {dtype}"] = twin.logits(setting.x)
        del twin
        gc.collect()
    reference = logits.pop("torch float64")
    largest = float(np.abs(reference).max())
    errors = {
        name: float(np.abs(found.astype(np.float64) - reference).max()) / largest
        for name, found in logits.items()
    }
    apart = np.abs(logits["ours float32"].astype(np.float64) - logits["torch float32"]).max()
    allowed = max(CLOSE, ALIKE * errors["torch float32"])
    failed = [
        f"{name}: {errors[name]:.3g} (allowed {limit:.3g})"
        for name, limit in (("ours float32", allowed), ("ours float64", EXACT))
        if not errors[name] <= limit
    ]
    return {
        "key": f"{arch}/full size", "arch": arch, "image": list(setting.description.input_shape),
        "classes": len(setting.description.classes), "parameters": graph.parameter_count(),
        "flops": graph.flops(), "errors": errors, "float32_apart": float(apart) / largest,
        "failed": failed,
    }  # fmt: skip


def _ours(setting: network.Setting, precision: str) -> np.ndarray:
    """Our logits in the type of the precision."""
    told = setting.description.to_json() | {"precision": precision}
    device = open_device("cpu")
    ours = Network(Description.from_json(told), device, infer_batch=BATCH)
    assert ours.inference is not None
    ours.load({name: setting.weights[name] for name in ours.state_dict()})
    with device.session():
        ours.inference.feed({"x": setting.x})
        ours.inference.run()
        return np.array(ours.inference.output("logits"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 where a network is not within its limits."""
    parser = argparse.ArgumentParser(prog="python -m cnnengine.bench.full_size")
    parser.add_argument("archs", nargs="*", metavar="ARCH", help="all listed networks unless told")
    parser.add_argument("--out", type=Path, help="write the result there, JSON")
    parser.add_argument("--threads", type=int, default=0, help="on both sides; 0: one a core")
    given = parser.parse_args(arguments)
    try:
        if missing := machine.torch_missing():
            raise InputError(missing)
        machine.set_threads(given.threads)
        rows = []
        for arch in given.archs or [model.name for model in list_models()]:
            rows.append(measure(arch))
            print(json.dumps(rows[-1]), flush=True)
        if given.out:
            told = {"machine": machine.describe(), "versions": machine.versions()}
            whole = report.document("full size", rows, **told)
            files.write_bytes(given.out, (json.dumps(whole, indent=1) + "\n").encode())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
