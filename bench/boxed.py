"""A resumable run of stages inside a box of time: what each makes is written down as it is made."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..engine.device import Device
from ..engine.energy import Meter
from ..kernels.errors import BackendError
from .log import Log


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Open while SIGTERM ends this as an exception does: processes and folders go with it."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Boxed:
    """The time, the log and the energy of a run on a device."""

    def __init__(
        self, device: Device, folder: Path, minutes: float, identity: dict[str, Any],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """Open the log in the folder. Raises: InputError if it is of another run."""
        self.device, self.folder = device, folder
        self._clock, self._begun, self._minutes = clock, clock(), minutes
        self.log = Log(folder, identity)

    def left(self, share: float = 1.0) -> float:
        """Seconds until that share of the time is over."""
        return share * 60 * self._minutes - (self._clock() - self._begun)

    def stage(self, name: str, stage: Callable[[], None]) -> None:
        """One stage, and the energy that it took added to what it took before."""
        before, meter = len(self.log.lines), Meter(self.device)
        try:
            stage()
        finally:
            if len(self.log.lines) > before:
                used, old = meter.read(), self.log.told("energy").get(name, {"wh": 0.0})
                known = used.wh is not None and old["wh"] is not None
                wh = old["wh"] + used.wh if known else None
                self.log.add("energy", name, {"wh": wh, "label": used.label})

    def kept(
        self, stage: str, key: str, make: Callable[[], Any], dead: Callable[[str], Any]
    ) -> Any:
        """Write down what `make` makes, or if it raises, what `dead` makes of the reason.

        None is not written: its time was over.

        Raises: BackendError if the device does nothing more.
        """
        try:
            made = make()
        except Exception as error:  # whatever one figure dies of, the others are wanted
            told = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            made = dead(told)
            if not self.device.works():
                self.log.add(stage, key, made)
                raise BackendError(
                    f"{key}: {self.device.name} does nothing more: {told}; the same command goes "
                    "on behind that"
                ) from error
        if made is not None:
            self.log.add(stage, key, made)
        return made
