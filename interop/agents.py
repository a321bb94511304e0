"""Agents trained on the padded environment, as schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dynpartition.agent import env_kernel
from dynpartition.agent.batch import Batch
from dynpartition.agent.facts import FactsCache
from dynpartition.agent.policy import MAX_READY
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.interop.padded_env import PaddedObservation, padded
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile

Choose = Callable[[PaddedObservation, npt.NDArray[np.bool_]], int]
"""(padded observation, bool (K,) of legal actions) → action."""

_SLOT = np.zeros(1, dtype=np.int64)


class AgentScheduler(Scheduler):
    """Plays an agent's choices, one per task; it must have been trained on as many devices.

    `choose` gets what `PaddedPlacement` shows and says which candidate is placed. Where it names an
    illegal one, as agents without a mask do, the first legal candidate counts instead. `max_ready`
    and `batching`: as in the environment that it was trained on.
    """

    def __init__(
        self,
        choose: Choose,
        *,
        name: str = "agent",
        max_ready: int = MAX_READY,
        batching: bool = False,
    ) -> None:
        self.name = name
        self._choose = choose
        self._max_ready, self._batching = max_ready, batching
        self._profile: Profile | None = None

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return launches in the order of choosing."""
        if self._profile is not profile:
            self._profile = profile
            self._batch = Batch(profile, 1, self._max_ready, batching=self._batching)
            self._facts = FactsCache(profile)
        batch = self._batch
        batch.begin(0, self._facts.of(graph), planned)
        if len(planned.placement()) == len(graph):
            return []
        outcome = int(batch.observe(_SLOT)[0])
        while outcome == env_kernel.PLACED:
            outcome = int(batch.act(_SLOT, np.array([self._action()]))[0])
        if outcome == env_kernel.STUCK:
            raise SchedulerError(f"no ready task of graph {graph.name!r} has a legal device")
        return batch.launches(0)

    def _action(self) -> int:
        mask = self._batch.mask[0]
        features = self._batch.features[0]
        observation = padded({"candidates": features.copy(), "mask": mask.copy()})
        action = int(self._choose(observation, mask.astype(np.bool_)))
        return action if mask[action] else int(mask.argmax())
