"""The contract's convolution and pooling in torch's operators, on NCHW tensors, written to be fast.

Used by the twins of whole networks and by the baselines of single kernels. Where torch has the
padding itself (zeros, the same on both sides) it does it; the rest is padded beforehand.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from ..kernels import spec

Shape = tuple[int, ...]


def own_padding(op: spec.Conv2d) -> tuple[int, int] | None:
    """The padding as torch's convolution takes it, or None if it cannot."""
    top, bottom, left, right = op.padding
    even = top == bottom and left == right
    zeros = op.padding_mode == "zeros" or not any(op.padding)
    return (top, left) if even and zeros else None


def conv2d(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, op: spec.Conv2d
) -> torch.Tensor:
    """x [N,C,H,W], w [K,C/groups,R,S] → [N,K,P,Q]."""
    padding = own_padding(op)
    if padding is None:
        top, bottom, left, right = op.padding
        mode = "replicate" if op.padding_mode == "edge" else "constant"
        x = F.pad(x, (left, right, top, bottom), mode=mode)
    return F.conv2d(x, w, b, op.stride, padding or (0, 0), op.dilation, op.groups)


def _pools_itself(op: spec.MaxPool2d | spec.AvgPool2d) -> bool:
    """Whether torch's pooling takes the padding: even, and at most half the window."""
    top, bottom, left, right = op.padding
    return (
        (top, left) == (bottom, right)
        and top <= op.kernel[0] // 2
        and left <= op.kernel[1] // 2
    )  # fmt: skip


def _padded(x: torch.Tensor, op: spec.MaxPool2d | spec.AvgPool2d, value: float) -> torch.Tensor:
    top, bottom, left, right = op.padding
    return F.pad(x, (left, right, top, bottom), value=value)


def max_pool2d(x: torch.Tensor, op: spec.MaxPool2d, shape: Shape) -> torch.Tensor:
    """x [N,C,H,W] → maxima; `shape` is the result's as the contract has it, [N,P,Q,C]."""
    kernel, stride, dilation = op.kernel, op.stride, op.dilation
    if _pools_itself(op):
        pads = (op.padding[0], op.padding[2])
        return F.max_pool2d(x, kernel, stride, pads, dilation, op.ceil_mode)
    x = _padded(x, op, -torch.inf)
    pooled = F.max_pool2d(x, kernel, stride, 0, dilation, op.ceil_mode)
    return pooled[:, :, : shape[1], : shape[2]]


def avg_pool2d(x: torch.Tensor, op: spec.AvgPool2d, shape: Shape) -> torch.Tensor:
    """x [N,C,H,W] → means; `shape` is the result's as the contract has it, [N,P,Q,C]."""
    kernel, stride, ceil = op.kernel, op.stride, op.ceil_mode
    if _pools_itself(op):
        pads = (op.padding[0], op.padding[2])
        return F.avg_pool2d(x, kernel, stride, pads, ceil, op.count_include_pad)
    means = F.avg_pool2d(_padded(x, op, 0.0), kernel, stride, 0, ceil)
    if not op.count_include_pad:
        inside = _padded(torch.ones_like(x), op, 0.0)
        means = means / F.avg_pool2d(inside, kernel, stride, 0, ceil)
    return means[:, :, : shape[1], : shape[2]]
