"""What one session of a run takes: time, work and energy, stage by stage."""

from __future__ import annotations

import time

from .energy import Meter
from .features import Kept
from .forecast import Forecast, Spent
from .network import Network
from .savings import Ledger, Savings


class Account:
    """Told of all that a session does.

    `epoch_seconds` and `epoch_images` count the steps of this session's part of an epoch,
    `train_seconds` those of all.
    """

    def __init__(self, meter: Meter, forecast: Forecast) -> None:
        """Nothing is done yet."""
        self.meter = meter
        self.epoch_seconds = self.train_seconds = 0.0
        self.epoch_images = 0
        self._ledger, self._forecast = Ledger(), forecast
        self._stage = -1
        self._front_seconds = 0.0

    def compiled(self, network: Network) -> None:
        """From here on the work is that of `network`."""
        self._ledger.begin(network)
        self._front_seconds = 0.0

    def start(self) -> None:
        """The session begins."""
        self._begun, self._wh = time.perf_counter(), self.meter.read().wh

    @property
    def seconds(self) -> float:
        """Of the session up to now."""
        return time.perf_counter() - self._begun

    def front(self, found: Kept) -> None:
        """The frozen layers ran over all images, now or in an earlier session."""
        self._ledger.front(len(found.train) + len(found.test), found.seconds, made=found.made)
        self._front_seconds = found.seconds

    def epoch(self, stage: int, step: int) -> None:
        """An epoch of stage number `stage` begins, or goes on, with `step`."""
        self.epoch_seconds, self.epoch_images = 0.0, 0
        if stage != self._stage:
            self._stage = stage
            self._forecast.enter(stage, self._front_seconds, self._spent(step))

    def stepped(self, images: int, seconds: float) -> None:
        """One step was made."""
        self.train_seconds += seconds
        self.epoch_seconds += seconds
        self.epoch_images += images

    def trained(self) -> None:
        """The epoch's steps were made, or as many as there was time for."""
        self._ledger.trained(self.epoch_images, self.epoch_seconds)

    def evaluated(self, images: int, seconds: float) -> None:
        """Inference over so many images."""
        self._ledger.evaluated(images, seconds)

    def seconds_left(self, step: int) -> float | None:
        """What the run takes from `step` on; None before the first step of a stage is done."""
        left = self._forecast.left(Spent(step, self.seconds, None))
        return left.seconds if left else None

    def forecast_wh(self, step: int) -> float | None:
        """Watt-hours of the whole run; None where they are unknown."""
        spent = self._spent(step)
        left = self._forecast.left(spent)
        return None if spent.wh is None or not left or left.wh is None else spent.wh + left.wh

    def savings(self) -> Savings | None:
        """What frozen layers spared up to now; None where nothing was frozen."""
        return self._ledger.savings(self._wh, self.meter.read().wh, self.seconds)

    def _spent(self, step: int) -> Spent:
        return Spent(step, self.seconds, self.meter.read().wh)
