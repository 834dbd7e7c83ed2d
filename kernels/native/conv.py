"""Direct convolution in C, float32: no im2col; register tiles over a padded copy that stays in L2.

Forward and dgrad are one kernel (`correlate.c`): dgrad is a forward convolution of dy with flipped,
transposed weights, one for each phase of the stride. wgrad (`wgrad.c`) sums, per tap, outer
products of dy and x over pixels. Work is cut into chunks by its shape alone and partial sums are
added in the order of the chunks, so bits do not depend on the number of threads. The method is
that of Georganas et al. 2018, "Anatomy of High-Performance Deep Learning Convolutions". Wide 3x3
convolutions of stride 1 take Winograd's algorithm (`winograd.c`) through the same register tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .. import spec
from ..arrays import pixel_pitch
from ..errors import UnsupportedError, require_support
from ..numpy.threads import get_threads
from ..prepared import Packed
from ..spec.contract import Array, Config, Out, dtype_name, implements
from ..spec.grid import border
from . import library, plan
from .conv_plan import KERNELS, best_algorithm, config_of, make_plan, winograd_applies
from .plan import MOST_ELEMENTS, address

LEAST_CHANNELS = 4  # of a group: below, most of a tile would be padding


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments cannot run here; None if it can."""
    for name in ("x", "dy", "out"):
        if name in arguments and arguments[name].dtype != "float32":
            return f"computes in float32 only, {name} is {dtype_name(arguments[name])}"
    images = {name: arguments.get(name) for name in ("x", "dy", "residual", "mask", "out")}
    if function == "conv2d_wgrad":
        images.pop("out")
    for name, image in images.items():
        if image is not None and not _whole(image) and any(border(image)):
            return f"takes no array with a border of zeros, {name} has one"
    for name in ("x", "w", "dy", "out"):
        if name in arguments and math.prod(arguments[name].shape) >= MOST_ELEMENTS:
            return f"takes arrays of fewer than {MOST_ELEMENTS} elements, {name} has more"
    if function == "conv2d_relu_pool_backward":
        return None
    op = arguments["op"]
    if op.groups > 1:
        k, _, _, c = arguments["out" if function == "conv2d_wgrad" else "w"].shape
        if min(c, k // op.groups) < LEAST_CHANNELS:
            return (
                f"groups of fewer than {LEAST_CHANNELS} channels would be mostly padding, "
                f"here {c} -> {k // op.groups}"
            )
    if function == "conv2d_dgrad" and op.padding_mode == "edge" and op.stride != (1, 1):
        return f"the gradient of edge padding needs stride 1, not {op.stride}"
    return None


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> Config:
    """The plan for one call as a Config; `variant` forces an instruction set.

    Raises: UnsupportedError.
    """
    require_support(function, "native", supports(function, arguments))
    variant = variant or library.runnable()[-1]
    workers = get_threads()
    algorithm = best_algorithm(function, arguments)
    made = make_plan(function, arguments, algorithm, variant, workers)
    return config_of(made, algorithm, variant, workers)


def _run(
    function: str,
    arguments: dict[str, Any],
    workspace: Any,
    config: Config | None,
    fill: Callable[[Any, list[int]], None],
) -> None:
    if config is None:
        config = choose(function, arguments)
    else:
        require_support(function, "native", supports(function, arguments))
    algorithm, variant = config.algorithm.split("-")
    if algorithm == "winograd" and not winograd_applies(function, arguments):
        raise UnsupportedError(
            f"{function}: backend native has no {config.algorithm} for this call"
        )
    packed = _packed_for(function, config, arguments.get("w"))
    made = make_plan(function, arguments, algorithm, variant, config["workers"], prepared=packed)
    entry = getattr(library.open_library(variant), f"{KERNELS[algorithm][function]}_run")
    plan.run(made, entry, workspace, fill, arguments.get("db"))


def _whole(image: Any) -> bool:
    """Whether this is an array, not a graph's value, and its pixels follow one another."""
    flags = getattr(image, "flags", None)
    return flags is not None and flags.c_contiguous


def _packed_for(function: str, config: Config, w: Any) -> bool:
    """Whether filters are packed. Raises: UnsupportedError if for another algorithm."""
    if isinstance(w, Packed) and w.algorithm != config.algorithm:
        raise UnsupportedError(
            f"{function}: backend native: w is packed for {w.algorithm}, not {config.algorithm}"
        )
    return isinstance(w, Packed)


def _place(p: Any, w: Any, shared: list[int]) -> None:
    """Tell a problem where its filters are, and where they and shared inputs are packed."""
    if isinstance(w, Packed):
        p.packed = address(w.data)
    else:
        p.w, p.packed = address(w), shared[0]
    p.inputs = shared[1]


def _pitch(array: Any) -> int:
    if array is None:
        return 0
    return array.shape[3] if array.flags.c_contiguous else pixel_pitch(array)


@implements(spec.conv2d)
def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    op: spec.Conv2d,
    relu: bool = False,
    residual: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Bias and ReLU join in the registers; a residual on the way out of the L1 cache."""

    def fill(p: Any, shared: list[int]) -> None:
        p.x, p.b, p.out = address(x), address(b), address(out)
        p.residual, p.relu = address(residual), relu
        _place(p, w, shared)
        p.x_pitch, p.out_pitch, p.residual_pitch = _pitch(x), _pitch(out), _pitch(residual)

    arguments = {"x": x, "w": w, "out": out, "op": op, "residual": residual}
    _run("conv2d", arguments, workspace, config, fill)


@implements(spec.conv2d_relu_pool)
def conv2d_relu_pool(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    code: Out | None,
    *,
    op: spec.Conv2d,
    pool: spec.MaxPool2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Two rows of the convolution at a time stay in the L1 cache and are pooled from there."""

    def fill(p: Any, shared: list[int]) -> None:
        p.x, p.b, p.out, p.code = address(x), address(b), address(out), address(code)
        _place(p, w, shared)
        p.x_pitch, p.out_pitch = _pitch(x), _pitch(out)

    arguments = {"x": x, "w": w, "out": out, "op": op, "pool": pool}
    _run("conv2d_relu_pool", arguments, workspace, config, fill)


@implements(spec.conv2d_dgrad)
def conv2d_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    op: spec.Conv2d,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """The forward kernel on dy with flipped, transposed weights; a stride has a pass per phase."""

    def fill(p: Any, shared: list[int]) -> None:
        p.x, p.out, p.mask = address(dy), address(out), address(mask)
        _place(p, w, shared)
        p.x_pitch, p.out_pitch, p.mask_pitch = _pitch(dy), _pitch(out), _pitch(mask)
        p.db = None if db is None else shared[2]

    arguments = {"dy": dy, "w": w, "out": out, "op": op, "mask": mask, "db": db}
    _run("conv2d_dgrad", arguments, workspace, config, fill)


@implements(spec.conv2d_wgrad)
def conv2d_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    op: spec.Conv2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Outer products of dy and x summed over pixels in registers; parts are added in order."""

    def fill(p: Any, shared: list[int]) -> None:
        p.x, p.dy, p.out, p.partial = address(x), address(dy), address(out), shared[0]
        p.x_pitch, p.dy_pitch = _pitch(x), _pitch(dy)

    arguments = {"x": x, "dy": dy, "out": out, "op": op}
    _run("conv2d_wgrad", arguments, workspace, config, fill)


@implements(spec.conv2d_relu_pool_backward)
def conv2d_relu_pool_backward(
    dy: Array,
    code: Array,
    out: Out,
    *,
    pool: spec.MaxPool2d,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """One pass over dy and code that writes every pixel of out once."""

    def fill(p: Any, shared: list[int]) -> None:
        p.dy, p.code, p.out = address(dy), address(code), address(out)
        p.dy_pitch, p.out_pitch = _pitch(dy), _pitch(out)
        p.db = None if db is None else shared[1]

    arguments = {"dy": dy, "out": out, "db": db}
    _run("conv2d_relu_pool_backward", arguments, workspace, config, fill)
