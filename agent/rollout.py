"""Playing many episodes in lockstep: one batched decision per step for all that are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynpartition.agent import kernel
from dynpartition.agent.episode import Baseline, Episodes, reward_of
from dynpartition.agent.observe import Observation
from dynpartition.agent.policy import Policy
from dynpartition.contract import Backend, Workload
from dynpartition.types import FloatArray, IntArray


@dataclass
class Rollouts:
    """B finished episodes and the T decisions taken in them."""

    rewards: FloatArray  # (B,)
    observations: list[Observation] = field(default_factory=list)  # T rows in all
    actions: list[IntArray] = field(default_factory=list)
    episode_of: list[IntArray] = field(default_factory=list)


class Player:
    """Plays workloads on one backend, at most `lockstep` episodes at a time."""

    def __init__(
        self,
        backend: Backend,
        *,
        lockstep: int,
        baseline_repeats: int = 1,
    ) -> None:
        self._backend = backend
        self._lockstep = lockstep
        self._baseline = Baseline(backend, baseline_repeats)
        self._episodes: dict[int, Episodes] = {}  # ready tasks shown → slots

    def play(
        self,
        policy: Policy,
        workloads: Sequence[Workload],
        rng: np.random.Generator | None = None,
        *,
        record: bool = True,
    ) -> Rollouts:
        """Play one episode per workload: with `rng` sampling, without greedily."""
        result = Rollouts(np.zeros(len(workloads), dtype=np.float32))
        episodes = self._slots(policy.max_ready)
        try:
            for first in range(0, len(workloads), self._lockstep):
                wave = workloads[first : first + self._lockstep]
                kept = result if record else Rollouts(result.rewards)
                self._play_wave(policy, episodes, wave, rng, kept, first)
        finally:
            episodes.close()
        return result

    def _slots(self, max_ready: int) -> Episodes:
        if max_ready not in self._episodes:
            slots = Episodes(self._backend, self._lockstep, max_ready)
            self._episodes[max_ready] = slots
        return self._episodes[max_ready]

    def _play_wave(
        self,
        policy: Policy,
        episodes: Episodes,
        workloads: Sequence[Workload],
        rng: np.random.Generator | None,
        result: Rollouts,
        first: int,
    ) -> None:
        running = np.arange(len(workloads))
        episodes.begin(running, workloads)
        while len(running):
            batch = episodes.batch
            observation = Observation(batch.features[running], batch.mask[running])
            actions = policy.choose(observation, rng)
            result.observations.append(observation)
            result.actions.append(actions)
            result.episode_of.append(running + first)
            running = running[episodes.act(running, actions) == kernel.PLACED]
        for slot, workload in enumerate(workloads):
            best_ns = self._baseline.best_single_ns(workload)
            makespan_ns = episodes.finished[slot].makespan_ns
            result.rewards[first + slot] = reward_of(makespan_ns, best_ns)
