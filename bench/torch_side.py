"""The other side of a network's row: its torch twin, in each of the ways in which people run it.

contiguous, channels_last, on a GPU channels_last as one captured CUDA graph, and torch.compile
(channels_last; on a CPU in the default mode, for inference with freezing, so that filters are
packed once; on a GPU with max-autotune, which replays CUDA graphs). The update is torch's fused
SGD.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .our_side import DECAY, LR, MOMENTUM, SCALE, Setting
from .timing import Candidate
from .torch_terms import same_terms
from .torch_twin import TorchTwin

if TYPE_CHECKING:
    from .network import Answers

EAGER = ("contiguous", "channels_last")
WAYS = {"cpu": (*EAGER, "compile"), "cuda": (*EAGER, "graph", "compile")}
WARM = 3  # steps before a capture: algorithms are chosen, memory is taken


class TorchSide:
    """The twin of a setting's network with its optimizer, on the setting's batch."""

    def __init__(
        self, setting: Setting, mode: str, way: str, *, given_masks: bool = False,
        place: str = "cpu",
    ) -> None:  # fmt: skip
        """Build the twin on a device of torch, load the weights; `way` is one of `WAYS`."""
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
        self._guard = torch.inference_mode if way in EAGER else torch.no_grad
        self._launch = self._step if training else self._pass
        if way == "graph":
            self._launch = _graphed(self._launch)
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
        return self._launch().item()

    def infer(self) -> torch.Tensor:
        """The logits of the batch, on the host."""
        return self._launch().float().cpu()

    def _step(self) -> torch.Tensor:
        """A training step as it is launched; the mean loss."""
        self.optimizer.zero_grad()
        with self._autocast():
            loss = self._losses(self.x, self.labels).mean()
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach()

    def _pass(self) -> torch.Tensor:
        with self._guard(), self._autocast():
            return self._logits(self.x)

    def _autocast(self) -> Any:
        """16 bits: torch's mixed precision, which keeps parameters in float32 as ours does."""
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        return torch.autocast(self._place, low or torch.bfloat16, enabled=low is not None)

    def learns(self) -> bool:
        """Whether a training step changes parameters: a graph may replay nothing."""
        held = self.twin.parameters().values()
        before = [parameter.detach().clone() for parameter in held]
        self.train()
        return any(not torch.equal(a, b) for a, b in zip(before, held, strict=True))


def _graphed(launch: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """All that `launch` puts on the GPU as one CUDA graph; its result is written anew each time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = launch()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


def torch_answers(setting: Setting, modes: tuple[str, ...], place: str = "cpu") -> Answers:
    """What `network.our_answers` gives, from the channels_last twin with our dropout masks.

    In float32 without TF32, on a device of torch.
    """
    from .network import INFERENCE

    wide = replace(setting, description=replace(setting.description, precision="fp32"))
    answers: Answers = {}
    with same_terms("fp32"):
        if "infer" in modes:
            side = TorchSide(wide, "infer", "channels_last", place=place)
            answers[INFERENCE] = side.infer().numpy()
        if "train" in modes:
            side = TorchSide(wide, "train", "channels_last", given_masks=True, place=place)
            before = side.twin.state_dict()
            with torch.no_grad():
                answers["logits"] = side.twin.heads(side.x)[0].cpu().numpy()
            side.twin.load(setting.weights)  # the pass above moved running statistics
            answers["loss"], gradients = side.twin.loss_and_gradients(setting.x, setting.labels)
            side.train()
            after = side.twin.state_dict()
            answers |= {f"gradient of {name}": g for name, g in gradients.items()}
            answers |= {f"update of {name}": after[name] - before[name] for name in gradients}
    return answers


@dataclass(frozen=True)
class TorchWays:
    """The ways to time; a line for each whose answer is wrong, and for each that does not run."""

    candidates: list[Candidate]
    wrong: list[str]
    declined: list[str]


def torch_ways(
    setting: Setting, mode: str, *, compiled: bool, note: Callable[[str], None],
    place: str = "cpu",
) -> TorchWays:  # fmt: skip
    """Every way, built and run once on equal terms; where an answer is wrong nothing is timed."""
    from .network import COARSE, LOGITS_RMS

    found = TorchWays([], [], [])
    precision = setting.description.precision
    terms = functools.partial(same_terms, precision)
    expected: np.ndarray | None = None
    for way in WAYS[place]:
        if way == "compile" and not compiled:
            continue
        if way == "compile":
            note("torch.compile: compiling (--no-compile leaves it out)")
        try:
            with terms():
                side = TorchSide(setting, mode, way, place=place)
                if mode == "infer":
                    logits = side.infer().numpy().astype(np.float64)
                elif not side.learns():
                    found.wrong.append(f"torch {way}: a step leaves parameters as they are")
        except Exception as error:  # a baseline that fails is told and left out
            first = str(error).strip().partition("\n")[0]
            found.declined.append(f"torch {way}: no figure: {type(error).__name__}: {first}")
            note(found.declined[-1])
            continue
        if mode == "infer":
            expected = logits if expected is None else expected
            off = np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean())
            if not off <= COARSE.get(precision, (LOGITS_RMS,))[0]:
                found.wrong.append(f"torch {way}: logits are {off:.3g} from torch's first way")
        found.candidates.append(Candidate(f"torch {way}", getattr(side, mode), terms))
    return found
