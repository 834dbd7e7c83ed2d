"""The compiled kernels: which variants are here, which suits this processor, and how to call them.

One C source is compiled for each instruction set into a shared library of its own (see `setup.py`)
and called through ctypes, which releases the interpreter lock.
"""

from __future__ import annotations

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from ..errors import BackendError
from . import sources

VARIANTS = ("generic", "avx2", "avx512")  # from narrow to wide, as `widest` counts them
STALE = (
    "was compiled from other sources than are here; compile it again: in the source folder, run "
    "pip install --force-reinstall --no-deps -e ."
)
KERNELS = (  # each has a NAME_plan and a NAME_run
    "correlate", "winograd", "wgrad", "unpool", "norm", "lrn", "pool", "pointwise", "dropout",
    "dense",
)  # fmt: skip
PACKING = ("correlate", "winograd")  # these have a NAME_pack too
LANES = {"generic": 4, "avx2": 8, "avx512": 16}  # floats in a vector


class Correlate(ctypes.Structure):
    """`struct correlate` of correlate.h, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "w", "b", "residual", "mask", "out", "code")],
        *[(name, ctypes.c_void_p) for name in ("db", "packed", "inputs", "dr", "ds", "tap")],
        *[(name, ctypes.c_int64) for name in ("taps", "filter_area")],
        *[(name, ctypes.c_int64) for name in ("images", "height", "width", "channels")],
        *[(name, ctypes.c_int64) for name in ("groups", "filters")],
        *[(name, ctypes.c_int64) for name in ("x_pitch", "out_pitch")],
        *[(name, ctypes.c_int64) for name in ("residual_pitch", "mask_pitch", "rows", "cols")],
        *[(name, ctypes.c_int64) for name in ("step_h", "step_w", "out_h", "out_w")],
        *[(name, ctypes.c_int64) for name in ("first_h", "first_w", "every_h", "every_w")],
        *[(name, ctypes.c_int64) for name in ("edge", "relu", "pool", "transposed")],
        *[(name, ctypes.c_int64) for name in ("prepared", "fold", "fold_top", "fold_left")],
        *[(name, ctypes.c_int64) for name in ("band", "bands", "images_per_chunk")],
        *[(name, ctypes.c_int64) for name in ("panels_per_chunk", "chunks")],
        *[(name, ctypes.c_int64) for name in ("shared_bands", "band_floats")],
        *[(name, ctypes.c_int64) for name in ("panels", "panel_floats", "scratch_floats")],
    ]


class Wgrad(ctypes.Structure):
    """`struct wgrad` of wgrad.h, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "dy", "out", "partial")],
        *[(name, ctypes.c_int64) for name in ("images", "height", "width", "channels")],
        *[(name, ctypes.c_int64) for name in ("groups", "filters", "x_pitch", "dy_pitch")],
        *[(name, ctypes.c_int64) for name in ("rows", "cols", "r", "s", "step_h", "step_w")],
        *[(name, ctypes.c_int64) for name in ("gap_h", "gap_w", "top", "left", "edge")],
        *[(name, ctypes.c_int64) for name in ("block", "band", "band_images", "part_bands")],
        *[(name, ctypes.c_int64) for name in ("parts", "splits", "part_floats")],
        *[(name, ctypes.c_int64) for name in ("scratch_floats", "chunks")],
    ]


class Unpool(ctypes.Structure):
    """`struct unpool` of unpool.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("dy", "code", "out", "db")],
        *[(name, ctypes.c_int64) for name in ("images", "rows", "cols", "channels")],
        *[(name, ctypes.c_int64) for name in ("dy_pitch", "out_pitch")],
        *[(name, ctypes.c_int64) for name in ("images_per_chunk", "chunks")],
    ]


class Pool(ctypes.Structure):
    """`struct pool` of pool.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "code", "out")],
        *[(name, ctypes.c_void_p) for name in ("row_asks", "col_asks", "row_first", "col_first")],
        *[(name, ctypes.c_int64) for name in ("images", "x_rows", "x_cols", "rows", "cols")],
        *[(name, ctypes.c_int64) for name in ("channels", "x_pitch", "out_pitch", "kind")],
        *[(name, ctypes.c_int64) for name in ("rows_per_chunk", "chunks")],
    ]


