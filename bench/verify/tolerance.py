"""How far a result may lie from float64: one table for the whole project, tests included.

A row is (type or precision, longest reduction) -> allowed relative RMS error. "Relative" is to the
RMS of the expected values, or to `floor` where that is larger: the RMS that they would have if
their terms had independent signs (few or rectified values can all be small by chance, the rounding
of their terms is not). A single error may be `PEAK` times the allowed RMS error and, as rounding
grows with the value, the allowed share of that value on top.

A result of 16 bits is a float32 result that was rounded once, to nearest: it may lie half a unit of
its last place from where a float32 result may be. So sums that are kept in 16 bits, numbers that
are rounded twice or cut off do not pass, although their RMS error is small enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SHORT, LONG = 1024, 1 << 20  # terms of one sum

RELATIVE_RMS = {
    ("float64", SHORT): 1e-13,
    ("float64", LONG): 1e-12,  # sums of n terms lose about sqrt(n) units of rounding
    ("float32", SHORT): 2e-6,
    ("float32", LONG): 2e-5,  # the same
    ("tf32x3", SHORT): 2e-6,
    ("tf32x3", LONG): 2e-5,  # the same
    ("tf32", LONG): 2e-3,  # tensor cores cut factors to 11 bits: a product may lose 2^-9
    ("float16", LONG): 2e-3,  # the one rounding at the end dominates at any length
    ("bfloat16", LONG): 8e-3,  # the same
}
PEAK = 8.0

# Half the distance from 1 to the next number, of the type or of a product's factors.
ROUNDING = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32x3": 2.0**-24,
    "tf32": 2.0**-11,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
SMALLEST = {"float16": -14, "bfloat16": -126}  # exponent of the smallest normal number of 16 bits


def allowed(kind: str, reduction: int = 1) -> float:
    """The allowed relative RMS error of a type or precision, for sums of `reduction` terms.

    Sums longer than the table's longest may lose as the root of their length.
    """
    rows = sorted(length for name, length in RELATIVE_RMS if name == kind)
    if not rows:
        raise KeyError(f"no tolerance for {kind}")
    fits = next((length for length in rows if reduction <= length), None)
    if fits is not None:
        return RELATIVE_RMS[kind, fits]
    return RELATIVE_RMS[kind, rows[-1]] * math.sqrt(reduction / rows[-1])


def rms(values: np.ndarray) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


@dataclass(frozen=True)
class Deviation:
    """How far one output lies from what is expected, and the verdict.

    `rms` is the relative RMS error, `ulps` the largest error in units of last place of the larger
    of the value and the scale; `wrong` says what is not allowed, and is empty if nothing is.
    """

    rms: float
    allowed: float
    ulps: float
    wrong: str = ""


def differences(actual: np.ndarray, expected: np.ndarray) -> str:
    """Where values are not equal (0 equals -0, NaN equals NaN); empty if they all are."""
    if actual.shape != expected.shape:
        return f"shape {actual.shape}, not {expected.shape}"
    wide, right = (np.asarray(a, np.float64) for a in (actual, expected))
    unequal = ~((wide == right) | (np.isnan(wide) & np.isnan(right)))
    if not unequal.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(unequal)[0])
    return (
        f"{int(unequal.sum())} of {unequal.size} values differ, first at {at}: "
        f"{float(wide[at])!r}, not {float(right[at])!r}"
    )


def exact(actual: np.ndarray, expected: np.ndarray) -> Deviation:
    """The deviation of an output that must be equal."""
    wrong = differences(actual, expected)
    error = math.inf if wrong else 0.0
    return Deviation(error, 0.0, error, wrong)


def _half_unit(value: np.ndarray, kind: str) -> np.ndarray:
    """Half the distance between the numbers of a type around `value`."""
    exponent = np.frexp(value)[1] - 1  # 2^exponent <= |value|
    return ROUNDING[kind] * np.exp2(np.maximum(np.where(value, exponent, -1074), SMALLEST[kind]))


def deviation(
    actual: np.ndarray,
    expected: np.ndarray,
    kind: str,
    reduction: int = 1,
    floor: float = 0.0,
) -> Deviation:
    """The deviation of `actual` from float64 `expected` by the row of `kind` and `reduction`.

    NaN and infinities must be at the same places.
    """
    limit = allowed(kind, reduction)
    if actual.shape != expected.shape:
        return Deviation(math.inf, limit, math.inf, differences(actual, expected))
    wide, right = (np.asarray(a, np.float64) for a in (actual, expected))
    finite = np.isfinite(right)
    special = np.where(finite & np.isfinite(wide), 0.0, wide)
    if told := differences(special, np.where(finite, 0.0, right)):
        return Deviation(math.inf, limit, math.inf, f"NaN or infinity: {told}")
    value = np.where(finite, right, 0.0)
    error = np.abs(np.where(finite, wide, 0.0) - value)
    scale = max(rms(right[finite]), floor)
    found = rms(error[finite])
    relative = found / scale if scale else (math.inf if found else 0.0)
    unit = 2 * ROUNDING[kind] * np.maximum(np.abs(value), scale)
    ulps = float(np.divide(error, unit, out=np.zeros_like(error), where=unit > 0).max(initial=0.0))
    room = limit * (PEAK * scale + np.abs(value))
    told = (
        f"relative RMS error {relative:.3g}, allowed {limit:.3g} for {kind} and sums of {reduction}"
    )
    if kind in SMALLEST and str(actual.dtype) == kind:
        wide_room = allowed("float32", reduction) * (PEAK * scale + np.abs(value))
        once = np.minimum(room, wide_room + _half_unit(value, kind))
        if found <= limit * scale and (error <= room).all() and (count := (error > once).sum()):
            told = f"{count} of {error.size} values are not float32 sums rounded once to {kind}"
        room = once
    over = error - room
    if found <= limit * scale and (over <= 0).all():
        return Deviation(relative, limit, ulps)
    at = tuple(int(i) for i in np.unravel_index(over.argmax(), error.shape))
    return Deviation(
        relative, limit, ulps,
        f"{told}; worst at {at}: {float(wide[at])!r}, not {float(right[at])!r}, "
        f"allowed +-{room[at]:.3g}",
    )  # fmt: skip
