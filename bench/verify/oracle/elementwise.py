"""Element-wise functions by their definitions, dropout from a scalar Philox4x32-10."""

from __future__ import annotations

import numpy as np

# bits of the significand (the hidden one counted), exponent of the smallest normal, largest value
FORMATS = {
    "float64": (53, -1022, float(np.finfo(np.float64).max)),
    "float32": (24, -126, (2 - 2.0**-23) * 2.0**127),
    "float16": (11, -14, 65504.0),
    "bfloat16": (8, -126, (2 - 2.0**-7) * 2.0**127),
}


def rectify(x):
    """max(0, x), where NaN stays NaN."""
    return np.where(np.isnan(x), x, np.where(x > 0, x, 0.0))


def gate(dy, y):
    """0 where y <= 0, else dy (a NaN in y lets dy pass)."""
    return np.where(y <= 0, 0.0, dy)


def relu(x):
    return {"out": rectify(x)}


def relu_backward(dy, y):
    return {"out": gate(dy, y)}


def add(a, b, relu=False):
    return {"out": rectify(a + b) if relu else a + b}


def mul(a, b):
    return {"out": a * b}


def concat(xs):
    out = np.full((*xs[0].shape[:-1], sum(x.shape[-1] for x in xs)), np.nan)
    channel = 0
    for x in xs:
        for c in range(x.shape[-1]):
            out[..., channel] = x[..., c]
            channel += 1
    return {"out": out}


def channel_slice(x, out_shape, offset):
    out = np.full(out_shape, np.nan)
    for c in range(out_shape[-1]):
        out[..., c] = x[..., offset + c]
    return {"out": out}


def philox4x32(counter, key):
    """One block of Philox4x32-10 on Python integers: four words of counter, two of key."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(10):
        if turn > 0:
            k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & mask, (low >> 32) ^ c3 ^ k1, low & mask
    return c0, c1, c2, c3


def philox_number(key, i):
    """Number i of the stream that `key` (seed low, seed high, step, stream) names."""
    seed_low, seed_high, step, stream = (int(word) for word in key)
    block = i // 4
    counter = (block & 0xFFFFFFFF, block >> 32, step, stream)
    return philox4x32(counter, (seed_low, seed_high))[i % 4]


def dropout(x, op, key):
    out = np.zeros(x.size)
    for i, value in enumerate(x.reshape(-1)):
        if philox_number(key, i) >= op.p * 2**32:
            out[i] = value / (1 - op.p)
    return {"out": out.reshape(x.shape)}


def round_to(x, dtype):
    """float64 values rounded to the nearest value of `dtype`, ties to even; too large: infinity.

    The spacing of the values around x is 2^(exponent - bits + 1), not below that of subnormals.
    """
    bits, smallest, largest = FORMATS[dtype]
    finite = np.isfinite(x)
    _, exponent = np.frexp(np.where(finite, x, 0.0))  # |x| in [2^(exponent-1), 2^exponent)
    spacing = np.maximum(exponent - 1, smallest) - (bits - 1)
    near = np.ldexp(np.rint(np.ldexp(np.where(finite, x, 0.0), -spacing)), spacing)
    near = np.where(np.abs(near) > largest, np.copysign(np.inf, x), near)
    return np.where(finite, near, x)


def cast(x, out_dtype):
    return {"out": round_to(x, out_dtype)}
