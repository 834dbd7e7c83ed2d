"""What frozen layers spare: the work of a run beside that of training every layer as long."""

from __future__ import annotations

from dataclasses import dataclass

from .network import Network
from .passes.autodiff import autodiff


@dataclass(frozen=True)
class Savings:
    """Work of this session and of training every layer on the same images.

    `multiply_adds` and `multiply_adds_all` are counted from the graphs (updates left out);
    `seconds` is measured; `seconds_all` is estimated: `multiply_adds_all` at the rate at which this
    session's own layers ran. `energy_wh` is what was spared, estimated: the difference of both at
    this session's mean power; None where that is unknown.
    """

    multiply_adds: float
    multiply_adds_all: float
    seconds: float
    seconds_all: float
    energy_wh: float | None


@dataclass(frozen=True)
class _Costs:
    """Floating-point operations of one image: a training step and inference, here and whole."""

    train: float
    infer: float
    front: float
    train_all: float
    infer_all: float


class Ledger:
    """Adds up what a session does, stage by stage."""

    def __init__(self) -> None:
        """Nothing is done yet."""
        self._spent = self._all = self._seconds = 0.0
        self._frozen = False
        self._timed, self._timed_seconds = 0.0, 0.0

    def begin(self, network: Network) -> None:
        """From here on the work is that of `network`."""
        batch, plan = next(iter(network.training.items()))
        whole = network.description.graph(batch, training=True)
        assert network.inference is not None
        infers = network.inference.graph
        self._costs = _Costs(
            plan.graph.flops() / batch, infers.flops() / infers.inputs[0].shape[0],
            network.front_graph(1).flops() if network.freeze.cut else 0.0,
            autodiff(whole).flops() / batch, network.description.graph(1, training=False).flops(),
        )  # fmt: skip
        self._cut = network.freeze.cut
        self._frozen |= bool(network.freeze.boundary)

    def front(self, images: int, seconds: float, *, made: bool) -> None:
        """The frozen layers took `seconds` for `images`; `made` False: in an earlier session."""
        self._time(images * self._costs.front, seconds)
        if made:
            self._spent += images * self._costs.front
            self._seconds += seconds

    def trained(self, images: int, seconds: float) -> None:
        """Training steps over so many images."""
        self._spent += images * self._costs.train
        self._all += images * self._costs.train_all
        self._seconds += seconds
        if not self._cut:  # what is left behind a cut is too little to tell a rate
            self._time(images * self._costs.train, seconds)

    def evaluated(self, images: int, seconds: float) -> None:
        """Inference over so many images."""
        self._spent += images * self._costs.infer
        self._all += images * self._costs.infer_all
        self._seconds += seconds

    def savings(self, before: float | None, now: float | None, seconds: float) -> Savings | None:
        """The account up to now; None where nothing was frozen.

        `before` and `now` are the meter's watt-hours at both ends of the session of `seconds`.
        """
        if not self._frozen:
            return None
        wh = None if before is None or now is None else now - before
        pace = self._timed_seconds / self._timed if self._timed else 0.0
        longer = self._all * pace - self._seconds
        return Savings(
            self._spent / 2, self._all / 2, self._seconds, self._all * pace,
            None if wh is None else wh / seconds * longer,
        )  # fmt: skip

    def _time(self, operations: float, seconds: float) -> None:
        self._timed += operations
        self._timed_seconds += seconds
