"""The other side of a network's row: its torch twin, in each of the ways in which people run it.

contiguous, channels_last, and torch.compile (channels_last; on a CPU in the default mode, for
inference with freezing, so that filters are packed once; on a GPU with max-autotune, which replays
CUDA graphs). The update is torch's fused SGD.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .timing import Candidate
from .torch_twin import TorchTwin

if TYPE_CHECKING:
    from .network import Answers, Setting

WAYS = ("contiguous", "channels_last", "compile")


class TorchSide:
    """The twin of a setting's network with its optimizer, on the setting's batch."""

    def __init__(
        self, setting: Setting, mode: str, way: str, *, given_masks: bool = False,
        place: str = "cpu",
    ) -> None:  # fmt: skip
        """Build the twin on a device of torch, load the weights; `way` is one of `WAYS`."""
        from .network import DECAY, LR, MOMENTUM, SCALE

        training = mode == "train"
        graph = setting.description.graph(setting.batch, training=training)
        self.twin = TorchTwin(graph, channels_last=way != "contiguous", given_masks=given_masks)
        self.twin.load(setting.weights)
        self.twin.draw_masks(0, 0)
        self.twin.module.to(place)
        self.x = self.twin.images(setting.x).to(place)
        self.labels = torch.from_numpy(setting.labels.astype(np.int64)).to(place)
        decays = {p.value.name: p.decay for p in graph.params}
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for name, parameter in self.twin.parameters().items():
            groups[decays[name]].append(parameter)
        self.optimizer = torch.optim.SGD(
            [
                {"params": groups[True], "weight_decay": DECAY},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=LR, momentum=MOMENTUM, nesterov=True, fused=True,
        )  # fmt: skip
        self._losses: Callable[..., Any] = self.twin.losses
        self._logits: Callable[..., Any] = self.twin.module
        self._precision, self._place = setting.description.precision, place
        scaled = self._precision == "fp16"
        self._scaler = torch.amp.GradScaler(place, init_scale=SCALE, enabled=scaled)
        self._guard = torch.no_grad if way == "compile" else torch.inference_mode
        if way != "compile":
            return
        told: dict[str, Any] = {} if place == "cpu" else {"mode": "max-autotune"}
        if training:
            self._losses = torch.compile(self.twin.losses, dynamic=False, **told)
        else:
            self.twin.module.eval()
            told = told or {"options": {"freezing": True}}
            self._logits = torch.compile(self.twin.module, dynamic=False, **told)

    def train(self) -> float:
        """One training step; the mean loss."""
        self.optimizer.zero_grad()
        with self._autocast():
            loss = self._losses(self.x, self.labels).mean()
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.item()

    def infer(self) -> torch.Tensor:
        """The logits of the batch, on the host."""
        with self._guard(), self._autocast():
            return self._logits(self.x).float().cpu()

    def _autocast(self) -> Any:
        """16 bits: torch's mixed precision, which keeps parameters in float32 as ours does."""
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        return torch.autocast(self._place, low or torch.bfloat16, enabled=low is not None)


def torch_answers(setting: Setting, modes: tuple[str, ...]) -> Answers:
    """What `network.our_answers` gives, from the channels_last twin with our dropout masks."""
    from .network import INFERENCE

    answers: Answers = {}
    if "infer" in modes:
        answers[INFERENCE] = TorchSide(setting, "infer", "channels_last").infer().numpy()
    if "train" in modes:
        side = TorchSide(setting, "train", "channels_last", given_masks=True)
        before = side.twin.state_dict()
        with torch.no_grad():
            answers["logits"] = side.twin.heads(side.x)[0].numpy()
        side.twin.load(setting.weights)  # the pass above moved running statistics
        answers["loss"], gradients = side.twin.loss_and_gradients(setting.x, setting.labels)
        side.train()
        after = side.twin.state_dict()
        answers |= {f"gradient of {name}": g for name, g in gradients.items()}
        answers |= {f"update of {name}": after[name] - before[name] for name in gradients}
    return answers


@contextlib.contextmanager
def _same_terms(precision: str) -> Iterator[None]:
    """On a GPU: TF32 as ours has it, and cuDNN's search for the fastest algorithm."""
    tf32, matmul = precision == "tf32", torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = tf32
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32
        ):
            yield
    finally:
        matmul.allow_tf32 = before


def torch_candidates(
    setting: Setting, mode: str, *, compiled: bool, note: Callable[[str], None],
    place: str = "cpu",
) -> tuple[list[Candidate], list[str]]:  # fmt: skip
    """The ways to time, and a line for each whose answer is wrong (then nothing is timed)."""
    from .network import COARSE, LOGITS_RMS

    candidates, wrong = [], []
    precision = setting.description.precision
    terms = functools.partial(_same_terms, precision)
    expected: np.ndarray | None = None
    for way in WAYS:
        if way == "compile" and not compiled:
            continue
        side = TorchSide(setting, mode, way, place=place)
        if way == "compile":
            note("torch.compile: compiling (--no-compile leaves it out)")
            try:
                getattr(side, mode)()
            except Exception as error:
                first = str(error).strip().partition("\n")[0]
                note(f"torch.compile failed, no figure of it: {type(error).__name__}: {first}")
                continue
        if mode == "infer":
            logits = side.infer().numpy().astype(np.float64)
            expected = logits if expected is None else expected
            off = np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean())
            if not off <= COARSE.get(precision, (LOGITS_RMS,))[0]:
                wrong.append(f"torch {way}: logits are {off:.3g} from torch contiguous")
        candidates.append(Candidate(f"torch {way}", getattr(side, mode), terms))
    return candidates, wrong
