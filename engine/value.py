"""A value of a graph: an array-to-be, with a name, a shape and a dtype, and no memory yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..kernels import spec

Kind = Literal["input", "param", "state", "key", "derived", "result", "scratch"]


@dataclass(frozen=True, eq=False)
class Value:
    """An array-to-be. `kind` tells who provides it.

    input: the caller; param: the parameter arena; state: kept between steps and updated in place
    (running statistics); key: uint32[4], names the random stream of one dropout in one step;
    derived: the host, from parameters and states when they are loaded;
    result: the node that writes it; scratch: work memory of one node. `border` is that of its
    memory: rows of zeros below each image, columns to the right of each row
    (`kernels/spec/grid.py`); `shape` does not count it. A value `within` another has no memory of
    its own: it is the slice of that one's channels that begins at `offset`. Of filters that
    are `packed` it tells for which algorithm, and how many elements they then take.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: Kind = "result"
    border: tuple[int, int] = (0, 0)
    within: Value | None = None
    offset: int = 0
    packed: tuple[str, int] | None = None

    @property
    def root(self) -> Value:
        """The value that has the memory: itself, unless it lies within another."""
        return self if self.within is None else self.within.root

    @property
    def channel(self) -> int:
        """The first of its channels in the memory of `root`."""
        return 0 if self.within is None else self.within.channel + self.offset

    @property
    def pitch(self) -> int:
        """Elements from one pixel to the next."""
        return self.root.shape[-1]

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """The shape with the border, or of what is packed."""
        if self.packed is not None:
            return self.packed[1:]
        if self.border == (0, 0):
            return self.shape
        n, h, w, c = self.shape
        return n, h + self.border[0], w + self.border[1], c

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its memory."""
        return math.prod(self.memory_shape) * spec.ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        """Like `conv1/y: float32[64,28,28,32]`, then the border if there is one: `+1+1`.

        Of a slice also where it lies: `in concat1/y[64:96]`; of packed filters for what.
        """
        border = "" if self.border == (0, 0) else f"+{self.border[0]}+{self.border[1]}"
        packed = "" if self.packed is None else f" for {self.packed[0]}"
        extents = ",".join(map(str, self.shape))
        return f"{self.name}: {self.dtype}[{extents}]{border}{self.place}{packed}"

    @property
    def place(self) -> str:
        """Like ` in concat1/y[64:96]` for a slice of channels, else nothing."""
        if self.within is None:
            return ""
        return f" in {self.root.name}[{self.channel}:{self.channel + self.shape[-1]}]"
