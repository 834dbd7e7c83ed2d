"""What stands in the log for a figure that could not be measured: its row, and why."""

from __future__ import annotations

from typing import Any

from . import kernels, network, work
from .program import Job
from .verify import suite

Told = dict[str, Any]


def verified(why: str) -> Told:
    """A function that could not be verified, as one failed call."""
    row = {"state": "failed", "case": "-", "backend": "-", "told": why}
    return {"counts": suite.summary([row]), "failed": [row]}


def kernel(job: Job, made: work.Work, why: str) -> Told:
    """A row of single kernels."""
    return {**kernels.row_of(made, {}, []), "key": job.key, "failed": [why]}


def networks(arch: str, batch: int, precision: str, why: str) -> list[Told]:
    """The rows of a whole network, one for each mode."""
    kind = "" if precision == "fp32" else f"/{precision}"
    return [
        {
            "key": f"{arch}/{mode}/batch {batch}{kind}", "precision": precision, "arch": arch,
            "mode": mode, "batch": batch, "backends": {}, "reference": None, "differences": {},
            "failed": [why],
        }
        for mode in network.MODES
    ]  # fmt: skip
