"""What a contract function is, and the checks that all of them share.

A contract function states a kernel once, for every backend: its name, its parameters with their
directions (`Array` is read, `Out` is written whole, `InOut` is updated in place), its docstring,
and, as its body, the checks that hold before any launch. Backends implement it under the same
name and signature:

    @implements(spec.relu)
    def relu(x: Array, out: Out) -> None: ...

The call `relu(x, out)` then runs the checks and the kernel; `relu.unchecked` is the kernel alone,
which a compiled plan calls after it has checked every step once. The checks read only `.shape`
and `.dtype` (and `.strides` where there is one), so they also hold for values of a graph, which
have no memory.

Layout: activations are NHWC and may be channel slices of a wider buffer ("pitched": the last
stride is one element and the others are those of a contiguous array with more channels). Those of
convolutions may also have a border of zeros (`grid.py`). All other arrays are C-contiguous.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DTypeError, ShapeError, require

Array = Any  # an object with .shape and .dtype, in memory of the backend's device
Out = Any  # the same; every element is written
InOut = Any  # the same; read and updated in place

FLOATS = ("float64", "float32", "float16", "bfloat16")
ITEMSIZE = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "uint32": 4,
    "int8": 1,
    "uint8": 1,
}

CONTRACTS: dict[str, Callable[..., None]] = {}


@dataclass(frozen=True)
class Config:
    """How a backend will run one call: chosen once, by its `choose`, and handed to every call.

    `algorithm` and `tile` mean something to the backend only; `workspace_bytes` is the scratch
    memory that the caller hands in as a uint8 array, from a multiple of 16 bytes on; `reason` is
    for people.
    """

    algorithm: str
    tile: tuple[tuple[str, int], ...] = ()
    workspace_bytes: int = 0
    reason: str = ""

    def __getitem__(self, name: str) -> int:
        """The tile parameter called `name`."""
        return dict(self.tile)[name]


def contract(
    flops: Callable[..., int] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a contract function; `flops(**arguments)` counts 2 per multiply-add."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        function.flops = flops or (lambda **_: 0)  # type: ignore[attr-defined]
        function.module = function.__module__.rsplit(".", 1)[-1]  # type: ignore[attr-defined]
        CONTRACTS[function.__name__] = function
        return function

    return register


def implements(stated: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a backend's function run the checks of the contract function `stated` first."""

    def wrap(kernel: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(kernel)
        def checked(*args: Any, **kwargs: Any) -> None:
            stated(*args, **kwargs)
            kernel(*args, **kwargs)

        checked.unchecked = kernel  # type: ignore[attr-defined]
        checked.__doc__ = kernel.__doc__ or stated.__doc__
        return checked

    return wrap


@functools.cache
def directions(function: str) -> Mapping[str, str]:
    """Name → "in", "out", "inout" or "static" for every parameter of a contract function."""
    kinds = {"Array": "in", "Out": "out", "InOut": "inout", "Sequence[Array]": "in"}
    parameters = inspect.signature(CONTRACTS[function]).parameters.values()
    return {p.name: kinds.get(str(p.annotation).split(" |")[0], "static") for p in parameters}


def dtype_name(array: Array) -> str:
    """The element type as a name: "float32", "bfloat16", "int8", …"""
    return str(array.dtype)


def accumulator(dtype: str) -> str:
    """The type that sums, biases, statistics and weight gradients have: float64 or float32."""
    return "float64" if dtype == "float64" else "float32"


def nbytes(array: Array) -> int:
    """Bytes that the elements of `array` take, without gaps between them."""
    count = 1
    for extent in array.shape:
        count *= extent
    return count * ITEMSIZE[dtype_name(array)]


def same_float(function: str, **arrays: Array | None) -> str:
    """Require that all arrays (None is left out) share one float type, and return its name."""
    names = {name: dtype_name(a) for name, a in arrays.items() if a is not None}
    first = next(iter(names.values()))
    if first not in FLOATS or any(n != first for n in names.values()):
        told = ", ".join(f"{name} is {n}" for name, n in names.items())
        raise DTypeError(f"{function}: arrays must share one type of {', '.join(FLOATS)}; {told}")
    return first


def has_dtype(function: str, dtype: str, **arrays: Array | None) -> None:
    """Require that every array (None is left out) has exactly this element type."""
    for name, array in arrays.items():
        if array is not None and dtype_name(array) != dtype:
            raise DTypeError(f"{function}: {name} must be {dtype}, not {dtype_name(array)}")


def has_shape(function: str, shape: tuple[int, ...], **arrays: Array | None) -> None:
    """Require that every array (None is left out) has exactly this shape."""
    for name, array in arrays.items():
        if array is not None and tuple(array.shape) != tuple(shape):
            raise ShapeError(f"{function}: {name} must be {tuple(shape)}, not {tuple(array.shape)}")


def has_rank(function: str, rank: int, **arrays: Array | None) -> None:
    """Require that every array (None is left out) has this many dimensions."""
    for name, array in arrays.items():
        if array is not None and len(array.shape) != rank:
            raise ShapeError(
                f"{function}: {name} must have {rank} dimensions, not {tuple(array.shape)}"
            )


def contiguous(function: str, **arrays: Array | None) -> None:
    """Require C order without gaps of every array that has memory (None is left out)."""
    for name, array in arrays.items():
        if array is not None and not _has_pitch(array, exact=True):
            raise ShapeError(
                f"{function}: {name} must be C-contiguous; shape={tuple(array.shape)}, "
                f"{_told(array)}"
            )


def pitched(function: str, **arrays: Array | None) -> None:
    """Require NHWC order, channel slices of a wider buffer allowed (None is left out)."""
    for name, array in arrays.items():
        if array is not None and not _has_pitch(array, exact=False):
            raise ShapeError(
                f"{function}: {name} must be NHWC (channels together, pixels in order); "
                f"shape={tuple(array.shape)}, {_told(array)}"
            )


def _told(array: Array) -> str:
    strides = getattr(array, "strides", None)
    if strides is None:
        return f"border={array.border}, {array.pitch} elements from pixel to pixel"
    return f"strides={strides} bytes"


def _has_pitch(array: Array, *, exact: bool) -> bool:
    if any(getattr(array, "border", ())):  # of a graph's value
        return False
    strides = getattr(array, "strides", None)
    if strides is None and exact and getattr(array, "within", None) is not None:
        return False  # a graph's value that is a slice of another's channels
    if strides is None or 0 in array.shape or len(array.shape) == 0:
        return True
    last = len(array.shape) - 1
    expected = array.dtype.itemsize
    pitch_is_open = not exact  # until the innermost pixel axis that has an extent sets it
    for axis in range(last, -1, -1):
        stride, extent = strides[axis], array.shape[axis]
        if extent != 1:
            if axis < last and pitch_is_open and stride > expected:
                expected = stride
            if stride != expected or stride % array.dtype.itemsize:
                return False
            pitch_is_open = pitch_is_open and axis == last
        expected *= extent
    return True


def disjoint(function: str, out: Array | None, **arrays: Array | None) -> None:
    """Require that `out` shares no memory with the arrays it is computed from."""
    written = _span(out)
    if written is None:
        return
    for name, array in arrays.items():
        read = _span(array)
        if read is None or read[0] >= written[1] or written[0] >= read[1]:
            continue
        pitch, size = written[2], written[3]
        if pitch == read[2] and pitch > 0:  # slices of one buffer: compare their channel ranges
            gap = (read[0] - written[0]) % pitch
            if size <= gap and gap + read[3] <= pitch:
                continue
        raise ShapeError(f"{function}: out overlaps {name} in memory")


def address(array: Array) -> int:
    """Where a NumPy or CuPy array begins, in bytes."""
    # NumPy's `.data` raises for bfloat16; CuPy's is the pointer
    return array.ctypes.data if hasattr(array, "ctypes") else array.data.ptr


def _span(array: Array | None) -> tuple[int, int, int, int] | None:
    """(first byte, end, bytes from pixel to pixel, bytes of a pixel), or None without memory."""
    strides = getattr(array, "strides", None)
    if array is None or strides is None or 0 in array.shape:
        return None
    start = address(array)
    end = start + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    pixel = (array.shape[-1] if array.shape else 1) * array.dtype.itemsize
    return start, end + array.dtype.itemsize, strides[-2] if len(strides) > 1 else 0, pixel


def pair(function: str, name: str, value: tuple[int, ...], least: int, length: int = 2) -> None:
    """Require a tuple of `length` ints, each at least `least`."""
    ok = (
        isinstance(value, tuple)
        and len(value) == length
        and all(isinstance(v, int) and v >= least for v in value)
    )
    require(ok, function, f"{name} must be {length} integers >= {least}", **{name: value})