class Norm(ctypes.Structure):
    """`struct norm` of norm.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "dy", "mask")],
        *[(name, ctypes.c_void_p) for name in ("mean", "scale", "shift", "slope")],
        *[(name, ctypes.c_void_p) for name in ("out", "sums")],
        *[(name, ctypes.c_int64) for name in ("pixels", "channels")],
        *[(name, ctypes.c_int64) for name in ("x_pitch", "dy_pitch", "mask_pitch", "out_pitch")],
        *[(name, ctypes.c_int64) for name in ("stage", "relu", "pixels_per_chunk", "chunks")],
    ]


class Lrn(ctypes.Structure):
    """`struct lrn` of lrn.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "dy", "out")],
        *[(name, ctypes.c_int64) for name in ("pixels", "channels")],
        *[(name, ctypes.c_int64) for name in ("x_pitch", "dy_pitch", "out_pitch")],
        *[(name, ctypes.c_int64) for name in ("before", "after")],
        *[(name, ctypes.c_float) for name in ("scale", "k", "exponent", "slope")],
        *[(name, ctypes.c_int64) for name in ("pixels_per_block", "pixels_per_chunk")],
        *[(name, ctypes.c_int64) for name in ("chunks", "scratch_floats")],
    ]


class Dropout(ctypes.Structure):
    """`struct dropout` of dropout.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "key", "out")],
        *[(name, ctypes.c_int64) for name in ("elements", "threshold")],
        ("share", ctypes.c_float),
        ("chunks", ctypes.c_int64),
    ]


class Dense(ctypes.Structure):
    """`struct dense` of dense.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "w", "b", "dy", "mask", "out", "db")],
        *[(name, ctypes.c_int64) for name in ("images", "features", "outputs", "relu", "kind")],
        *[(name, ctypes.c_int64) for name in ("size", "chunks")],
    ]


class Pointwise(ctypes.Structure):
    """`struct pointwise` of pointwise.c, field by field."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("dy", "x", "slopes", "out")],
        *[(name, ctypes.c_int64) for name in ("elements", "period", "kind")],
        *[(name, ctypes.c_float) for name in ("slope", "low", "high")],
        *[(name, ctypes.c_int64) for name in ("elements_per_chunk", "chunks")],
    ]


def path(variant: str) -> Path | None:
    """The shared library of `variant`, or None if it was not built."""
    folder = Path(__file__).parent
    candidates = (folder / f"_{variant}{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((file for file in candidates if file.exists()), None)


@functools.cache
def open_library(variant: str) -> ctypes.CDLL:
    """The library of `variant`, its functions declared.

    Raises: BackendError if it is not here, or was compiled from other sources than are here.
    """
    file = path(variant)
    if file is None:
        raise BackendError(f"backend native: no library for {variant}; built: {built()}")
    if is_stale(variant):
        raise BackendError(f"backend native: the library for {variant} {STALE}")
    library = ctypes.CDLL(str(file))
    pointer = ctypes.c_void_p
    for kernel in KERNELS:
        make, run = getattr(library, f"{kernel}_plan"), getattr(library, f"{kernel}_run")
        make.argtypes, make.restype = [pointer], None  # the problem, to complete
        run.argtypes, run.restype = [pointer] * 3, None  # the problem, tickets, a thread's scratch
    for kernel in PACKING:
        pack = getattr(library, f"{kernel}_pack")
        pack.argtypes, pack.restype = [pointer], None  # the problem
    return library


@functools.cache
def is_stale(variant: str) -> bool:
    """Whether a library that was built was compiled from other C files than lie beside it.

    Its structures may then be others than those above, and calls would read past them.
    """
    library, here = ctypes.CDLL(str(path(variant))), sources.digest()
    if here is None:  # installed without its sources: nobody changed them since
        return False
    try:
        told = library.sources
    except AttributeError:  # older than this question
        return True
    told.restype = ctypes.c_char_p
    return told().decode() != here


def built() -> tuple[str, ...]:
    """The variants that were built, from narrow to wide."""
    return tuple(v for v in VARIANTS if path(v) is not None)


@functools.cache
def runnable() -> tuple[str, ...]:
    """The variants that this processor can run, built from what is here, from narrow to wide."""
    if "generic" not in built() or is_stale("generic"):
        return ()
    widest = open_library("generic").widest()
    return tuple(v for v in built() if VARIANTS.index(v) <= widest and not is_stale(v))


def filled(channels: int) -> str:
    """The widest variant whose vectors `channels` fill, else the narrowest, of those that run."""
    fitting = [variant for variant in runnable() if LANES[variant] <= channels]
    return fitting[-1] if fitting else runnable()[0]
