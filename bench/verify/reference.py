"""What a call must give, in float64: from plain loops if it is small, else from the NumPy backend.

The loops (`oracle`) share nothing with any backend, so that the NumPy backend is held to them, too;
for large calls they would take minutes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...kernels import registry, spec
from . import oracle

STEPS = 1 << 14  # of the loops at most: about a tenth of a second
Arguments = Mapping[str, Any]
Answer = dict[str, np.ndarray]


def reference(function: str, arguments: Arguments) -> Answer:
    """The outputs of a call that it asks for, in float64; integers keep their type."""
    given = {n: v for n, v in arguments.items() if n not in ("workspace", "config")}
    return looped(function, given) if steps(function, given) <= STEPS else _numpys(function, given)


def steps(function: str, arguments: Arguments) -> int:
    """How often the loops of a call turn, at most about."""
    arrays = [v for v in arguments.values() if isinstance(v, np.ndarray)]
    op = arguments.get("op")
    if isinstance(op, spec.Conv2d):
        x = arguments["out"] if function == "conv2d_dgrad" else arguments["x"]
        w = arguments["out"] if function == "conv2d_wgrad" else arguments["w"]
        return math.prod(op.output_shape(x.shape, w.shape)[1:3]) * math.prod(w.shape[1:3])
    return max(a.size for a in arrays) * math.prod(getattr(op, "kernel", ()))


def looped(function: str, arguments: Arguments) -> Answer:
    """The outputs by plain loops."""
    loops, directions = getattr(oracle, function), spec.directions(function)
    told = {n: v if directions[n] == "static" else _wide(v) for n, v in arguments.items()}
    if (out := arguments.get("out")) is not None:
        told["out_shape"], told["out_dtype"] = out.shape, str(out.dtype)
    with np.errstate(all="ignore"):
        made = loops(**{n: told[n] for n in inspect.signature(loops).parameters if n in told})
    return {
        n: np.asarray(made[n], _kind(arguments[n]))
        for n, direction in directions.items()
        if direction in ("out", "inout") and arguments.get(n) is not None
    }


def _numpys(function: str, arguments: Arguments) -> Answer:
    directions, given = spec.directions(function), {}
    for name, value in arguments.items():
        if directions[name] == "out" and value is not None:
            given[name] = np.zeros(value.shape, _kind(value))
        else:
            given[name] = value if directions[name] == "static" else _wide(value)
    backend = registry.load("numpy")
    with backend.session():
        backend.function(function)(**given)
    return {n: given[n] for n in given if directions[n] in ("out", "inout")}


def _kind(value: np.ndarray) -> Any:
    return np.float64 if str(value.dtype) in spec.contract.FLOATS else value.dtype


def _wide(value: Any) -> Any:
    if isinstance(value, Sequence):
        return [_wide(v) for v in value]
    is_float = isinstance(value, np.ndarray) and str(value.dtype) in spec.contract.FLOATS
    return value.astype(np.float64) if is_float else value
