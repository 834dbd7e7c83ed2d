"""Launches of kernels whose threads take one group of 16 bytes each (group.cuh)."""

from __future__ import annotations

from typing import Any

import numpy

from .launch import Kernel, cdiv, launch, pixel_pitch, type_name

THREADS = 256  # of a block, as in group.cuh
BYTES = 16  # of a group


def group(*arrays: Any) -> int:
    """Elements of one group: as many of the widest type (None is left out) as are 16 bytes."""
    return BYTES // max(array.dtype.itemsize for array in arrays if array is not None)


def launch_on_elements(
    file: str, name: str, *arrays: Any, types: tuple[Any, ...] = (), more: tuple[Any, ...] = ()
) -> None:
    """Launch the kernel `name` on flat arrays of one size, a thread for every group of them.

    The kernel is instantiated for the types of the arrays `types`, without any for that of the
    first; `more` are its further arguments.
    """
    names = ", ".join(type_name(array) for array in types or arrays[:1])
    elements = arrays[0].size
    blocks = cdiv(elements, group(*arrays) * THREADS)
    given = (*arrays, numpy.int64(elements), *more)
    launch(Kernel(file, f"{name}<{names}>"), blocks, THREADS, *given)


def launch_on_pixels(
    file: str, name: str, images: Any, *arguments: Any, constants: tuple[int, ...] = ()
) -> None:
    """Launch the kernel `name` with a thread for every group of channels of `images` [N,H,W,C].

    The kernel is instantiated for the type of `images` and for `constants`, and finds its place by
    `place_of_thread`.
    """
    n, h, w, c = images.shape
    kernel = Kernel(file, f"{name}<{', '.join(map(str, (type_name(images), *constants)))}>")
    blocks = cdiv(n * h * w * cdiv(c, group(images)), THREADS)
    launch(kernel, blocks, THREADS, *arguments)


def pixels_of(images: Any) -> tuple[Any, int]:
    """(N*H*W as int64, C) of images [N,H,W,C], as kernels take them."""
    n, h, w, c = images.shape
    return numpy.int64(n * h * w), c


def pitch(array: Any) -> Any:
    """Elements from one pixel of an NHWC array to the next, as int64."""
    return numpy.int64(pixel_pitch(array))
