"""How parameters start: at zero, one or a number, or by He from counter-based numbers.

A parameter's values depend on the seed and its name only, so adding a layer changes no other.
He et al. 2015: weights ~ N(0, 2 / fan_in) keep the variance of activations through ReLU layers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import numpy as np

from ..kernels import philox
from .ir import Parameter, Value

CHUNK = 1 << 20  # numbers drawn at a time (even): a dense layer of VGG16 has 103 million
STREAM = 1100  # of the Philox streams; dropout has 0…999, data 1000…1099


def initial_value(parameter: Parameter, seed: int) -> np.ndarray:
    """The starting value of a parameter, float32 on the host."""
    shape = parameter.value.shape
    if parameter.init == "zeros":
        return np.zeros(shape, np.float32)
    if parameter.init == "ones":
        return np.ones(shape, np.float32)
    if parameter.init != "he":
        return np.full(shape, parameter.init, np.float32)
    key = philox.key(seed, zlib.crc32(parameter.value.name.encode()), STREAM)
    values = np.empty(math.prod(shape), np.float32)
    scale = math.sqrt(2.0 / parameter.fan_in)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        part[:] = scale * philox.normal(key, part.size, start)
    return values.reshape(shape)


def initial_values(parameters: Iterable[Parameter], seed: int) -> dict[str, np.ndarray]:
    """Name → starting value for all parameters."""
    return {p.value.name: initial_value(p, seed) for p in parameters}


def initial_state(value: Value) -> float:
    """What a state starts at: a running variance at one, everything else at zero."""
    return 1.0 if value.name.endswith("running_var") else 0.0
