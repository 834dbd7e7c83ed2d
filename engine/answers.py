"""Answers of a network to any number of batches, in their order.

On the CPU each batch is waited for (`WaitedAnswers`). On a GPU (`QueuedAnswers`) the next one is
copied in while it runs, and its answer is read when the next has been handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from .device import Device
from .gpu import CudaDevice
from .routes import Route, make_routes
from .runner import Plan

SLOTS = 2  # batches on their way: one runs, one is copied in

Inputs = Mapping[str, np.ndarray]


class WaitedAnswers:
    """Answers that are known before the next batch begins."""

    def __init__(self, device: Device, outputs: Mapping[Plan, str]) -> None:
        """Answers of plans; `outputs`: which output of each."""
        self.device, self._outputs = device, outputs
        self._run = {plan: device.repeatable(plan.run) for plan in outputs}

    def __call__(self, plan: Plan, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        """The plan's output for each batch of inputs, a copy; missing rows are filled with zeros.

        Another run of any plan may come between two answers.
        """
        for inputs in batches:
            plan.feed(inputs)
            self._run[plan]()
            yield self.device.to_host(plan.output(self._outputs[plan]))


class QueuedAnswers:
    """The same on a GPU, where batches are handed over without waiting."""

    def __init__(self, device: Device, outputs: Mapping[Plan, str]) -> None:
        """Answers of plans; `outputs`: which output of each. Allocates the slots."""
        assert isinstance(device, CudaDevice)
        self._routes = {
            plan: [make_routes(device, {plan: (plan.output(name),)})[plan] for _ in range(SLOTS)]
            for plan, name in outputs.items()
        }
        self._run = {plan: device.repeatable(plan.run) for plan in outputs}

    @staticmethod
    def bytes(device: Device, feeds: Iterable[int]) -> int:
        """Bytes that it takes on a device, for plans whose blocks of feeds have such sizes."""
        return SLOTS * sum(map(device.aligned, feeds))

    def __call__(self, plan: Plan, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        """As `WaitedAnswers`. Who stops early leaves runs behind that harm none but themselves."""
        pending: deque[Route] = deque()
        for number, inputs in enumerate(batches):
            if len(pending) == SLOTS:
                yield _answer(pending.popleft())
            route = self._routes[plan][number % SLOTS]
            route.feeds.write(route.views, inputs, seed=0, step=0)
            route.hand_over(self._run[plan])
            pending.append(route)
        while pending:
            yield _answer(pending.popleft())


def _answer(route: Route) -> np.ndarray:
    route.done.synchronize()
    return route.results[0].copy()
