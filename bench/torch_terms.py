"""The terms on which torch stands beside ours: TF32 as ours has it, cuDNN's search for the fastest.

Since 2.9 torch keeps the precision of float32 products twice: as `allow_tf32`, and by operator as
`fp32_precision`. Kernels, torch.compile's templates and its guards read one or the other (2.13: a
convolution's template that of cuDNN as a whole), and reading `allow_tf32` is an error where the two
disagree. So both are set, the old one first, which also sets the new one of its operator. Sums of
16-bit products in less than float32 stay as torch has them and are told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def same_terms(precision: str) -> Iterator[None]:
    """Open while torch compiles and runs for a row of this precision; as before afterwards."""
    tf32, matmul, cudnn = precision == "tf32", torch.backends.cuda.matmul, torch.backends.cudnn
    told: dict[str, Any] = {"allow_tf32": tf32}
    if _has_new():
        told["fp32_precision"] = _word(tf32)
    before = matmul.allow_tf32
    matmul.allow_tf32 = tf32
    try:
        with cudnn.flags(enabled=True, benchmark=True, deterministic=False, **told):
            yield
    finally:
        matmul.allow_tf32 = before


def terms(precision: str) -> dict[str, Any]:
    """What torch itself says under `same_terms`, for a row."""
    with same_terms(precision):
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        new = _has_new()
        return {
            "matmul": matmul.fp32_precision if new else _word(matmul.allow_tf32),
            "conv": cudnn.conv.fp32_precision if new else _word(cudnn.allow_tf32),
            "cudnn_benchmark": cudnn.benchmark,
            "bf16_reduced_sums": matmul.allow_bf16_reduced_precision_reduction,
            "fp16_reduced_sums": matmul.allow_fp16_reduced_precision_reduction,
        }


def _has_new() -> bool:
    return hasattr(torch.backends.cudnn, "fp32_precision")


def _word(tf32: bool | str) -> str:
    return "tf32" if tf32 else "ieee"
