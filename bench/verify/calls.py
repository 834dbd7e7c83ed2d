"""Makes the arguments of a call: a builder for every contract function, from a geometry.

`BUILDERS[function](draw, geometry)` gives host arrays by the contract's names, outputs included;
None where the geometry has no such call. Optional arguments come and go by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...kernels import spec
from . import calls_general, calls_products, calls_rest
from .draw import Draw

Arguments = dict[str, Any]

BUILDERS: dict[str, Callable[[Draw, Any], Arguments | None]] = {
    name: getattr(module, name)
    for module in (calls_products, calls_general, calls_rest)
    for name in spec.CONTRACTS
    if hasattr(module, name)
}
