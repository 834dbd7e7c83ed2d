"""From shapes and parameters to filled-in C problems, their workspace, and a run on all threads."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import spec
from ..errors import require
from ..numpy.threads import parallel
from . import library

Shape = tuple[int, ...]
ALIGNMENT = 64  # bytes: a cache line, and the widest vector
MOST_ELEMENTS = 1 << 31  # of an array: products of sizes then stay within 64 bits


def aligned(size: int) -> int:
    """`size` bytes rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def address(array: Any) -> int | None:
    """Where an array's first element stands; None (a null pointer) for None."""
    return None if array is None else array.ctypes.data


@dataclass(frozen=True)
class Plan:
    """The C problems of one call, run one after another, and the memory that they share.

    The workspace holds, each part from a cache line on: tickets | `shared` bytes | `scratch` bytes
    for each of `workers`.
    """

    problems: tuple[Any, ...]
    keep: tuple[np.ndarray, ...]  # arrays that the problems point at
    shared: tuple[int, ...]  # bytes of each part that all threads see
    scratch: int
    workers: int

    @functools.cached_property
    def workspace_bytes(self) -> int:
        """Bytes to hand in, with room to align them."""
        return 2 * ALIGNMENT + sum(self.shared) + self.workers * self.scratch


def geometry_taps(op: spec.Conv2d, r: int, s: int) -> list[tuple[int, int, int]]:
    """(row offset, column offset, r * S + s) of each tap of the forward convolution.

    In each row those of one phase of the stride follow one another, as they do in a packed band.
    """
    (dh, dw), (top, _, left, _) = op.dilation, op.padding
    cols = sorted(range(s), key=lambda j: (j * dw % op.stride[1], j))
    return [(i * dh - top, j * dw - left, i * s + j) for i in range(r) for j in cols]


