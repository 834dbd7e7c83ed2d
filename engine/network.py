"""A network on a device: its description, its parameters, and its plans for training and inference.

network = Network(description, open_device("cpu"), infer_batch=256)
network.load(arrays)
logits = network.logits(images)          # float32 [N, classes], normalised NHWC images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from . import userfile
from .arena import Layout, ParameterArena
from .compile import compile_graph
from .data import in_pixels
from .device import Device, numpy_dtype
from .errors import InputError
from .init import initial_state, initial_values
from .ir import Graph
from .models import build_graph, get_model
from .optim import Optimizer
from .runner import Feeds, Plan, Program, Storage
from .scaling import LossScaling

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


@dataclass(frozen=True)
class Description:
    """All that it takes to build a network again and to feed it.

    input_shape is (H, W, C); mean and std are per channel in units of 0 … 1. `code` is the SHA-256
    of the file that `arch` names (`userfile`), "" where it names none.
    """

    arch: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str = "fp32"
    options: dict[str, Any] = field(default_factory=dict)
    code: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Description:
        """Back from `to_json`. Raises: InputError when a field is missing or unknown."""
        try:
            lists = {k: tuple(told[k]) for k in ("input_shape", "classes", "mean", "std")}
            made = cls(**{**told, **lists})
        except (KeyError, TypeError) as error:
            raise InputError(f"the description of the network is damaged: {error}") from None
        if not isinstance(made.arch, str) or not isinstance(made.code, str):
            raise InputError("the description of the network is damaged: arch and code are no text")
        if userfile.file_of(made.arch) is not None and not made.code:
            raise InputError(
                f"the description of the network names {made.arch} without its SHA-256"
            )
        shape, channels = made.input_shape, made.input_shape[-1:]
        if len(shape) != 3 or channels != (len(made.mean),) or channels != (len(made.std),):
            raise InputError(
                f"the description of the network is damaged: images of {shape}, mean {made.mean}, "
                f"std {made.std}"
            )
        return made

    def graph(self, batch: int, *, training: bool, pictures: bool = False, **more: Any) -> Graph:
        """The graph for one batch size; `more` may set label_smoothing, scaled and products.

        With `pictures` it begins with uint8 images and their moves, see `build_graph`.

        Raises: InputError when the file of the network has changed, and as `build_graph`.
        """
        if self.code:
            userfile.check(self.arch, self.code)
        return build_graph(
            self.arch, batch, self.input_shape, len(self.classes), training=training,
            dtype=activation_dtype(self.precision), options=self.options,
            pixels=in_pixels(self.mean, self.std, PRECISIONS[self.precision]) if pictures else None,
            **more,
        )  # fmt: skip


class Network:
    """A network with its parameters, compiled for the batch sizes in use.

    All plans share one activation arena, so only the results of the latest run are valid.
    """

    def __init__(
        self,
        description: Description,
        device: Device,
        *,
        infer_batch: int = 0,
        train_batches: Sequence[int] = (),
        label_smoothing: float = 0.0,
        optimizer: str | None = None,
        pictures: bool = False,
    ) -> None:
        """Compile and allocate; parameters are zero until `initialise` or `load`.

        With the name of an `optimizer`, room for its state and for the steps is reserved too. With
        `pictures`, training takes uint8 images and their moves.

        Raises: InputError for an architecture, option, precision or image size that cannot work,
        and for a batch size that does not fit into the device's memory.
        """
        activation_dtype(description.precision, device)
        self.description = description
        self.device = device
        self.scaled = description.precision == "fp16"  # needs loss scaling
        self.products = products(description.precision, device)
        self._smoothing, self._optimizer, self._pictures = label_smoothing, optimizer, pictures
        programs = self._compiled(infer_batch, train_batches)
        self.initial = next(iter(programs.values())).graph.params
        try:
            device.reserve(self._bytes(programs))
        except MemoryError as error:
            raise self._too_large(error, infer_batch, train_batches) from None
        self.parameters = ParameterArena(self.initial, device, trains=bool(train_batches))
        self.storage = Storage(device, self.parameters, programs.values())
        plans = {key: Plan(program, self.storage) for key, program in programs.items()}
        self.training = {batch: plan for (training, batch), plan in plans.items() if training}
        self.inference = next((plan for (training, _), plan in plans.items() if not training), None)
        self._infer = device.repeatable(self.inference.run) if self.inference else None

    def _compiled(
        self, infer_batch: int, train_batches: Sequence[int]
    ) -> dict[tuple[bool, int], Program]:
        """(training, batch size) → program."""
        graphs: dict[tuple[bool, int], Graph] = {}
        told: dict[str, Any] = {"products": self.products}
        for batch in train_batches:
            graphs[True, batch] = self.description.graph(
                batch, training=True, label_smoothing=self._smoothing, scaled=self.scaled,
                pictures=self._pictures, **told,
            )  # fmt: skip
        if infer_batch:
            graphs[False, infer_batch] = self.description.graph(infer_batch, training=False, **told)
        return {
            key: compile_graph(graph, self.device, training=key[0], folded=not train_batches)
            for key, graph in graphs.items()
        }

    def _bytes(self, programs: Mapping[tuple[bool, int], Program]) -> int:
        """All device memory that the network, its optimizer and its steps will ask for."""
        device, layout = self.device, Layout(self.initial)
        feeds = {k: Feeds(p.graph, layout.dtype, device).size for k, p in programs.items()}
        trains = any(training for training, _ in programs)
        size = layout.bytes(device, trains=trains) + Storage.bytes(device, programs.values())
        size += sum(map(device.aligned, feeds.values()))
        if self._optimizer is not None:
            size += Optimizer.bytes(self._optimizer, layout, device)
            if self.scaled and device.slots:  # see `make_steps`
                size += LossScaling.bytes(device)
            size += device.slots * device.aligned(
                max((feed for (training, _), feed in feeds.items() if training), default=0)
            )
        return size

    def _too_large(
        self, error: MemoryError, infer_batch: int, train_batches: Sequence[int]
    ) -> InputError:
        """The error for batches that do not fit, with the largest batch size that does."""
        batch = max((infer_batch, *train_batches))
        fits, too_much = 0, batch
        while too_much - fits > 1:
            half = (fits + too_much) // 2
            trained = (half, max(1, half - 1)) if train_batches else ()  # the last may be smaller
            programs = self._compiled(min(infer_batch, half), trained)
            if self.device.has_room(self._bytes(programs)):
                fits = half
            else:
                too_much = half
        told = f"--batch-size {fits} fits" if fits else "not even --batch-size 1 fits"
        return InputError(
            f"batch size {batch} does not fit into {self.device.name}: {error}; {told}"
        )

    def initialise(self, seed: int) -> None:
        """Start from He's initialisation under `seed`, or from weights that the network brings."""
        initial = get_model(self.description.arch).initial
        if initial is not None:
            self.load(initial(self.description.input_shape), self.description.arch)
            return
        self.parameters.load(initial_values(self.initial, seed))
        for name, array in self.storage.states.items():
            value = next(v for p in self._plans() for v in p.graph.states if v.name == name)
            self.device.copy_from_host(array, np.full(value.shape, initial_state(value)))
        self.storage.derive()

    def _plans(self) -> list[Plan]:
        return [*self.training.values(), *([self.inference] if self.inference else [])]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters (master precision) and states by name, on the host."""
        states = {n: self.device.to_host(a) for n, a in self.storage.states.items()}
        return {**self.parameters.state_dict(), **states}

    def inference_dict(self) -> dict[str, np.ndarray]:
        """`state_dict` without what only training needs: auxiliary heads."""
        assert self.inference is not None, "compiled without infer_batch"
        graph = self.inference.graph
        names = {value.name for value in (*(p.value for p in graph.params), *graph.states)}
        return {name: array for name, array in self.state_dict().items() if name in names}

    def load(self, arrays: Mapping[str, np.ndarray], source: str = "the weights") -> None:
        """Fill parameters and states. Raises: InputError listing missing, extra, misshapen ones."""
        wanted = {n: v.shape for n, v in self.parameters}
        wanted |= {n: a.shape for n, a in self.storage.states.items()}
        wrong = [f"missing {n}" for n in wanted if n not in arrays]
        wrong += [f"unknown {n}" for n in arrays if n not in wanted]
        wrong += [
            f"{n} is {arrays[n].shape}, not {shape}"
            for n, shape in wanted.items()
            if n in arrays and arrays[n].shape != shape
        ]
        if wrong:
            told = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if wrong[6:] else "")
            raise InputError(f"{source} do not fit {self.description.arch}: {told}")
        self.parameters.load({n: arrays[n] for n, _ in self.parameters})
        for name, array in self.storage.states.items():
            self.device.copy_from_host(array, arrays[name])
        self.storage.derive()

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N,H,W,C] → float32: (x / 255 - mean) / std."""
        mean = np.asarray(self.description.mean, np.float32)
        std = np.asarray(self.description.std, np.float32)
        return (images.astype(np.float32) / np.float32(255) - mean) / std

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, classes] for normalised images [N,H,W,C]; any N, in batches.

        The last batch is filled up with zeros.
        """
        assert self.inference is not None, "compiled without infer_batch"
        assert self._infer is not None
        plan = self.inference
        batch = plan.graph.inputs[0].shape[0]
        results = np.empty((len(images), len(self.description.classes)), np.float32)
        filled = np.zeros(plan.graph.inputs[0].shape, numpy_dtype("float32"))
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            filled[: len(part)] = part
            filled[len(part) :] = 0
            plan.feed({"x": filled})
            self._infer()
            logits = self.device.to_host(plan.output("logits"))
            results[start : start + len(part)] = logits[: len(part)].astype(np.float32)
        return results
