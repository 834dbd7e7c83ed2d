"""Filters that never change, packed once: in the order of the kernel that will read them.

A backend whose kernels would rearrange their filters at every call may offer, beside `choose`,

    prepare(function, arguments) -> Prepared | None

for calls whose filters stay as they are, as at inference. The caller keeps `elements` numbers, has
`pack` fill them, and hands them in as `Packed` in the place of w. The kernel refuses what was
packed for another algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .spec.contract import Array, Config


@dataclass(frozen=True)
class Prepared:
    """How a call is made whose filters are packed beforehand.

    `config` is that of the call; the packed filters are `elements` numbers of the type of w;
    `pack(w, out)` writes those of w [K,R,S,C] to out [elements].
    """

    config: Config
    elements: int
    pack: Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Packed:
    """What stands for w in such a call: `data` [elements], and w's own shape and type."""

    data: Array
    shape: tuple[int, ...]
    algorithm: str

    @property
    def dtype(self) -> Any:
        """The element type."""
        return self.data.dtype
