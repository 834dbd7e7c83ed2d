"""Runs single ONNX models as they are: the `onnx.backend` interface over our importer.

    representation = CnnengineBackend.prepare(model_proto, "CPU", constants={"w": array})
    (y,) = representation.run([x])

A network's weights are constants of its file. The official cases hand theirs in as inputs, so
`constants` names inputs whose arrays are to be taken as if the file had them; what is left over is
run-time input. Everything runs in float32, the outputs in ONNX's order and element type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arena import ParameterArena
from ..build import GraphBuilder
from ..compile import compile_graph
from ..device import Device, open_device
from ..errors import InputError
from ..runner import Plan, Storage
from .importer import Importer
from .initializers import require
from .reader import OnnxModel, parse
from .tensor import Tensor, laid, plain

require()

import onnx.backend.base  # noqa: E402


class CnnengineRep(onnx.backend.base.BackendRep):
    """A model, ready to run."""

    def __init__(
        self, model: OnnxModel, shapes: Mapping[str, Sequence[int]], device: Device
    ) -> None:
        """Import and compile for run-time inputs of these shapes. Raises: InputError."""
        b = GraphBuilder(model.source, training=False)
        importer = Importer(model, b, exact=True)
        given = {name: laid(b.input(name, tuple(shape))) for name, shape in shapes.items()}
        results = importer.run(given)
        self.inputs = tuple(shapes)
        self.outputs = {
            name: plain(b, found) if isinstance(found, Tensor) else found
            for name, found in results.items()
        }
        made = {n: v for n, v in self.outputs.items() if not isinstance(v, np.ndarray)}
        graph = b.finish(**made)
        program = compile_graph(graph, device, training=False)
        parameters = ParameterArena(graph.params, device)
        storage = Storage(device, parameters, [program])
        arrays = importer.arrays()
        parameters.load({n: arrays[n] for n, _ in parameters})
        for name, state in storage.states.items():
            device.copy_from_host(state, arrays[name])
        self.device, self.plan = device, Plan(program, storage)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for the run-time inputs, in their order."""
        self.plan.feed(dict(zip(self.inputs, inputs, strict=True)))
        with self.device.session():
            self.plan.run()
        return tuple(
            found if isinstance(found, np.ndarray) else self.device.to_host(self.plan.output(name))
            for name, found in self.outputs.items()
        )


class CnnengineBackend(onnx.backend.base.Backend):
    """Prepares models for the CPU."""

    @classmethod
    def prepare(
        cls, model: Any, device: str = "CPU", *, constants: Mapping[str, np.ndarray] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None, **kwargs: Any,
    ) -> CnnengineRep:  # fmt: skip
        """Import `model`, a ModelProto.

        `constants`: inputs whose values are known; `shapes`: of run-time inputs, where the model
        leaves a size open.

        Raises: InputError.
        """
        read = parse(model, model.graph.name or "model")
        known = {name: np.asarray(value) for name, value in (constants or {}).items()}
        left = {
            name: _sizes(name, (shapes or {}).get(name, told), read.types[name])
            for name, told in read.inputs.items()
            if name not in known
        }
        read = replace(read, constants={**read.constants, **known}, inputs=left)
        return CnnengineRep(read, left, open_device(device.lower()))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether prepare takes the device: the CPU only."""
        return device == "CPU"


def _sizes(name: str, shape: Sequence[int | None] | None, kind: str) -> tuple[int, ...]:
    """The shape of a run-time input. Raises: InputError where it is open, or not float32."""
    if kind != "float32":
        raise InputError(f"input {name!r} is {kind}: only float32 runs here")
    sizes = tuple(size for size in shape or () if size is not None)
    if shape is None or len(sizes) != len(shape):
        raise InputError(f"input {name!r} leaves its shape open: give shapes={{...}}")
    return sizes
