"""3x3 correlations of stride 1 with 2.25 times fewer multiplications: Winograd's F(2x2, 3x3).

A tile of 2x2 outputs reads 4x4 source pixels d and forms 2*2*9 = 36 products a channel. With

    B' = 1  0 -1  0      G = 1    0   0      A' = 1  1  1  0
         0  1  1  0          1/2  1/2 1/2         0  1 -1 -1
         0 -1  1  0          1/2 -1/2 1/2
         0  1  0 -1          0    0   1

the tile is A' [(G g G') * (B' d B)] A, where * multiplies elements: 16 products (A. Lavin, S. Gray,
"Fast Algorithms for Convolutional Neural Networks", CVPR 2016). Summed over channels, that is one
matrix product [tiles, C] @ [C, K] for each of the 16 elements. All entries but the halves are 0 or
1, so little accuracy is lost: the relative RMS error in float32 is 2.7e-7 for 64 channels and
7e-7 for 512, that of direct sums about 4e-7. An infinity in the source may come out as NaN.

Source pixels are first sorted by the parity of their row and column, tile indices outermost,
images and channels innermost; then each transform is a few additions of long contiguous runs.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..spec.contract import Array
from .im2col import Block, fill
from .product import multiply
from .windows import Window

PARITIES = tuple(itertools.product((0, 1), (0, 1)))


def scratch_elements(tiles: tuple[int, int], images: int, c: int, k: int) -> tuple[int, int]:
    """What `correlate` needs of its two scratch arrays for so many rows and columns of tiles."""
    th, tw = tiles
    source = (4 * (th + 1) + 8 * th) * (tw + 1) * images * c
    return max(source, 16 * th * tw * images * k), 16 * th * tw * images * c


def transform_weights(w: Array, out: Array) -> Array:
    """G w G' of w [3, 3, C, K], written to out (flat), as [16, C, K]."""
    _, _, c, k = w.shape
    out = out[: 16 * c * k].reshape(4, 4, c, k)
    _thirds(w, out[:, :3])
    columns = out[:, :3].swapaxes(0, 1).copy()
    _thirds(columns, out.swapaxes(0, 1))
    return out.reshape(16, c, k)


def correlate(
    source: Array, window: Window, block: Block, weights: Array, y: Array, scratch: Array, v: Array
) -> None:
    """y [images, rows, Q, K] = the 3x3 correlation at the block; zero outside the source.

    source [N,H,W,C]; weights [16, C, K] are transformed; scratch and v are flat.
    """
    v = _source_tiles(source, window, block, scratch, v)
    _, _, th, tw, n, c = v.shape
    k = y.shape[3]
    m = scratch[: 16 * th * tw * n * k].reshape(4, 4, th, tw, n, k)
    multiply(v.reshape(16, -1, c), weights, m.reshape(16, -1, k))
    _sums(m)
    _sums(m[:2].swapaxes(0, 1))
    for i, j in PARITIES:
        to = y[:, i::2, j::2]
        np.copyto(to, m[i, j, : to.shape[1], : to.shape[2]].transpose(2, 0, 1, 3))


def wgrad(
    source: Array, window: Window, block: Block, dy: Array, out: Array, scratch: Array, v: Array
) -> None:
    """out [16, K, C] = the block's part of the gradient of the transformed weights.

    It is the transpose of `correlate`: sums over tiles of (A dy A') * (B' d B), but with the sign
    of the last row and column of A turned, which `restore_weights` turns back.
    """
    v = _source_tiles(source, window, block, scratch, v)
    _, _, th, tw, n, c = v.shape
    part, k = block.of(dy), dy.shape[3]
    e = scratch[: 16 * th * tw * n * k].reshape(4, 4, th, tw, n, k)
    for i, j in PARITIES:
        fill(e[3 * i, 3 * j].transpose(2, 0, 1, 3), part[:, i::2, j::2], (0, 0), edge=False)
    _spread(e[:, ::3])
    _spread(e.swapaxes(0, 1))
    multiply(e.reshape(16, -1, k).transpose(0, 2, 1), v.reshape(16, -1, c), out)


def restore_weights(u: Array, out: Array) -> None:
    """out [K, 3, 3, C] = G' u G of u [16, K, C], the sums of `wgrad`."""
    rows = np.empty((3, 4, *u.shape[1:]), u.dtype)
    _fourths(u.reshape(4, 4, *u.shape[1:]), rows)
    _fourths(rows.swapaxes(0, 1), out.transpose(2, 1, 0, 3))


def _source_tiles(source: Array, window: Window, block: Block, scratch: Array, v: Array) -> Array:
    """B' d B of the source pixels of the block's tiles, [4, 4, rows, columns, images, C] in v."""
    n, c = block.n1 - block.n0, source.shape[3]
    th, tw = -(-(block.p1 - block.p0) // 2), -(-window.extent[1] // 2)
    x = scratch[: 4 * (th + 1) * (tw + 1) * n * c].reshape(2, 2, th + 1, tw + 1, n, c)
    top, left = window.start[0] + block.p0, window.start[1]
    for i, j in PARITIES:
        pixels = source[block.n0 : block.n1, (top + i) % 2 :: 2, (left + j) % 2 :: 2]
        fill(x[i, j].transpose(2, 0, 1, 3), pixels, ((top + i) // 2, (left + j) // 2), edge=False)
    t = scratch[x.size : x.size + 8 * th * (tw + 1) * n * c].reshape(4, 2, th, tw + 1, n, c)
    _differences(x[0, :, :-1], x[1, :, :-1], x[0, :, 1:], x[1, :, 1:], t)
    v = v[: 16 * th * tw * n * c].reshape(4, 4, th, tw, n, c)
    t = t.swapaxes(0, 1)
    _differences(t[0, :, :, :-1], t[1, :, :, :-1], t[0, :, :, 1:], t[1, :, :, 1:], v.swapaxes(0, 1))
    return v


def _thirds(g: Array, out: Array) -> None:
    """out [4, ...] = G g, along the first axis of g [3, ...]."""
    outer, inner = (g[0] + g[2]) / 2, g[1] / 2
    out[0], out[3] = g[0], g[2]
    np.add(outer, inner, out=out[1])
    np.subtract(outer, inner, out=out[2])


def _differences(d0: Array, d1: Array, d2: Array, d3: Array, out: Array) -> None:
    """out [4, ...] = B' d."""
    np.subtract(d0, d2, out=out[0])
    np.add(d1, d2, out=out[1])
    np.subtract(d2, d1, out=out[2])
    np.subtract(d1, d3, out=out[3])


def _sums(m: Array) -> None:
    """m [:2] = A' m, in place."""
    np.add(m[0], m[1], out=m[0])
    np.add(m[0], m[2], out=m[0])
    np.subtract(m[1], m[2], out=m[1])
    np.subtract(m[1], m[3], out=m[1])


def _spread(e: Array) -> None:
    """e [4, ...] = A y in place, of y in e[0] and e[3]; the sign of e[3] is turned."""
    np.add(e[0], e[3], out=e[1])
    np.subtract(e[0], e[3], out=e[2])


def _fourths(u: Array, out: Array) -> None:
    """out [3, ...] = G' u, of u [4, ...] with the sign of u[3] turned."""
    half = (u[1] + u[2]) / 2
    np.add(u[0], half, out=out[0])
    np.subtract(u[1] / 2, u[2] / 2, out=out[1])
    np.subtract(half, u[3], out=out[2])
