"""Randomised placements to measure on: from scattered to nearly all on one device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.merging import merged
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile


class RandomRollout(Scheduler):
    """Places tasks at random, in index order.

    Each instance draws how often a task follows an input's device and how the others are spread,
    so that many rollouts cover scattered placements and connected parts alike.
    """

    name = "rollout"

    def __init__(self, rng: np.random.Generator, n_devices: int) -> None:
        self._rng = rng
        self._stay = float(rng.uniform(0, 1))
        self._shares = rng.dirichlet(np.ones(n_devices))

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return one launch per task that is not planned yet."""
        names = profile.cluster.names
        placement = planned.placement()
        launches = []
        for task in graph.topological_order:
            if task not in placement:
                placement[task] = self._choose(graph.input_lists[task], placement, names)
                launches.append(Launch(placement[task], (task,)))
        return launches

    def _choose(
        self, inputs: Sequence[int], placement: dict[int, str], names: Sequence[str]
    ) -> str:
        if inputs and self._rng.random() < self._stay:
            return placement[int(self._rng.choice(inputs))]
        return str(self._rng.choice(names, p=self._shares))


class OneDevice(Scheduler):
    """Places everything on one device, in index order."""

    name = "one-device"

    def __init__(self, device: str) -> None:
        self._device = device

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return one launch per task that is not planned yet."""
        placed = planned.placement()
        fresh = [task for task in graph.topological_order if task not in placed]
        return [Launch(self._device, (task,)) for task in fresh]


LAUNCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""How many tasks the launches have that batch curves are told at."""


class Batched(Scheduler):
    """Merges another scheduler's tasks into launches of up to `largest` tasks."""

    def __init__(self, inner: Scheduler, largest: int) -> None:
        self.name = inner.name
        self._inner = inner
        self._sizes = range(1, largest + 1)

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; tasks are where the inner scheduler places them."""
        launches = self._inner.schedule(graph, profile, planned)
        return merged(graph, launches, sizes=self._sizes)
