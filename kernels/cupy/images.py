"""Pictures: one sweep that reads a byte and writes a float for every element (images.cu)."""

from __future__ import annotations

import numpy

from .. import spec
from ..spec.contract import Array, Out
from .group import THREADS, group
from .launch import Kernel, cdiv, launch, type_name, usable


@spec.implements(spec.normalise)
def normalise(images: Array, moves: Array | None, mean: Array, scale: Array, out: Out) -> None:
    """A thread writes one group of neighbouring elements."""
    usable("normalise", images=images, moves=moves, mean=mean, scale=scale, out=out)
    _, H, W, C = images.shape
    launch(
        Kernel("images.cu", f"normalise_kernel<{type_name(out)}>"),
        *(cdiv(out.size, group(out) * THREADS), THREADS),
        *(images, moves, mean, scale, out, numpy.int64(out.size), H, W, C),
    )
