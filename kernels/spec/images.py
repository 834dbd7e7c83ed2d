"""The contract of what happens to pictures on their way into a network: moves and normalisation.

Pictures are kept, and cross a bus, as uint8: a quarter of the bytes of float32.
"""

from __future__ import annotations

from ..errors import DTypeError
from .contract import (
    Array,
    Out,
    accumulator,
    contiguous,
    contract,
    disjoint,
    has_dtype,
    has_rank,
    has_shape,
    same_float,
)


@contract()
def normalise(images: Array, moves: Array | None, mean: Array, scale: Array, out: Out) -> None:
    """out = (moved image - mean) * scale, channel by channel, rounded after each of the two steps.

    images uint8 [N,H,W,C]; mean and scale [C] of the accumulator's type, in units of a pixel's 0 …
    255; out [N,H,W,C] of a float type. `moves` int32 [N,3] or None: for each image the pixels down
    and to the right by which it is shifted, black (0) coming in, and then not 0 for its mirror
    image, left and right exchanged. No sum follows a product, so every backend gives the same bits.

    Raises: ShapeError, DTypeError.
    """
    has_rank("normalise", 4, images=images)
    has_dtype("normalise", "uint8", images=images)
    has_dtype("normalise", "int32", moves=moves)
    wide, dtype = same_float("normalise", mean=mean, scale=scale), same_float("normalise", out=out)
    if wide != accumulator(dtype):
        raise DTypeError(
            f"normalise: mean and scale must be {accumulator(dtype)} for out in {dtype}, not {wide}"
        )
    has_shape("normalise", tuple(images.shape), out=out)
    has_shape("normalise", (images.shape[0], 3), moves=moves)
    has_shape("normalise", tuple(images.shape[3:]), mean=mean, scale=scale)
    contiguous("normalise", images=images, moves=moves, mean=mean, scale=scale, out=out)
    disjoint("normalise", out, images=images, moves=moves, mean=mean, scale=scale)
