"""An ONNX file as an architecture: goes wherever `--arch` goes, and starts from its own weights.

The network's results are logits. A Softmax or LogSoftmax over all numbers of an image is left out
where it ends the file, or only reshaping follows: training, evaluation and prediction bring theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..build import GraphBuilder
from ..errors import InputError
from ..files import sha256
from ..ir import Value
from .file import load
from .importer import Importer
from .reader import OnnxModel, Op, parse
from .tensor import NHWC, Tensor, laid, plain, regrouped

FLOATS = ("float32", "float16", "bfloat16", "float64")
SOFTMAX = ("Softmax", "LogSoftmax")
RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
OPEN_SIZE = 224  # rows and columns of images whose size the file leaves open


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """A network of images, from a file of SHA-256 `digest`.

    `final` are the operations that make shares of logits; input_shape is (H, W, C), and `fixed`
    says which of its sizes the file insists on.
    """

    model: OnnxModel
    final: frozenset[Op]
    digest: str
    input_shape: tuple[int, int, int]
    fixed: tuple[bool, bool, bool]
    classes: int = 0

    def build(self, b: GraphBuilder, x: Value, classes: int) -> Value:
        """The logits [N, classes] of images x [N,H,W,C]. Raises: InputError."""
        if classes != self.classes:
            raise InputError(
                f"{self.model.source} tells {self.classes} classes apart, not {classes}"
            )
        return self._write(b, x)[0]

    def initial(self, input_shape: tuple[int, int, int]) -> Mapping[str, np.ndarray]:
        """The file's weights and running statistics, by the names that `build` gives them."""
        return self._scratch(input_shape)[1].arrays()

    def _scratch(self, input_shape: tuple[int, int, int]) -> tuple[Value, Importer]:
        b = GraphBuilder(self.model.source, training=False)
        return self._write(b, b.input("x", (1, *input_shape)))

    def _write(self, b: GraphBuilder, x: Value) -> tuple[Value, Importer]:
        """The logits, and what wrote them. Raises: InputError."""
        sizes = zip(x.shape[1:], self.input_shape, self.fixed, strict=True)
        if any(fixed and size != own for size, own, fixed in sizes):
            own, given = ("x".join(map(str, s)) for s in (self.input_shape, x.shape[1:]))
            raise InputError(f"{self.model.source} takes images of {own}, not {given}")
        name, told = next(iter(self.model.inputs.items()))
        importer = Importer(self.model, b, final=self.final)
        if told and told[0]:
            importer.batch = told[0], x.shape[0]
        (result,) = importer.run({name: laid(x, NHWC)}).values()
        shape = result.shape
        if (
            not isinstance(result, Tensor)
            or len(shape) < 2
            or (shape[0] != x.shape[0] or any(size != 1 for size in shape[2:]))
        ):
            raise InputError(
                f"{self.model.source} must give one number for each image and class, [N, classes], "
                f"not {list(shape)}"
            )
        return plain(b, regrouped(b, result, shape[:2])), importer


def open_network(path: Path) -> OnnxNetwork:
    """The network in a file; the same content is read once. Raises: InputError."""
    try:
        told = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    return _opened(path.resolve(), told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int, size: int) -> OnnxNetwork:
    file = load(path)
    return network(parse(file.proto, str(path), file.numbers), sha256(file.content))


def network(model: OnnxModel, digest: str = "") -> OnnxNetwork:
    """The network that a file describes. Raises: InputError where it is none of images."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"{model.source} has the inputs {', '.join(model.inputs) or 'none'} and the outputs "
            f"{', '.join(model.outputs)}; a network of images has one of each"
        )
    ((name, shape),) = model.inputs.items()
    channels = shape[1] if shape is not None and len(shape) == 4 else None
    if shape is None or not channels:
        told = "unknown" if shape is None else str([size or "?" for size in shape])
        raise InputError(
            f"{model.source}: input {name!r} must be images [N,C,H,W] with a known C, not {told}"
        )
    if model.types[name] not in FLOATS:
        raise InputError(
            f"{model.source}: input {name!r} is {model.types[name]}; images must be float numbers"
        )
    if any(size is not None and size < 1 for size in shape):
        raise InputError(f"{model.source}: input {name!r} of {list(shape)} has an empty size")
    rows, columns = shape[2:]
    size = rows or OPEN_SIZE, columns or OPEN_SIZE, channels
    made = OnnxNetwork(model, _final(model), digest, size, (bool(rows), bool(columns), True))
    return replace(made, classes=made._scratch(size)[0].shape[1])


def _final(model: OnnxModel) -> frozenset[Op]:
    """The Softmax operations at the model's end, behind which only shapes change."""
    (output,) = model.outputs
    makers = {name: op for op in model.ops for name in op.outputs}
    tail: set[Op] = set()
    while True:
        last = makers.get(output)
        read = any(user not in tail for user in model.users.get(output, ()))
        if last is None or last.kind not in (*SOFTMAX, *RESHAPING) or read:
            return frozenset(op for op in tail if op.kind in SOFTMAX)
        tail.add(last)
        output = last.inputs[0]
