"""Whether arrays are those of a network: the same names, and each of the same shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .errors import InputError

LISTED = 6  # what is wrong, in an error


def check_fit(
    arch: str, wanted: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray],
    source: str = "the weights",
) -> None:  # fmt: skip
    """Hold arrays of any shape to the `wanted` shapes by name.

    Raises: InputError listing missing, unknown and misshapen ones.
    """
    wrong = [f"missing {n}" for n in wanted if n not in arrays]
    wrong += [f"unknown {n}" for n in arrays if n not in wanted]
    wrong += [
        f"{n} is {arrays[n].shape}, not {shape}"
        for n, shape in wanted.items()
        if n in arrays and arrays[n].shape != shape
    ]
    if wrong:
        left = len(wrong) - LISTED
        told = "; ".join(wrong[:LISTED]) + (f"; and {left} more" if left > 0 else "")
        raise InputError(f"{source} do not fit {arch}: {told}")
