"""The calls that `tune` measures: the passes of some layers, or a network's training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..engine.errors import unknown_name
from ..engine.ir import Graph
from ..engine.models import get_model
from ..engine.network import Description
from ..engine.passes.autodiff import autodiff
from ..engine.passes.fuse import fuse
from ..engine.passes.layout import LEAST_WIDTH, layout
from ..engine.precision import PRECISIONS
from ..kernels import registry, tiling
from . import compile_cases
from .suites import Layer

PASSES = {
    "forward": "conv2d",
    "forward+pool": "conv2d_relu_pool",
    "dgrad": "conv2d_dgrad",
    "wgrad": "conv2d_wgrad",
}
TYPES = {  # name → element type and precision
    "bf16": ("bfloat16", "ieee"),
    "fp16": ("float16", "ieee"),
    "fp32": ("float32", "ieee"),
    "tf32x3": ("float32", "tf32x3"),
    "tf32": ("float32", "tf32"),
}
WHOLE = 16  # channels are fetched so many at a time where images have a border


@dataclass(frozen=True)
class Task:
    """One call to tune; arrays in `arguments` have a shape and a dtype, and no memory."""

    label: str
    function: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """An array without memory, perhaps images in a border of zeros."""

    dtype: str
    shape: tuple[int, ...]
    border: tuple[int, int] = (0, 0)

    @classmethod
    def make(cls, dtype: str, *shape: int) -> Shape:
        """As `compile_cases` makes arrays."""
        return cls(dtype, shape)

    def __getitem__(self, window: tuple[slice, ...]) -> Shape:
        """The images in a buffer, as `[:, :H, :W]`."""
        n, lines, line, c = self.shape
        h, w = window[1].stop, window[2].stop
        return Shape(self.dtype, (n, h, w, c), (lines - h, line - w))


def layer_tasks(
    layers: Sequence[Layer], passes: Sequence[str], types: Sequence[str], batch: int
) -> Iterator[Task]:
    """The passes of some layers, type by type; those that take a border with one first.

    Raises: InputError for an unknown pass or type.
    """
    for name in passes:
        if name not in PASSES:
            raise unknown_name("pass", name, PASSES)
    wanted = {PASSES[name] for name in passes}
    for name in types:
        dtype, precision = _type(name)
        for layer in layers:
            made = replace(layer, op=replace(layer.op, precision=precision))
            for border in dict.fromkeys((border_of(made), (0, 0))):
                told = " in a border" if any(border) else ""
                for label, function, arguments in compile_cases.layer_calls(
                    Shape.make, made, dtype, batch, border
                ):
                    if function in wanted:
                        yield Task(f"{label}{told}: {function}", function, arguments)


def border_of(layer: Layer) -> tuple[int, int]:
    """The border that a graph's layout gives the images of a layer where it helps; else none."""
    op, x = layer.op, layer.x_shape(1)
    if op.padding_mode != "zeros" or op.stride != (1, 1) or x[2] < LEAST_WIDTH:
        return 0, 0
    if layer.y_shape(1)[1:3] != x[1:3] or (op.dilation, op.groups) != ((1, 1), 1):
        return 0, 0
    if x[3] % WHOLE or layer.w_shape[0] % WHOLE:
        return 0, 0
    top, bottom, left, right = op.padding
    return max(top, bottom), max(left, right)


@dataclass(frozen=True)
class Step:
    """A network's training step in one type, before any backend was asked."""

    name: str  # of the type
    graph: Graph


def network_steps(arch: str, batch: int, types: Sequence[str]) -> list[Step]:
    """The training step of a network in each of some types. Raises: InputError."""
    model = get_model(arch)
    flat = (0.0,) * model.input_shape[2]
    classes = tuple(map(str, range(model.classes)))
    description = Description(arch, model.input_shape, classes, flat, flat)
    steps = []
    for name in types:
        dtype, products = _type(name)
        precision = next(p for p, kind in PRECISIONS.items() if kind == dtype)
        described = replace(description, precision=precision)
        graph = described.graph(batch, training=True, products=products)
        steps.append(Step(name, fuse(autodiff(graph))))
    return steps


def network_tasks(steps: Sequence[Step], backends: Sequence[str]) -> Iterator[Task]:
    """The calls of training steps that have tiles, each once.

    Images have the borders that the layout pass gives them for these backends on this GPU.
    """
    gains = any(registry.load(name).borders for name in backends)
    seen: set[str] = set()
    for step in steps:
        graph = layout(step.graph, backends) if gains else step.graph
        for node in graph.nodes:
            told = {n: v for n, v in node.arguments.items() if n not in ("config", "workspace")}
            shapes = {n: _shape_of(v) for n, v in told.items()}
            if node.op in tiling.FUNCTIONS and (key := f"{node.op} {shapes}") not in seen:
                seen.add(key)
                bordered = any(isinstance(s, Shape) and any(s.border) for s in shapes.values())
                where = " in a border" if bordered else ""
                yield Task(f"{node.name} {step.name}{where}: {node.op}", node.op, shapes)


def _type(name: str) -> tuple[str, str]:
    if name not in TYPES:
        raise unknown_name("type", name, TYPES)
    return TYPES[name]


def _shape_of(value: Any) -> Any:
    if not hasattr(value, "shape"):
        return value
    return Shape(str(value.dtype), tuple(value.shape), value.border)
