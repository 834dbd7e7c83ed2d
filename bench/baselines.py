"""The other side of a kernel's row: torch, in each of the ways in which people run it.

- contiguous: NCHW tensors, torch's default;
- channels_last: NHWC in memory, the fast format of its convolutions on most CPUs;
- onednn-packed: filters reordered once for oneDNN and the ReLU fused into the convolution: what
  torch.compile does for inference (forward passes only).

Inputs and weights are in place before the clock starts; results are what torch returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from . import torch_ops
from .work import Work


@dataclass(frozen=True)
class Way:
    """One way to do a piece of work: `host` takes what `call` returns to our layout."""

    name: str
    call: Callable[[], Any]
    host: Callable[[Any], np.ndarray]
    session: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """A result in our layout; bfloat16, which NumPy has not, as float32."""
    tensor = tensor.detach().permute(0, 2, 3, 1)
    return np.ascontiguousarray((tensor.float() if tensor.itemsize == 2 else tensor).cpu().numpy())


def plain_way(work: Work, *, channels_last: bool, place: str = "cpu") -> Way:
    """The work in torch's own functions, on tensors of one memory format on device `place`."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    name = "torch channels_last" if channels_last else "torch contiguous"
    given = tensors(work, memory, place)
    if work.name in ("dgrad", "wgrad"):
        return Way(name, backward_call(work, given), to_host)
    return Way(name, forward_call(work, given), to_host, torch.inference_mode)


def torch_ways(work: Work) -> list[Way]:
    """All ways of torch to do `work` on the CPU."""
    ways = [plain_way(work, channels_last=False), plain_way(work, channels_last=True)]
    if work.name.startswith("forward") and torch.backends.mkldnn.is_available():
        packed = _packed(work, tensors(work, torch.channels_last))
        if packed is not None:
            ways.append(Way("torch onednn-packed", packed, to_host, torch.inference_mode))
    return ways


def tensors(work: Work, memory: torch.memory_format, place: str = "cpu") -> dict[str, torch.Tensor]:
    """The arrays of the work as tensors of torch's layout; a bias has the type of the others."""
    given = {n: _tensor(a, memory).to(place) for n, a in work.given.items()}
    kind = next(iter(given.values())).dtype
    return {n: t.to(kind) for n, t in given.items()}


def _tensor(array: np.ndarray, memory: torch.memory_format) -> torch.Tensor:
    if str(array.dtype) == "bfloat16":
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 3, 1, 2).contiguous(memory_format=memory)
    return tensor


def forward_call(work: Work, given: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A forward pass or a pool in torch's own functions."""
    layer, x, w, b = work.layer, given["x"], given.get("w"), given.get("b")
    shape = layer.y_shape(work.batch)
    if work.name == "avg_pool":
        averaging = layer.avg_pool
        assert averaging is not None
        pooled = averaging.output_shape(shape)
        return lambda: torch_ops.avg_pool2d(x, averaging, pooled)
    if work.name == "max_pool":
        return max_pool_call(work, lambda: x)
    assert w is not None
    if work.name == "forward":
        return lambda: torch_ops.conv2d(x, w, b, layer.op)

    def conv_relu() -> torch.Tensor:
        return F.relu(torch_ops.conv2d(x, w, b, layer.op), inplace=True)

    return conv_relu if work.name == "forward+relu" else max_pool_call(work, conv_relu)


def max_pool_call(work: Work, before: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The layer's max pool of what `before` returns."""
    pool = work.layer.pool
    assert pool is not None
    shape = pool.output_shape(work.layer.y_shape(work.batch))
    return lambda: torch_ops.max_pool2d(before(), pool, shape)


def backward_call(work: Work, given: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """One gradient alone, as autograd would compute it."""
    layer, op, dy = work.layer, work.layer.op, given["dy"]
    at = 0 if work.name == "dgrad" else 1
    memory = torch.channels_last if _is_channels_last(dy) else torch.contiguous_format
    shapes = (layer.x_shape(work.batch), layer.w_shape)
    x, w = (
        given[n] if n in given else _tensor(np.zeros(shape, work.dtype), memory).to(dy.device)
        for n, shape in zip(("x", "w"), shapes, strict=True)
    )
    padding = torch_ops.own_padding(op)
    if padding is not None:
        wanted = [at == 0, at == 1, False]
        backward = torch.ops.aten.convolution_backward
        settings = (op.stride, padding, op.dilation, False, (0, 0), op.groups, wanted)
        return lambda: backward(dy, x, w, None, *settings)[at]
    leaf = (x, w)[at].requires_grad_()
    y = torch_ops.conv2d(x, w, None, op)
    return lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True)[0]


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _packed(work: Work, given: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor] | None:
    """Filters packed once, the ReLU fused; None where this torch has no such operator."""
    layer, op = work.layer, work.layer.op
    x, w, b = given["x"], given["w"], given["b"]
    try:
        pack = torch.ops.mkldnn._reorder_convolution_weight
        convolve = torch.ops.mkldnn._convolution_pointwise
    except (AttributeError, RuntimeError):
        return None
    own = torch_ops.own_padding(op)
    top, bottom, left, right = op.padding
    mode = "replicate" if op.padding_mode == "edge" else "constant"

    def padded() -> torch.Tensor:
        return x if own is not None else F.pad(x, (left, right, top, bottom), mode=mode)

    padding = own or (0, 0)
    with torch.inference_mode():
        filters = pack(w, padding, op.stride, op.dilation, op.groups, list(padded().shape))
    after = "none" if work.name == "forward" else "relu"
    settings = (padding, op.stride, op.dilation, op.groups, after, [], "")

    def call() -> torch.Tensor:
        return convolve(padded(), filters, b, *settings)

    return (
        call if layer.pool is None or not work.name.endswith("pool") else max_pool_call(work, call)
    )
