"""The other side on a GPU: cuDNN, in each of the honest ways in which torch reaches it.

All are channels_last, in the same type and with the same TF32 setting as ours ("tf32x3" stands
against full float32), with cuDNN's own search for the fastest algorithm:

- eager: torch's functions; the bias and the ReLU are kernels of their own;
- conv_relu: cuDNN's fused convolution, bias and ReLU;
- compile: torch.compile with max-autotune (its own graphs are off, ours take their place);
- frontend: cuDNN's graph of convolution, bias and ReLU, where its Python frontend is installed.

None is always best (the fused one had steep cliffs, eager moves the activation three times), so
the report takes the best of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from . import torch_ops
from .baselines import (
    backward_call,
    forward_call,
    max_pool_call,
    plain_way,
    tensors,
    to_host,
)
from .gpu import Replay
from .torch_terms import same_terms
from .work import Work

Given = dict[str, torch.Tensor]
Call = Callable[[], Any]
COMPILE = "max-autotune-no-cudagraphs"


@dataclass(frozen=True)
class CudaWay:
    """One way: a call for each set of buffers; `host` takes a result to our layout."""

    name: str
    calls: Sequence[Call]
    host: Callable[[Any], np.ndarray] = to_host


def release() -> None:
    """Give back what torch keeps of tensors that are gone: nobody else can ask it for that."""
    torch.cuda.empty_cache()


@contextlib.contextmanager
def on_stream(pointer: int, index: int) -> Iterator[Any]:
    """torch launches on this CUDA stream of GPU `index`; yields it."""
    stream = torch.cuda.ExternalStream(pointer, device=index)
    with torch.cuda.device(index), torch.cuda.stream(stream):
        yield stream


def capture(stream: Any, run: Callable[[], None]) -> Replay:
    """A graph of torch's launches on `stream`."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay


@contextlib.contextmanager
def product(kind: str, size: int, place: str = "cuda") -> Iterator[Call]:
    """A large matrix product of a type by torch, which is by cuBLAS; "tf32x3": in full float32."""
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    a, b = (torch.randn(size, size, device=place).to(half) for _ in range(2))
    with same_terms(kind):
        yield lambda: a @ b


def float64(work: Work, place: str = "cuda") -> np.ndarray:
    """The work of a float64 part by torch on the GPU, which has the time for it."""
    return to_host(plain_way(work, channels_last=False, place=place).call())


def cuda_ways(
    work: Work, count: int, *, place: str = "cuda", compiled: bool = True
) -> tuple[list[CudaWay], list[str]]:
    """The ways to do the work on `count` sets of buffers, and a line for each that cannot."""
    filled = [tensors(work, torch.channels_last, place) for _ in range(count)]
    makers: dict[str, Callable[[Work, Given], Call | None]] = {"cudnn eager": _eager}
    if work.name.startswith("forward"):
        makers["cudnn conv_relu"] = _conv_relu
        makers["cudnn frontend"] = _frontend
    if compiled and work.name not in ("dgrad", "wgrad"):
        makers["torch compile"] = functools.partial(_compiled, compile_body(work))
    ways, told = [], []
    for name, maker in makers.items():
        try:
            calls = [maker(work, given) for given in filled]
            if calls[0] is not None:
                calls[0]()  # what it cannot do here shows now
                ways.append(CudaWay(name, [c for c in calls if c is not None]))
        except Exception as error:  # a baseline that fails is told and left out
            first = str(error).strip().partition("\n")[0]
            told.append(f"{name}: {type(error).__name__}: {first}")
    return ways, told


def _eager(work: Work, given: Given) -> Call:
    if work.name in ("dgrad", "wgrad"):
        return backward_call(work, given)
    return _without_gradients(forward_call(work, given))


def _without_gradients(call: Call) -> Call:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _padded(work: Work, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """x and the padding that cuDNN takes; what it does not take is done beforehand."""
    own = torch_ops.own_padding(work.layer.op)
    if own is not None:
        return x, own
    top, bottom, left, right = work.layer.op.padding
    mode = "replicate" if work.layer.op.padding_mode == "edge" else "constant"
    return F.pad(x, (left, right, top, bottom), mode=mode), (0, 0)


def _conv_relu(work: Work, given: Given) -> Call | None:
    if work.name == "forward":
        return None
    op = work.layer.op

    def call() -> torch.Tensor:
        x, padding = _padded(work, given["x"])
        w, b = given["w"], given["b"]
        return torch.cudnn_convolution_relu(x, w, b, op.stride, padding, op.dilation, op.groups)

    return _without_gradients(max_pool_call(work, call) if work.name.endswith("pool") else call)


def compile_body(work: Work) -> Callable[..., Any]:
    """The pass as a function of its tensors, compiled."""
    names = list(work.given)

    def body(*arrays: torch.Tensor) -> torch.Tensor:
        return forward_call(work, dict(zip(names, arrays, strict=True)))()

    return torch.compile(body, mode=COMPILE, dynamic=False)


def _compiled(body: Callable[..., Any], work: Work, given: Given) -> Call:
    return _without_gradients(lambda: body(*(given[name] for name in work.given)))


def _frontend(work: Work, given: Given) -> Call | None:
    """cuDNN's graph API; None where its Python frontend is not installed or the pad is not its."""
    try:
        cudnn = importlib.import_module("cudnn")
    except ImportError:
        return None
    op, layer = work.layer.op, work.layer
    if op.padding_mode == "edge" or op.groups > 1:
        return None
    graph = cudnn.pygraph(
        io_data_type=getattr(cudnn.data_type, _cudnn_type(given["x"].dtype)),
        intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT,
    )
    x, w = graph.tensor_like(given["x"]), graph.tensor_like(given["w"])
    y = graph.conv_fprop(
        image=x, weight=w, pre_padding=list(op.padding[::2]), post_padding=list(op.padding[1::2]),
        stride=list(op.stride), dilation=list(op.dilation),
    )  # fmt: skip
    bias = given["b"].view(1, -1, 1, 1).contiguous(memory_format=torch.channels_last)
    b = graph.tensor_like(bias)
    y = graph.bias(name="bias", input=y, bias=b)
    if work.name != "forward":
        y = graph.relu(name="relu", input=y)
    n, p, q, k = layer.y_shape(work.batch)
    out = torch.empty((n, k, p, q), dtype=given["x"].dtype, device=given["x"].device)
    out = out.contiguous(memory_format=torch.channels_last)
    y.set_output(True)
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=out.device)

    def call() -> torch.Tensor:
        graph.execute({x: given["x"], w: given["w"], b: bias, y: out}, workspace)
        return out

    return max_pool_call(work, call) if work.name.endswith("pool") else call


def _cudnn_type(kind: torch.dtype) -> str:
    return {torch.float32: "FLOAT", torch.float16: "HALF", torch.bfloat16: "BFLOAT16"}[kind]
