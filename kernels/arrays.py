"""What the GPU backends ask of arrays before a launch, alike in both: types, place, alignment.

The arrays are CuPy's on a GPU, and NumPy's where a backend runs on the CPU (Triton's interpreter,
the simulator of CUDA C++).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import spec
from .errors import ShapeError, UnsupportedError
from .spec.contract import address, dtype_name

TYPES = "float32, float16 and bfloat16"
WORKSPACE_ALIGNMENT = 16  # bytes: what one thread moves at once; plans give 64


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def pixel_pitch(array: Any) -> int:
    """Elements from one pixel of an NHWC array to the next; more than C for a slice of channels."""
    n, h, w, c = array.shape
    if 0 in array.shape:  # no pixels: the strides of an empty array mean nothing
        return c
    for extent, stride, pixels in zip((w, h, n), array.strides[2::-1], (1, w, w * h), strict=True):
        if extent > 1:
            return stride // (array.dtype.itemsize * pixels)
    return c


def on_host(array: Any) -> bool:
    """Whether an array is in the CPU's memory."""
    return not hasattr(type(array), "__cuda_array_interface__")


def refuse_float64(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call of a contract function is not for a GPU backend: float64; None if it has none."""
    for parameter, kind in spec.directions(function).items():
        value = arguments.get(parameter)
        if kind == "static" or value is None:
            continue
        for array in value if isinstance(value, Sequence) else (value,):
            if hasattr(array, "dtype") and dtype_name(array) == "float64":
                return f"computes in {TYPES}, {parameter} is float64"
    return None


def require_usable(
    function: str, backend: str, *, host: bool | None, arrays: Mapping[str, Any]
) -> None:
    """Require arrays (None is left out) that the kernels of `backend` can read.

    They are on the host or, with `host` False, on a GPU; None leaves the place open. Each begins
    at a multiple of its element size, one called `workspace` at one of WORKSPACE_ALIGNMENT.

    Raises: UnsupportedError, ShapeError.
    """
    for name, array in arrays.items():
        if array is None:
            continue
        if dtype_name(array) == "float64":
            raise UnsupportedError(
                f"{function}: backend {backend} computes in {TYPES}, {name} is float64; "
                "use backend numpy"
            )
        if host is not None and on_host(array) != host:
            here, there = ("host", "GPU") if host else ("GPU", "host")
            raise UnsupportedError(
                f"{function}: backend {backend} runs on arrays in {here} memory here, {name} is in "
                f"{there} memory; copy it, or use backend {backend if host else 'numpy'}"
            )
        what, least = "its element size", array.dtype.itemsize
        if name == "workspace":
            what, least = "what a vector takes", WORKSPACE_ALIGNMENT
        if array.size and address(array) % least:
            raise ShapeError(
                f"{function}: {name} must start at a multiple of {what} ({least} bytes), "
                f"not at address {address(array)}"
            )
