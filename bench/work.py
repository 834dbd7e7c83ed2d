"""One layer and one pass of it, as work that any side can do, and the check of who did it.

The check is against float64: the same work in float64, in parts of a few images so that it needs
little memory. It runs before any timing, on the very arrays that are timed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.device import numpy_dtype
from ..engine.errors import unknown_name
from ..kernels import spec
from .suites import HALVING, Layer
from .verify import tolerance

PASSES = (
    "forward", "forward+relu", "forward+relu+pool", "dgrad", "wgrad", "max_pool", "avg_pool",
)  # fmt: skip

KINDS = {  # precision of a kernel -> its row of the tolerance table
    "fp32": "float32",
    "tf32x3": "tf32x3",
    "tf32": "tf32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
HOST_PRECISIONS = ("fp32", "fp16", "bf16")  # tf32 is the tensor cores'
PART_BYTES = 1 << 27  # float64 images of one part of the check
LINE_BYTES = 64  # a cache line, and the widest vector


@dataclass(frozen=True)
class Work:
    """`name` is the pass; `given` holds its arrays (x, w, b, dy) in our layouts.

    A bias has the type of sums; the other arrays are of one type.
    """

    layer: Layer
    name: str
    batch: int
    given: dict[str, np.ndarray]
    precision: str = "fp32"

    @property
    def kind(self) -> str:
        """The row of the tolerance table."""
        return KINDS[self.precision]

    @property
    def op(self) -> spec.Conv2d:
        """The convolution with the precision of float32 products."""
        exact = self.precision not in ("tf32x3", "tf32")
        return self.layer.op if exact else replace(self.layer.op, precision=self.precision)

    @property
    def bytes(self) -> int:
        """Bytes that are read or written once, at least: inputs and outputs of the whole pass."""
        calls, out = our_calls(self, Host(self.given))
        code = calls[-1][1].get("code")
        arrays = [*self.given.values(), out, *([] if code is None else [code])]
        return sum(a.nbytes for a in arrays)

    @property
    def dtype(self) -> np.dtype:
        """The element type of all arrays."""
        return next(iter(self.given.values())).dtype

    @property
    def flops(self) -> int:
        """Floating-point operations of the convolution; 0 for a pool alone."""
        if self.name.endswith("_pool"):
            return 0
        return self.layer.op.flops(self.layer.x_shape(self.batch), self.layer.w_shape)

    @property
    def terms(self) -> int:
        """The number of terms in one sum."""
        k, r, s, c = self.layer.w_shape
        n, p, q, _ = self.layer.y_shape(self.batch)
        if self.name.endswith("_pool"):
            return math.prod(self.layer.pool.kernel) if self.layer.pool else 1
        return {"dgrad": r * s * k // self.layer.op.groups, "wgrad": n * p * q}.get(
            self.name, r * s * c
        )

    def parts(self) -> Iterator[Work]:
        """The same work in float64, a few images at a time."""
        images = {n: a for n, a in self.given.items() if n in ("x", "dy")}
        fixed = {n: a.astype(np.float64) for n, a in self.given.items() if n not in images}
        size = 8 * sum(a[0].size for a in images.values())
        count = max(1, min(self.batch, PART_BYTES // size))
        for start in range(0, self.batch, count):
            cut = {n: a[start : start + count].astype(np.float64) for n, a in images.items()}
            batch = min(count, self.batch - start)
            yield replace(self, batch=batch, given={**cut, **fixed})


def make(layer: Layer, name: str, batch: int, precision: str = "fp32") -> Work | None:
    """The pass called `name` with random arrays; None if the layer has no such pass.

    Raises: InputError for an unknown pass.
    """
    if name not in PASSES:
        raise unknown_name("pass", name, PASSES)
    if "pool" in name and layer.pool is None:
        return None
    rng = np.random.default_rng(zlib.crc32(f"{layer}/{name}".encode()))
    x, w, y = layer.x_shape(batch), layer.w_shape, layer.y_shape(batch)
    shapes = {
        "dgrad": {"dy": y, "w": w},
        "wgrad": {"x": x, "dy": y},
        "max_pool": {"x": y},
        "avg_pool": {"x": y},
    }.get(name, {"x": x, "w": w, "b": w[:1]})
    kind, given = KINDS[precision], {}
    for n, shape in shapes.items():
        narrow = n != "b" and kind in ("float16", "bfloat16")
        given[n] = aligned(shape, kind if narrow else "float32")
        given[n][...] = rng.standard_normal(shape, np.float32)
    return Work(layer, name, batch, given, precision)


def aligned(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An array with arbitrary content on a cache line's start, as the engine's and torch's are.

    NumPy's own begin 16 bytes behind one, so that every vector of 64 bytes touches two lines.
    """
    kind = numpy_dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = np.empty(size + LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % LINE_BYTES
    return raw[start : start + size].view(kind).reshape(tuple(shape))


Calls = list[tuple[str, dict[str, Any]]]


class Host:
    """Where the arrays of a work lie: here, as they are. A GPU has its own (`gpu.py`)."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Keep the arrays by their names."""
        self.given = given

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """An array with arbitrary content."""
        return aligned(shape, dtype)


def our_calls(work: Work, place: Host) -> tuple[Calls, Any]:
    """The contract functions of the pass with their arguments in `place`, and their result."""
    layer, given, op = work.layer, place.given, work.op
    dtype = str(work.dtype)
    y_shape = layer.y_shape(work.batch)
    if work.name == "dgrad":
        out = place.empty(layer.x_shape(work.batch), dtype)
        return [("conv2d_dgrad", {**given, "out": out, "op": op})], out
    if work.name == "wgrad":
        out = place.empty(layer.w_shape, spec.accumulator(dtype))
        return [("conv2d_wgrad", {**given, "out": out, "op": op})], out
    if work.name == "avg_pool":
        assert layer.avg_pool is not None
        out = place.empty(layer.avg_pool.output_shape(y_shape), dtype)
        return [("avg_pool2d", {**given, "out": out, "op": layer.avg_pool})], out
    if not work.name.endswith("pool"):
        out = place.empty(y_shape, dtype)
        relu = work.name == "forward+relu"
        return [("conv2d", {**given, "out": out, "op": op, "relu": relu})], out
    assert layer.pool is not None
    out = place.empty(layer.pool.output_shape(y_shape), dtype)
    codes = {"out": out, "code": place.empty(out.shape, "int8")}
    if work.name == "max_pool":
        return [("max_pool2d", {**given, **codes, "op": layer.pool})], out
    if layer.pool == HALVING:
        fused = {**given, **codes, "op": op, "pool": layer.pool}
        return [("conv2d_relu_pool", fused)], out
    y = place.empty(y_shape, dtype)
    conv = ("conv2d", {**given, "out": y, "op": op, "relu": True})
    return [conv, ("max_pool2d", {"x": y, **codes, "op": layer.pool})], out


@dataclass(frozen=True)
class Check:
    """How far a result is from float64: relative RMS error, and what is allowed."""

    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the result may be timed (a NaN may not)."""
        return self.error <= self.allowed


def check(
    work: Work, results: dict[str, np.ndarray], float64: Callable[[Work], np.ndarray]
) -> dict[str, Check]:
    """Hold every result (name → array in our layout) to `float64`, which does a part's work."""
    allowed = tolerance.allowed(work.kind, work.terms)
    wrong = dict.fromkeys(results, 0.0)
    scale, start, total = 0.0, 0, 0.0
    for part in work.parts():
        expected = float64(part)
        if work.name == "wgrad":
            total = total + expected
            continue
        scale += float(np.square(expected).sum())
        for name, result in results.items():
            cut = result[start : start + part.batch]
            wrong[name] += _squares(name, cut, expected)
        start += part.batch
    if work.name == "wgrad":
        scale = float(np.square(total).sum())
        wrong = {
            name: _squares(name, result, np.asarray(total)) for name, result in results.items()
        }
    return {n: Check(math.sqrt(v / scale) if scale else v, allowed) for n, v in wrong.items()}


def _squares(name: str, result: np.ndarray, expected: np.ndarray) -> float:
    if result.shape != expected.shape:
        raise AssertionError(f"{name} gave {result.shape}, not {expected.shape}")
    return float(np.square(result.astype(np.float64) - expected).sum())
