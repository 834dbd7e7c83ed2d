"""Import: walks the operations of an ONNX file and writes the same network with GraphBuilder.

What the file knows beforehand (weights, shapes) is a constant, a NumPy array, and operations on
constants are done at once. Everything else is a `Tensor`. Weights of layers become parameters,
running statistics states; constants that are added or multiplied become frozen parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...kernels.errors import KernelError
from .. import files
from ..build import GraphBuilder
from ..errors import InputError
from ..ir import Value
from .reader import OnnxModel, Op
from .tensor import Tensor, laid

MOST_VALUE = 2**34  # bytes of one activation
MOST_FOLDED = 2**24  # numbers in computed constants, above as many as the file holds
MOST_WEIGHTS = 2**33  # bytes of all weights

FOLDED = {  # operations that constants go through as constants
    "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Gather", "Identity", "Mul", "Reshape",
    "Slice", "Squeeze", "Sum", "Transpose", "Unsqueeze",
}  # fmt: skip

Operand = Tensor | np.ndarray
Layout = Callable[[np.ndarray], np.ndarray]
Translation = Callable[["Importer", Op], Sequence[Any]]
KINDS: dict[str, Translation] = {}


def translates(*kinds: str) -> Callable[[Translation], Translation]:
    """Register how operations are written with GraphBuilder: one result for each output."""

    def register(function: Translation) -> Translation:
        KINDS.update(dict.fromkeys(kinds, function))
        return function

    return register


def _as_is(array: np.ndarray) -> np.ndarray:
    return array


class Importer:
    """One import into one graph."""

    def __init__(
        self, model: OnnxModel, b: GraphBuilder, *, exact: bool = False,
        final: frozenset[Op] = frozenset(),
    ) -> None:  # fmt: skip
        """Nothing is done yet; the constants of the file are known.

        `exact`: run what the file says, not the network that it trained: its own training_mode
        counts, not that of `b`. `final`: each Softmax that is left out if it is over all numbers of
        an image.
        """
        self.model = model
        self.b = b
        self.exact = exact
        self.final = final
        self._weights: dict[str, tuple[np.ndarray, Layout]] = {}
        self.batch: tuple[int, int] | None = None  # images: as the file says, as there are
        self._known: dict[str, Any] = dict(model.constants)
        self._bytes = 0
        self._left = MOST_FOLDED + sum(array.size for array in model.constants.values())
        self._layers: dict[str, int] = {}
        self._absorbed: dict[Op, str] = {}
        self._frozen: dict[str, Value] = {}

    def run(self, inputs: Mapping[str, Operand]) -> dict[str, Operand]:
        """Write all operations; `inputs` by name. Returns the outputs. Raises: InputError."""
        self._known.update(inputs)
        for op in self._constants_first():
            if op in self._absorbed:
                self._known[op.outputs[0]] = self._known[self._absorbed[op]]
                continue
            try:
                results = KINDS[op.kind](self, op)
            except (InputError, KernelError) as error:
                raise InputError(f"{self.told(op)}: {error}") from None
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise InputError(
                    f"{self.told(op)} makes no sense: {type(error).__name__}: {error}"
                ) from error
            for name, result in zip(op.outputs, results, strict=False):
                self._check(op, result)
                is_number = isinstance(result, np.generic)
                self._known[name] = np.asarray(result) if is_number else result
        return {name: self._known[name] for name in self.model.outputs}

    def _constants_first(self) -> list[Op]:
        """The operations in an order in which layers find all constants behind them known."""
        known, early = {"", *self.model.constants}, []
        for op in self.model.ops:
            if op.kind in FOLDED and known.issuperset(op.inputs):
                known.update(op.outputs)
                early.append(op)
        done = set(early)
        return [*early, *(op for op in self.model.ops if op not in done)]

    def told(self, op: Op) -> str:
        """The operation, for people."""
        return f"{self.model.source}: {op.kind} {op.name!r}"

    def _check(self, op: Op, result: Any) -> None:
        if isinstance(result, Tensor) and result.value.nbytes > MOST_VALUE:
            raise InputError(
                f"{self.told(op)} makes {list(result.shape)}, {result.value.nbytes} bytes; the "
                f"most is {MOST_VALUE}"
            )

    # What an operation reads

    def given(self, op: Op, index: int) -> bool:
        """Whether the operation has an input number `index`."""
        return index < len(op.inputs) and op.inputs[index] != ""

    def operand(self, op: Op, index: int) -> Any:
        """Input number `index`, whatever it is."""
        if not self.given(op, index):
            raise InputError(f"its input {index} is missing")
        return self._known[op.inputs[index]]

    def tensor(self, op: Op, index: int = 0) -> Tensor:
        """Input number `index` as a tensor; a constant becomes a frozen parameter."""
        found = self.operand(op, index)
        if isinstance(found, np.ndarray):
            return self.constant_tensor(found, op.inputs[index])
        if not isinstance(found, Tensor):
            found = found.settled(self)  # a padding that nobody could take into his own
        return found

    def image(self, op: Op, index: int = 0) -> Tensor:
        """Input number `index`, which must be images [N,C,H,W]."""
        found = self.tensor(op, index)
        if len(found.shape) != 4:
            raise InputError(
                f"only images with rows and columns [N,C,H,W] are known, not {list(found.shape)}"
            )
        return found

    def constant(self, op: Op, index: int) -> np.ndarray:
        """Input number `index`, which the file must know."""
        found = self.operand(op, index)
        if not isinstance(found, np.ndarray):
            raise InputError(f"its input {op.inputs[index]!r} must be a constant of the file")
        return found

    def optional(self, op: Op, index: int) -> np.ndarray | None:
        """The same, or None where it is not given."""
        return self.constant(op, index) if self.given(op, index) else None

    def constant_called(self, name: str) -> np.ndarray | None:
        """The constant of that name, if it is one and is known by now."""
        found = self._known.get(name)
        return found if isinstance(found, np.ndarray) else None

    def constants(self, op: Op) -> list[np.ndarray] | None:
        """All inputs, if every one is a constant."""
        found = [self.operand(op, i) for i in range(len(op.inputs))]
        return found if all(isinstance(f, np.ndarray) for f in found) else None

    def only_user(self, op: Op) -> Op | None:
        """The one operation that reads the first result, if nothing else does."""
        users = self.model.users.get(op.outputs[0], ())
        return users[0] if len(users) == 1 and op.outputs[0] not in self.model.outputs else None

    def absorb(self, user: Op, result: str) -> None:
        """Leave out `user`: its result is that of `result`, which does its work too."""
        self._absorbed[user] = result

    # What an operation makes

    def compute(self, count: int) -> None:
        """Room for a constant of so many numbers that is computed. Raises: InputError."""
        self._left -= count
        if self._left < 0:
            raise InputError(
                f"the constants that the file computes have more than {MOST_FOLDED} numbers above "
                "those that it holds"
            )

    def layer(self, op: Op) -> str:
        """A name for the operation's parameters: the file's, made unique."""
        name = re.sub(r"[^A-Za-z0-9_./\-]+|//+", "_", op.name).strip("_/")[:80] or op.kind.lower()
        number, unique = self._layers.get(name, 0), name
        while unique in self._layers:
            number += 1
            unique = f"{name}_{number}"
        self._layers[name], self._layers[unique] = number, 1
        return unique

    def weights(self, name: str, array: np.ndarray, told: str, layout: Layout = _as_is) -> None:
        """Keep the starting values of a parameter or state: `array`, as `layout` turns it.

        Raises: InputError for what is no float number, and for NaN and infinity in float32.
        """
        self._bytes += array.nbytes
        if self._bytes > MOST_WEIGHTS:
            raise InputError(f"the network has more than {MOST_WEIGHTS} bytes of weights")
        check_floats(array, told)
        for part in files.parts(array) if array.ndim else [np.s_[...]]:
            if not np.isfinite(_narrow(array[part])).all():
                raise InputError(f"{told} holds numbers that are not finite (NaN or infinite)")
            files.forget(array)
        self._weights[name] = array, layout

    def arrays(self) -> dict[str, np.ndarray]:
        """Name → starting values, of every parameter and state."""
        made = {}
        for name, (array, layout) in self._weights.items():
            made[name] = _narrow(layout(array))
            if not np.may_share_memory(made[name], array):
                files.forget(array)
        return made

    def constant_tensor(self, array: np.ndarray, name: str) -> Tensor:
        """A constant as a frozen parameter."""
        check_floats(array, repr(name))
        if name not in self._frozen:
            self._frozen[name] = self.frozen(array, f"constant.{name}")
        return laid(self._frozen[name])

    def frozen(self, array: np.ndarray, name: str) -> Value:
        """A parameter that keeps the values of `array`."""
        layer = self.layer(Op("Constant", name, (), (), {}))
        with self.b.frozen():
            value = self.b.parameter(f"{layer}/value", array.shape, "zeros", decay=True)
        self.weights(value.name, array, f"constant {name!r}")
        return value


@np.errstate(over="ignore")
def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.itemsize > 4 else array


def check_floats(array: np.ndarray, told: str) -> None:
    """Raises: InputError where the array holds anything but float numbers."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise InputError(f"{told} is {array.dtype}: only float numbers can be computed with")


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's rule. Raises: InputError."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        told = " and ".join(str(list(shape)) for shape in shapes)
        raise InputError(f"the shapes {told} do not fit each other") from None


from . import (  # noqa: E402
    ops_elementwise,  # noqa: F401
    ops_layers,  # noqa: F401
    ops_pool,  # noqa: F401
    ops_products,  # noqa: F401
    ops_reduce,  # noqa: F401
    ops_shape,  # noqa: F401
)
