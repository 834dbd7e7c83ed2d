"""Convolutions whose filters are packed beforehand; see `kernels/prepared.py`."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..numpy.threads import get_threads
from ..prepared import Prepared
from . import conv, library
from .conv_plan import KERNELS, best_algorithm, config_of, make_plan
from .plan import address

FUNCTIONS = ("conv2d", "conv2d_relu_pool")


def prepare(
    function: str, arguments: Mapping[str, Any], variant: str | None = None
) -> Prepared | None:
    """How a convolution runs with packed filters; None for other functions.

    `variant` forces an instruction set.
    """
    if function not in FUNCTIONS or conv.supports(function, arguments) is not None:
        return None
    variant, workers = variant or library.runnable()[-1], get_threads()
    algorithm = best_algorithm(function, arguments, prepared=True)
    made = make_plan(function, arguments, algorithm, variant, workers, prepared=True)
    (problem,) = made.problems
    entry = getattr(library.open_library(variant), f"{KERNELS[algorithm][function]}_pack")

    def pack(w: np.ndarray, out: np.ndarray) -> None:
        to_fill = type(problem).from_buffer_copy(problem)
        to_fill.w, to_fill.packed = address(w), address(out)
        entry(ctypes.addressof(to_fill))

    chosen = config_of(made, algorithm, variant, workers)
    config = replace(chosen, reason=f"{chosen.reason}; filters packed once")
    return Prepared(config, problem.panels * problem.panel_floats, pack)
