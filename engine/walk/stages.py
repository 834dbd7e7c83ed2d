"""The convolution of one image, its ReLU and its pooling, each on the kernels of a device.

    walk = convolve(image, filter_, open_device("cpu"), stride=1, padding=(1, 1), relu=True)
    walk.stages[-1].values          # float32[P, Q, C]
    walk.stages[0].sizes            # ("rows: (28 + 1 + 1 - 3) / 1 + 1 = 28", ...)

Every channel of the image is taken by itself: the filter is repeated as the groups of one
depthwise convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels import registry, spec
from ...kernels.errors import UnsupportedError
from ..device import Device
from ..errors import InputError

FORMULA = "(H + top + bottom - R) / stride + 1"


@dataclass(frozen=True, eq=False)
class Stage:
    """One operation: values float32[P, Q, C], who computed it, its sizes by the formula."""

    name: str
    values: np.ndarray
    backend: str
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Walk:
    """A filter over an image: image float32[H, W, C], filter float32[R, S], and every stage."""

    image: np.ndarray
    filter: np.ndarray
    op: spec.Conv2d
    stages: tuple[Stage, ...]
    pool: int = 0  # side of the pooling windows; 0: none

    @property
    def relu(self) -> bool:
        """Whether a ReLU follows the convolution."""
        return any(stage.name == "relu" for stage in self.stages)

    def padded(self) -> np.ndarray:
        """The image with its padding around it, float32[H + top + bottom, W + left + right, C]."""
        top, bottom, left, right = self.op.padding
        mode = "edge" if self.op.padding_mode == "edge" else "constant"
        return np.pad(self.image, ((top, bottom), (left, right), (0, 0)), mode=mode)

    def window(self, row: int, column: int) -> np.ndarray:
        """What the filter lies on at one output position: float32[R, S, C]."""
        (down, across), (r, s) = self.op.stride, self.filter.shape
        return self.padded()[row * down : row * down + r, column * across : column * across + s]


def default_padding(filter_: np.ndarray) -> tuple[int, int]:
    """(rows, columns) on every side that keep the size at stride 1."""
    return filter_.shape[0] // 2, filter_.shape[1] // 2


def convolve(
    image: np.ndarray, filter_: np.ndarray, device: Device, *, stride: int = 1,
    padding: tuple[int, int] = (0, 0), padding_mode: str = "zeros", relu: bool = False,
    pool: int = 0,
) -> Walk:  # fmt: skip
    """Lay float32[R, S] over every channel of float32[H, W, C]; `padding` is (rows, columns).

    Raises: InputError for sizes that do not fit.
    """
    (height, width, channels), (r, s), (rows, columns) = image.shape, filter_.shape, padding
    for pixels, taps, side in ((rows, r, "rows"), (columns, s, "columns")):
        if pixels >= taps:
            raise InputError(
                f"--padding {pixels}: at most {taps - 1} for a filter of {taps} {side}; with more "
                "the filter would lie wholly outside the image"
            )
    for size, pixels, taps, side in ((height, rows, r, "rows"), (width, columns, s, "columns")):
        if size + 2 * pixels < taps:
            raise InputError(
                f"the filter has {taps} {side}, the image only {size} + {2 * pixels} of padding"
            )
    if stride > max(height, width):
        raise InputError(f"--stride {stride}: the image is only {height} x {width}")
    op = spec.Conv2d(
        stride=(stride, stride), padding=(rows, rows, columns, columns),
        padding_mode="edge" if padding_mode == "edge" else "zeros", groups=channels,
    )  # fmt: skip
    with device.session():
        x = _on(device, image[None])
        w = _on(device, np.repeat(filter_[None, :, :, None], channels, axis=0))
        shape = op.output_shape(tuple(x.shape), tuple(w.shape))
        out = device.empty(shape, "float32")
        backend = _call(device, "conv2d", x=x, w=w, b=None, out=out, op=op)
        stages = [_stage(device, "convolution", out, backend, _sizes(height, width, op, (r, s)))]
        if relu:
            backend = _call(device, "relu", x=out, out=out)
            stages.append(_stage(device, "relu", out, backend))
        if pool:
            stages.append(_pooled(device, out, pool))
    return Walk(image, filter_, op, tuple(stages), pool)


def _pooled(device: Device, x: Any, side: int) -> Stage:
    height, width = x.shape[1:3]
    if side > min(height, width):
        raise InputError(f"--pool {side}: the convolution's output is only {height} x {width}")
    op = spec.MaxPool2d((side, side), (side, side))
    out = device.empty(op.output_shape(tuple(x.shape)), "float32")
    backend = _call(device, "max_pool2d", x=x, out=out, code=None, op=op)
    told = spec.Conv2d(stride=(side, side))
    return _stage(device, "pool", out, backend, _sizes(height, width, told, (side, side)))


def _on(device: Device, host: np.ndarray) -> Any:
    array = device.empty(host.shape, "float32")
    device.copy_from_host(array, np.ascontiguousarray(host, np.float32))
    return array


def _stage(
    device: Device, name: str, array: Any, backend: str, sizes: tuple[str, ...] = ()
) -> Stage:
    return Stage(name, device.to_host(array)[0], backend, sizes)


def _call(device: Device, name: str, **arguments: Any) -> str:
    """Run a contract function on the device's first backend that takes it; its name."""
    declined = []
    for backend in map(registry.load, device.backends):
        reason = backend.supports(name, arguments)
        if reason is None:
            backend.function(name)(**arguments)
            return backend.name
        declined.append(f"{backend.name}: {reason}")
    raise UnsupportedError(f"{name} runs on no backend: {'; '.join(declined)}")


def _sizes(height: int, width: int, op: spec.Conv2d, taps: tuple[int, int]) -> tuple[str, ...]:
    """FORMULA for rows and columns, with its numbers."""
    top, bottom, left, right = op.padding
    return (
        _size("rows", height, (top, bottom), taps[0], op.stride[0]),
        _size("columns", width, (left, right), taps[1], op.stride[1]),
    )


def _size(side: str, size: int, pads: tuple[int, int], taps: int, stride: int) -> str:
    room = size + sum(pads) - taps
    told = (
        f"{side}: ({size} + {pads[0]} + {pads[1]} - {taps}) / {stride} + 1 = {room // stride + 1}"
    )
    left = room % stride
    if left:
        many = f"{left} {side} are" if left > 1 else f"1 {side[:-1]} is"
        told += f" (rounded down: {many} left over at the end)"
    return told
