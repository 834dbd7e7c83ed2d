"""A network on a device: its description, its parameters, and its plans for training and inference.

network = Network(description, open_device("cpu"), infer_batch=256)
network.load(arrays)
logits = network.logits(images)          # float32 [N, classes] for uint8 images [N, H, W, C]
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from . import userfile
from .answers import QueuedAnswers, WaitedAnswers
from .arena import Layout, ParameterArena
from .compile import compile_graph
from .data import in_pixels
from .device import Device
from .errors import InputError
from .fitting import check_fit
from .freeze import FEATURES, Freeze, cut, frozen
from .gpu import CudaDevice
from .init import initial_state, initial_values
from .ir import Graph
from .models import build_graph, get_model
from .optim import Optimizer
from .precision import PRECISIONS, activation_dtype, products
from .routes import slot_bytes
from .runner import Feeds, Plan, Program, Storage, sources_only
from .scaling import LossScaling


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

        With `pictures` it begins with uint8 images, see `build_graph`.

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


TRAINING, INFERENCE, FRONT = "training", "inference", "front"


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
        freeze: Freeze | None = None,
    ) -> None:
        """Compile and allocate; parameters are zero until `initialise` or `load`.

        With the name of an `optimizer`, room for its state and for the steps is reserved too. With
        `pictures`, all plans take uint8 images and normalise them on the device, training their
        moves too; a GPU then gets the next batch while one runs. Where `freeze` cuts the network,
        `features` runs the front, and all else begins behind it.

        Raises: InputError for an architecture, option, precision or image size that cannot work,
        and for a batch size that does not fit into the device's memory.
        """
        activation_dtype(description.precision, device)
        self.description = description
        self.device = device
        self.scaled = description.precision == "fp16"  # needs loss scaling
        self.products = products(description.precision, device)
        self._smoothing, self._optimizer, self._pictures = label_smoothing, optimizer, pictures
        self.freeze = freeze or Freeze()
        programs = self._compiled(infer_batch, train_batches)
        held = {p.value.name: p for made in programs.values() for p in made.graph.params}
        self.initial = tuple(held.values())
        try:
            device.reserve(self._bytes(programs))
        except MemoryError as error:
            raise self._too_large(error, infer_batch, train_batches) from None
        aside = sources_only(programs.values())
        self.parameters = ParameterArena(
            self.initial, device, trains=bool(train_batches), aside=aside
        )
        self.storage = Storage(device, self.parameters, programs.values())
        plans = {key: Plan(program, self.storage) for key, program in programs.items()}
        self.training = {batch: plan for (use, batch), plan in plans.items() if use == TRAINING}
        others = {use: plan for (use, _), plan in plans.items() if use != TRAINING}
        self.inference, self.front = others.get(INFERENCE), others.get(FRONT)
        self._asked = {p: FEATURES if use == FRONT else "logits" for use, p in others.items()}
        queued = pictures and isinstance(device, CudaDevice)
        self._answers = (QueuedAnswers if queued else WaitedAnswers)(device, self._asked)

    def graph(self, batch: int, *, training: bool) -> Graph:
        """What the plans for a batch size are compiled from: as built, frozen, and cut."""
        whole = self._whole(batch, training=training)
        return cut(whole, self.freeze.boundary)[1] if self.freeze.cut else whole

    def front_graph(self, batch: int) -> Graph:
        """The frozen front of a network that is cut."""
        return cut(self._whole(batch, training=False), self.freeze.boundary)[0]

    def _whole(self, batch: int, *, training: bool) -> Graph:
        told = {"label_smoothing": self._smoothing, "scaled": self.scaled}
        more: dict[str, Any] = told if training else {}
        graph = self.description.graph(
            batch, training=training, products=self.products, pictures=self._pictures, **more
        )
        return frozen(graph, self.freeze.boundary, self.freeze.paces)

    def _compiled(
        self, infer_batch: int, train_batches: Sequence[int]
    ) -> dict[tuple[str, int], Program]:
        """(what for, batch size) → program."""
        graphs = {(TRAINING, n): self.graph(n, training=True) for n in train_batches}
        if infer_batch:
            graphs[INFERENCE, infer_batch] = self.graph(infer_batch, training=False)
        if infer_batch and self.freeze.cut:
            graphs[FRONT, infer_batch] = self.front_graph(infer_batch)
        folded = not train_batches
        return {
            key: compile_graph(graph, self.device, training=key[0] == TRAINING, folded=folded)
            for key, graph in graphs.items()
        }

    def _bytes(self, programs: Mapping[tuple[str, int], Program]) -> int:
        """All device memory that the network, its optimizer and its steps will ask for."""
        device = self.device
        layout = Layout(self.initial, sources_only(programs.values()))
        feeds = {k: Feeds(p.graph, layout.dtype, device).size for k, p in programs.items()}
        trains = any(use == TRAINING for use, _ in programs)
        size = layout.bytes(device, trains=trains) + Storage.bytes(device, programs.values())
        size += sum(map(device.aligned, feeds.values()))
        if self._optimizer is not None:
            size += Optimizer.bytes(self._optimizer, layout, device)
            if device.slots:  # see `QueuedSteps`
                size += LossScaling.bytes(device) if self.scaled else device.aligned(4)
            steps = [feed for (use, _), feed in feeds.items() if use == TRAINING]
            size += device.slots * slot_bytes(device, steps)
        if self._pictures and device.slots:
            asked = [feed for (use, _), feed in feeds.items() if use != TRAINING]
            size += QueuedAnswers.bytes(device, asked)
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
        told = f"batch size {fits} fits" if fits else "not even batch size 1 fits"
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
        plans = [*self.training.values(), *self._asked]
        for value in {v.name: v for p in plans for v in p.graph.states}.values():
            array = self.storage.states[value.name]
            self.device.copy_from_host(array, np.full(value.shape, initial_state(value)))
        self.storage.derive()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters (master precision) and states by name, on the host."""
        states = {n: self.device.to_host(a) for n, a in self.storage.states.items()}
        return {**self.parameters.state_dict(), **states}

    def inference_dict(self) -> dict[str, np.ndarray]:
        """`state_dict` without what only training needs: auxiliary heads."""
        assert self.inference is not None, "compiled without infer_batch"
        return self._held_by(*(plan.graph for plan in self._asked))

    def front_dict(self) -> dict[str, np.ndarray]:
        """`state_dict` of the frozen front of a network that is cut."""
        return self._held_by(self.front_graph(1))

    def _held_by(self, *graphs: Graph) -> dict[str, np.ndarray]:
        names = {v.name for g in graphs for v in (*(p.value for p in g.params), *g.states)}
        return {name: array for name, array in self.state_dict().items() if name in names}

    def load(self, arrays: Mapping[str, np.ndarray], source: str = "the weights") -> None:
        """Fill parameters and states. Raises: InputError listing missing, extra, misshapen ones."""
        wanted = {n: v.shape for n, v in self.parameters}
        wanted |= {n: a.shape for n, a in self.storage.states.items()}
        check_fit(self.description.arch, wanted, arrays, source)
        self.parameters.load({n: arrays[n] for n, _ in self.parameters})
        for name, array in self.storage.states.items():
            self.device.copy_from_host(array, arrays[name])
        self.storage.derive()

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N,H,W,C] → float32: (x / 255 - mean) / std, to the bits of `spec.normalise`."""
        mean, scale = self._pixels
        x = images.astype(np.float32)
        x -= mean
        x *= scale
        return x

    @functools.cached_property
    def _pixels(self) -> tuple[np.ndarray, np.ndarray]:
        return in_pixels(self.description.mean, self.description.std)

    def inputs_of(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What inference is fed with for images, uint8 or normalised, or for features."""
        if images.dtype != np.uint8:
            return {"x": images}
        return {"images": images} if self._pictures else {"x": self.normalise(images)}

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, classes] for images [N,H,W,C]; any N, in batches.

        The images are uint8 or, for a network without `pictures`, normalised. One that is cut takes
        `features` in their place.
        """
        none = np.empty((0, len(self.description.classes)), np.float32)
        return np.concatenate([none, *self.answers(images)])

    def answers(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of `logits`, batch after batch."""
        assert self.inference is not None, "compiled without infer_batch"
        for logits in self._in_batches(self.inference, images):
            yield logits.astype(np.float32, copy=False)

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the front of a network that is cut makes of images [N,H,W,C], as `logits` takes."""
        assert self.front is not None, "not cut, or compiled without infer_batch"
        return np.concatenate(list(self._in_batches(self.front, images)))

    def _in_batches(self, plan: Plan, images: np.ndarray) -> Iterator[np.ndarray]:
        """What a plan makes of any number of images; the last batch is filled up with zeros."""
        batch = plan.graph.inputs[0].shape[0]
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        found = self._answers(plan, map(self.inputs_of, parts))
        for part, rows in zip(parts, found, strict=True):
            yield rows[: len(part)]
