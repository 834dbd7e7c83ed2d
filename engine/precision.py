"""The precisions of a network: element types of activations, and how products are formed."""

from __future__ import annotations

from .device import Device
from .errors import InputError

PRECISIONS = {
    "fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"
}  # fmt: skip


def activation_dtype(precision: str, device: Device | None = None) -> str:
    """The element type of activations for a precision (on a device). Raises: InputError."""
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if device is not None and precision not in device.precisions:
        place = {"tf32": "a GPU", "fp64": "the CPU"}.get(precision, "another device")
        raise InputError(
            f"precision {precision} needs {place}; {device.name} has {', '.join(device.precisions)}"
        )
    return PRECISIONS[precision]


def products(precision: str, device: Device) -> str:
    """How convolutions form products of float32: what `spec.Conv2d.precision` says."""
    return "tf32" if precision == "tf32" else device.products
