"""Random shifts and mirror images, drawn for each sample by its own number.

What a sample looks like in an epoch depends on (seed, epoch, sample id) and on nothing else: not on
the batch size, not on the order, not on where a run was resumed. Sample `id` owns block `id` of the
stream `key(seed, epoch, AUGMENT)`: its first three words give the two shifts and the flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...kernels import philox
from ..errors import InputError
from .streams import AUGMENT


class Moves(NamedTuple):
    """What happens to each sample: `down`, `right` int64[B] in pixels, `mirror` bool[B]."""

    down: np.ndarray
    right: np.ndarray
    mirror: np.ndarray


@dataclass(frozen=True)
class Augment:
    """Shift by up to `shift` pixels each way, black coming in at the edge; `flip` half of them.

    Raises:
        InputError: `shift` is negative.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        """Check the range of the shift."""
        if self.shift < 0:
            raise InputError(f"augmentation shift {self.shift}: must be 0 pixels or more")

    def draw(self, sample_ids: np.ndarray, *, seed: int, epoch: int) -> Moves:
        """The moves of the samples `sample_ids` int64[B] in this epoch."""
        seed_low, seed_high, step, stream = philox.key(seed, epoch, AUGMENT)
        counter = np.empty((len(sample_ids), 4), np.uint32)
        counter[:, 0] = sample_ids & 0xFFFFFFFF
        counter[:, 1] = sample_ids >> 32
        counter[:, 2:] = (step, stream)
        words = philox.philox4x32(counter, (int(seed_low), int(seed_high))).astype(np.uint64)
        steps = (words[:, :2] * np.uint64(2 * self.shift + 1)) >> np.uint64(32)
        moves = steps.astype(np.int64) - self.shift
        mirror = (words[:, 2] >> np.uint64(31)).astype(bool) & self.flip
        return Moves(moves[:, 0], moves[:, 1], mirror)

    def move(self, images: np.ndarray, moves: Moves) -> np.ndarray:
        """`images` uint8[B, H, W, C] after `moves`, the flip last; a new array of that shape.

        Raises:
            InputError: the shift would push a whole image out of sight.
        """
        B, H, W, C = images.shape
        if self.shift >= min(H, W):
            raise InputError(
                f"augmentation shift {self.shift}: must be below the image's shorter side"
                f" ({min(H, W)} pixels)"
            )
        out = images
        if self.shift:
            margin = self.shift
            padded = np.zeros((B, H + 2 * margin, (W + 2 * margin) * C), np.uint8)
            rows = images.reshape(B, H, W * C)
            padded[:, margin : margin + H, margin * C : (margin + W) * C] = rows
            windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W * C), axis=(1, 2))
            out = windows[np.arange(B), margin - moves.down, (margin - moves.right) * C]
            out = out.reshape(B, H, W, C)
        return np.where(moves.mirror[:, None, None, None], out[:, :, ::-1], out)

    def apply(
        self, images: np.ndarray, sample_ids: np.ndarray, *, seed: int, epoch: int
    ) -> np.ndarray:
        """Draw and move: `images` uint8[B, H, W, C] of the samples `sample_ids` int64[B].

        Raises:
            InputError: the shift would push a whole image out of sight.
        """
        return self.move(images, self.draw(sample_ids, seed=seed, epoch=epoch))
