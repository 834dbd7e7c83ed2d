"""The stages of a run: which layers are frozen from which epoch on, and how fast the others learn.

    --freeze-until fire9 --unfreeze-at 5:fire8 --unfreeze-at 8:fire6 --lower-lr 0.3

trains conv10 alone, from epoch 5 on fire8 and all behind it too, from epoch 8 on fire6 and fire7.
The last layer learns at the learning rate, each group in front of it (what was trained from the
start, then what each stage added) at `lower_lr` times the rate of the group behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import TrainConfig, parse_unfreeze
from .errors import InputError
from .freeze import Freeze, dropped, find_boundary, find_start, frozen, name_of
from .ir import Graph, Pace, Value
from .naming import head
from .network import Description


@dataclass(frozen=True, eq=False)
class Stage:
    """From `epoch` (counted from 0) on, all up to `layer` is frozen ("": nothing).

    `parameters` and `frozen_parameters` count scalars.
    """

    epoch: int
    layer: str
    freeze: Freeze
    parameters: int
    frozen_parameters: int

    def __str__(self) -> str:
        """For people: what is frozen."""
        if not self.layer:
            return f"all {self.parameters:,} parameters are trained"
        return (
            f"frozen up to and including {self.layer}: {self.frozen_parameters:,} of "
            f"{self.parameters:,} parameters"
        )


def plan_stages(description: Description, config: TrainConfig, steps_per_epoch: int) -> list[Stage]:
    """The stages of a run of a network, in order.

    Raises: InputError for a layer that does not exist or is no boundary, or a stage that adds none.
    """
    graph = description.graph(1, training=False)
    if not config.freeze_until:
        begun: list[tuple[int, Value | None]] = [(0, None)]
    else:
        told = f"--freeze-until {config.freeze_until}"
        random = dropped(description.graph(2, training=True))
        begun = [(0, find_boundary(graph, config.freeze_until, told, random))]
    frozen_names = _frozen_names(graph, begun[0][1])
    for number, layer in parse_unfreeze(config.unfreeze_at):
        told = f"--unfreeze-at {number}:{layer}"
        value = find_start(graph, layer, told)
        left = _frozen_names(graph, value)
        if not left < frozen_names:
            raise InputError(f"{told}: no more layers are trained then than before")
        begun.append((number - 1, value))
        frozen_names = left
    paces = _paces(graph, config, begun, steps_per_epoch)
    sizes = {p.value.name: p.value.size for p in graph.params}
    stages = []
    for epoch, value in begun:
        held = sum(sizes[name] for name in _frozen_names(graph, value))
        freeze = Freeze(value.name if value else "", paces)
        layer = "" if value is None else name_of(graph, value) if epoch else config.freeze_until
        stages.append(Stage(epoch, layer, freeze, sum(sizes.values()), held))
    return stages


def stage_at(stages: list[Stage], epoch: int) -> Stage:
    """The stage that `epoch` belongs to."""
    return [stage for stage in stages if stage.epoch <= max(0, epoch)][-1]


def _frozen_names(graph: Graph, boundary: Value | None) -> set[str]:
    if boundary is None:
        return set()
    return {p.value.name for p in frozen(graph, boundary.name).params if not p.trainable}


def _paces(
    graph: Graph, config: TrainConfig, begun: list[tuple[int, Value | None]], steps_per_epoch: int
) -> dict[str, Pace]:
    """Parameter → pace: a rate for each group of layers, from the last layer to the front."""
    last = head(graph) if config.lower_lr < 1 else None
    names = [p.value.name for p in graph.params]
    groups = [(0, {n for n in names if n.rpartition("/")[0] == last})]
    done = set(groups[0][1])
    for epoch, value in begun:
        added = set(names) - _frozen_names(graph, value) - done
        done |= added
        if added:
            groups.append((epoch, added))
    return {
        name: Pace(config.lower_lr**depth, epoch * steps_per_epoch)
        for depth, (epoch, members) in enumerate(groups)
        for name in members
    }
