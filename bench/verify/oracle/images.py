"""Pictures, one pixel at a time."""

from __future__ import annotations

import numpy as np


def normalise(images, moves, mean, scale):
    n, h, w, c = images.shape
    out = np.empty(images.shape)
    for i in range(n):
        down, right, mirror = (0, 0, 0) if moves is None else map(int, moves[i])
        for row in range(h):
            for column in range(w):
                shifted = w - 1 - column if mirror else column
                from_row, from_column = row - down, shifted - right
                seen = 0 <= from_row < h and 0 <= from_column < w
                for channel in range(c):
                    pixel = float(images[i, from_row, from_column, channel]) if seen else 0.0
                    out[i, row, column, channel] = (pixel - mean[channel]) * scale[channel]
    return {"out": out}
