"""Batch norm and LRN, one channel at a time."""

from __future__ import annotations

import math

import numpy as np

from .elementwise import gate, rectify


def batch_norm_training(x, gamma, beta, running_mean, running_var, op, relu=False):
    channels, count = x.shape[3], x[..., 0].size
    out, mean, invstd = np.zeros(x.shape), np.zeros(channels), np.zeros(channels)
    running_mean, running_var = running_mean.copy(), running_var.copy()
    for c in range(channels if count else 0):
        mean[c] = x[..., c].sum() / count
        squares = ((x[..., c] - mean[c]) ** 2).sum()
        invstd[c] = 1 / math.sqrt(squares / count + op.eps)
        out[..., c] = gamma[c] * (x[..., c] - mean[c]) * invstd[c] + beta[c]
        running_mean[c] += op.momentum * (mean[c] - running_mean[c])
        running_var[c] += op.momentum * (squares / (count - 1) - running_var[c])
    return {
        "out": rectify(out) if relu else out,
        "mean": mean,
        "invstd": invstd,
        "running_mean": running_mean,
        "running_var": running_var,
    }


def batch_norm_inference(x, gamma, beta, running_mean, running_var, op, relu=False):
    out = np.zeros(x.shape)
    for c in range(x.shape[3]):
        deviation = math.sqrt(running_var[c] + op.eps)
        out[..., c] = gamma[c] * (x[..., c] - running_mean[c]) / deviation + beta[c]
    return {"out": rectify(out) if relu else out}


def batch_norm_backward(x, dy, gamma, mean, invstd, op, mask=None):
    channels, count = x.shape[3], x[..., 0].size
    if mask is not None:
        dy = gate(dy, mask)
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(channels), np.zeros(channels)
    for c in range(channels if count else 0):
        xhat = (x[..., c] - mean[c]) * invstd[c]
        dbeta[c] = dy[..., c].sum()
        dgamma[c] = (dy[..., c] * xhat).sum()
        rest = dy[..., c] - dbeta[c] / count - xhat * dgamma[c] / count
        dx[..., c] = gamma[c] * invstd[c] * rest
    return {"out": dx, "dgamma": dgamma, "dbeta": dbeta}


def _neighbours(c, size, channels):
    return [j for j in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= j < channels]


def _response(x, op):
    """k + alpha / size * sum of x² over the neighbours of each channel."""
    response = np.full(x.shape, float(op.k))
    for c in range(x.shape[3]):
        for j in _neighbours(c, op.size, x.shape[3]):
            response[..., c] += op.alpha / op.size * x[..., j] ** 2
    return response


def lrn(x, op):
    return {"out": x / _response(x, op) ** op.beta}


def lrn_backward(x, dy, op):
    """From y_c = x_c d_c^-beta:  dy_c/dx_j = [c = j] d_c^-beta - beta x_c d_c^(-beta-1) dd_c/dx_j,

    with dd_c/dx_j = 2 alpha / size * x_j for every neighbour j of c.
    """
    response = _response(x, op)
    dx = dy / response**op.beta
    for c in range(x.shape[3]):
        common = dy[..., c] * op.beta * x[..., c] / response[..., c] ** (op.beta + 1)
        for j in _neighbours(c, op.size, x.shape[3]):
            dx[..., j] -= common * 2 * op.alpha / op.size * x[..., j]
    return {"out": dx}
