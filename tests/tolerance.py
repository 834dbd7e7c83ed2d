"""How far a result may lie from the float64 oracle: one table for the whole project.

A row is (type or precision, longest reduction) -> allowed relative RMS error. "Relative" is to the
RMS of the expected values, or to `floor` where that is larger: the RMS that they would have if
their terms had independent signs (few or rectified values can all be small by chance, the rounding
of their terms is not). A single error may be `PEAK` times the allowed RMS error and, as rounding
grows with the value, the allowed share of that value on top.
"""

from __future__ import annotations

import numpy as np

SHORT, LONG = 1024, 1 << 20  # terms of one sum

RELATIVE_RMS = {
    ("float64", SHORT): 1e-13,
    ("float64", LONG): 1e-12,  # sums of n terms lose about sqrt(n) units of rounding
    ("float32", SHORT): 2e-6,
    ("float32", LONG): 2e-5,  # the same
    ("tf32x3", SHORT): 2e-6,
    ("tf32x3", LONG): 2e-5,  # the same
    ("tf32", LONG): 1e-3,  # products of 11-bit factors dominate at any length
    ("float16", LONG): 2e-3,  # the one rounding at the end dominates at any length
    ("bfloat16", LONG): 8e-3,  # the same
}
PEAK = 8.0


def allowed(kind: str, reduction: int = 1) -> float:
    """The allowed relative RMS error of a type or precision, for sums of `reduction` terms."""
    rows = sorted(length for name, length in RELATIVE_RMS if name == kind)
    fits = [length for length in rows if reduction <= length]
    if not fits:
        raise KeyError(f"no tolerance for {kind} with sums of {reduction} terms")
    return RELATIVE_RMS[kind, fits[0]]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def assert_same(name: str, actual: np.ndarray, expected: np.ndarray) -> None:
    """Require equal values (0 equals -0) and NaN at the same places."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    wide, right = (np.asarray(a, np.float64) for a in (actual, expected))
    wrong = ~((wide == right) | (np.isnan(wide) & np.isnan(right)))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{name}: {int(wrong.sum())} of {wrong.size} values differ, first at {at}: "
            f"{wide[at]!r}, not {right[at]!r}"
        )


def assert_close(
    name: str,
    actual: np.ndarray,
    expected: np.ndarray,
    kind: str,
    reduction: int = 1,
    floor: float = 0.0,
) -> None:
    """Require `actual` within the row of `kind` and `reduction`, and NaN at the same places."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    wide, right = (np.asarray(a, np.float64) for a in (actual, expected))
    finite = np.isfinite(right)
    special = np.where(finite & np.isfinite(wide), 0.0, wide)
    assert_same(f"{name} (NaN, infinity)", special, np.where(finite, 0.0, right))
    error = np.where(finite, wide, 0.0) - np.where(finite, right, 0.0)
    scale = max(_rms(right[finite]), floor)
    limit = allowed(kind, reduction)
    room = limit * (PEAK * scale + np.abs(np.where(finite, right, 0.0)))
    rms, over = _rms(error[finite]), np.abs(error) - room
    if rms <= limit * scale and (over <= 0).all():
        return
    at = tuple(int(i) for i in np.unravel_index(over.argmax(), error.shape))
    relative = f"{rms / scale:.3g}" if scale else "without scale"
    raise AssertionError(
        f"{name}: relative RMS error {relative}, allowed {limit:.3g} for {kind} and sums of "
        f"{reduction}; worst at {at}: {wide[at]!r}, not {right[at]!r}, allowed +-{room[at]:.3g}"
    )