def phase_taps(op: spec.Conv2d, r: int, s: int, a: int, b: int) -> list[tuple[int, int, int]]:
    """The taps through which dy reaches the input pixels (a + i * stride_h, b + j * stride_w).

    From h = p * stride_h + r * dilation_h - top: p = i + (a + top - r * dilation_h) / stride_h
    where that divides, and likewise for columns.
    """
    (sh, sw), (dh, dw), (top, _, left, _) = op.stride, op.dilation, op.padding
    rows = [(a + top - i * dh, i) for i in range(r)]
    cols = [(b + left - j * dw, j) for j in range(s)]
    return [
        (p // sh, q // sw, i * s + j)
        for p, i in rows
        if p % sh == 0
        for q, j in cols
        if q % sw == 0
    ]


def _correlate(
    kernel: str, variant: str, taps: list[tuple[int, int, int]], **fields: int
) -> tuple[Any, Any]:
    table = np.array(taps, np.int64).reshape(-1, 3).T.copy()
    problem = library.Correlate(taps=len(taps), **fields)
    row = table.strides[0]
    for i, name in enumerate(("dr", "ds", "tap")):
        setattr(problem, name, table.ctypes.data + i * row)
    getattr(library.open_library(variant), f"{kernel}_plan")(ctypes.byref(problem))
    return problem, table


@functools.lru_cache(maxsize=512)
def forward(
    x: Shape, w: Shape, op: spec.Conv2d, pool: bool, variant: str, workers: int,
    kernel: str = "correlate", prepared: bool = False,
) -> Plan:  # fmt: skip
    """The plan of conv2d, or of conv2d_relu_pool; `kernel` is correlate or winograd.

    With `prepared` its filters are packed beforehand.
    """
    (n, h, width, _), (k, r, s, cg) = x, w
    _, p, q, _ = op.output_shape(x, w)
    problem, table = _correlate(
        kernel,
        variant,
        geometry_taps(op, r, s),
        filter_area=r * s,
        images=n,
        height=h,
        width=width,
        channels=cg,
        groups=op.groups,
        filters=k // op.groups,
        rows=p,
        cols=q,
        step_h=op.stride[0],
        step_w=op.stride[1],
        out_h=p // 2 if pool else p,
        out_w=q // 2 if pool else q,
        every_h=1,
        every_w=1,
        edge=op.padding_mode == "edge",
        pool=pool,
        relu=0,
        prepared=prepared,
    )
    return _plan((problem,), (table,), k, False, workers, prepared)


@functools.lru_cache(maxsize=512)
def dgrad(
    x: Shape, w: Shape, op: spec.Conv2d, db: bool, variant: str, workers: int,
    kernel: str = "correlate",
) -> Plan:  # fmt: skip
    """The plan of conv2d_dgrad: one forward problem for each phase of the stride."""
    (n, h, width, c), (k, r, s, cg) = x, w
    _, p, q, _ = op.output_shape(x, w)
    edge = op.padding_mode == "edge"
    top, bottom, left, right = op.padding
    inner = spec.Conv2d(op.stride, (0, 0, 0, 0), "zeros", op.dilation, op.groups) if edge else op
    problems, tables = [], []
    for a in range(min(op.stride[0], h)):
        for b in range(min(op.stride[1], width)):
            problem, table = _correlate(
                kernel,
                variant,
                phase_taps(inner, r, s, a, b),
                filter_area=r * s,
                images=n,
                height=p,
                width=q,
                channels=k // op.groups,
                groups=op.groups,
                filters=cg,
                rows=h + top + bottom if edge else -(-(h - a) // op.stride[0]),
                cols=width + left + right if edge else -(-(width - b) // op.stride[1]),
                step_h=1,
                step_w=1,
                out_h=h,
                out_w=width,
                first_h=a,
                first_w=b,
                every_h=op.stride[0],
                every_w=op.stride[1],
                transposed=1,
                fold=edge,
                fold_top=top,
                fold_left=left,
            )
            problems.append(problem)
            tables.append(table)
    return _plan(tuple(problems), tuple(tables), c, db, workers)


@functools.lru_cache(maxsize=512)
def wgrad(x: Shape, w: Shape, op: spec.Conv2d, variant: str, workers: int) -> Plan:
    """The plan of conv2d_wgrad."""
    (n, h, width, _), (k, r, s, cg) = x, w
    _, p, q, _ = op.output_shape(x, w)
    problem = library.Wgrad(
        images=n,
        height=h,
        width=width,
        channels=cg,
        groups=op.groups,
        filters=k // op.groups,
        rows=p,
        cols=q,
        r=r,
        s=s,
        step_h=op.stride[0],
        step_w=op.stride[1],
        gap_h=op.dilation[0],
        gap_w=op.dilation[1],
        top=op.padding[0],
        left=op.padding[2],
        edge=op.padding_mode == "edge",
    )
    library.open_library(variant).wgrad_plan(ctypes.byref(problem))
    partial = aligned(4 * problem.parts * problem.part_floats)
    scratch = aligned(4 * problem.scratch_floats)
    return Plan((problem,), (), (partial,), scratch, max(1, min(workers, problem.chunks)))


@functools.lru_cache(maxsize=512)
def unpool(out: Shape, db: bool, variant: str, workers: int) -> Plan:
    """The plan of conv2d_relu_pool_backward."""
    n, p, q, k = out
    problem = library.Unpool(images=n, rows=p, cols=q, channels=k)
    library.open_library(variant).unpool_plan(ctypes.byref(problem))
    partial = problem.chunks * k if db else 0
    return Plan((problem,), (), (0, aligned(4 * partial)), 0, workers)


def _plan(
    problems: Any, tables: Any, width: int, db: bool, workers: int, prepared: bool = False
) -> Plan:
    packed = 0 if prepared else max(p.panels * p.panel_floats for p in problems)
    inputs = max(p.shared_bands * p.band_floats for p in problems)
    partial = max(p.chunks for p in problems) * width if db else 0
    return Plan(
        problems,
        tables,
        shared=(aligned(4 * packed), aligned(4 * inputs), aligned(4 * partial)),
        scratch=aligned(4 * max(p.scratch_floats for p in problems)),
        workers=max(1, min(workers, max(p.chunks for p in problems))),
    )


def floats(workspace: Any, at: int, count: int) -> np.ndarray:
    """The `count` float32 numbers of a workspace that stand at address `at`."""
    first = at - workspace.ctypes.data
    return workspace[first : first + 4 * count].view(np.float32)


def run(
    plan: Plan,
    entry: Any,
    workspace: Any,
    fill: Callable[[Any, list[int]], None],
    db: np.ndarray | None = None,
) -> None:
    """Run the problems in order, each on all threads.

    `fill(problem, shared)` sets the addresses in a copy of each problem; `shared` are those of the
    parts of the workspace. `db` [C] receives the sum of the problems' partial sums, the last part
    [chunks, C] float32, in the order of problems and chunks. Raises: ShapeError.
    """
    if workspace is None:
        workspace = np.empty(plan.workspace_bytes, np.uint8)
    require(
        workspace.nbytes >= plan.workspace_bytes,
        "native",
        f"the workspace must have {plan.workspace_bytes} bytes",
        workspace=workspace.nbytes,
    )
    origin = workspace.ctypes.data
    start = -origin % ALIGNMENT
    tickets = workspace[start : start + ALIGNMENT]
    tickets_at = origin + start
    *shared, scratch = itertools.accumulate(plan.shared, initial=tickets_at + ALIGNMENT)
    if db is not None:
        db[...] = 0
    for template in plan.problems:
        problem = type(template).from_buffer_copy(template)
        fill(problem, shared)
        tickets[:] = 0
        arguments = ctypes.addressof(problem), tickets_at

        def work(worker: int, _: int, arguments: tuple[int, int] = arguments) -> None:
            entry(*arguments, scratch + worker * plan.scratch)

        parallel(min(plan.workers, max(1, problem.chunks)), work)
        if db is not None:
            partial = floats(workspace, shared[-1], problem.chunks * db.size)
            db += np.add.reduce(partial.reshape(problem.chunks, db.size), axis=0)
