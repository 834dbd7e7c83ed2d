"""Assertions by the project's one table of tolerances, `bench/verify/tolerance.py`."""

from __future__ import annotations

import numpy as np

from cnnengine.bench.verify import tolerance


def assert_same(name: str, actual: np.ndarray, expected: np.ndarray) -> None:
    """Require equal values (0 equals -0) and NaN at the same places."""
    told = tolerance.differences(actual, expected)
    assert not told, f"{name}: {told}"


def assert_close(
    name: str,
    actual: np.ndarray,
    expected: np.ndarray,
    kind: str,
    reduction: int = 1,
    floor: float = 0.0,
) -> None:
    """Require `actual` within the row of `kind` and `reduction`, and NaN at the same places."""
    told = tolerance.deviation(actual, expected, kind, reduction, floor).wrong
    assert not told, f"{name}: {told}"
