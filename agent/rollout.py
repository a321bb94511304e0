"""Playing many episodes in lockstep: one batched decision per step for all that are open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from dynpartition.agent.episode import Baseline, Episode, reward_of
from dynpartition.agent.facts import FactsCache
from dynpartition.agent.observe import Observation, Observer
from dynpartition.agent.policy import Policy, candidate
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
    """Plays workloads on one backend, at most `lockstep` sessions at a time."""

    def __init__(self, backend: Backend, *, lockstep: int, baseline_repeats: int = 1) -> None:
        self._backend = backend
        self._lockstep = lockstep
        self._cache = FactsCache(backend.profile)
        self._baseline = Baseline(backend, baseline_repeats)

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
        for first in range(0, len(workloads), self._lockstep):
            wave = workloads[first : first + self._lockstep]
            self._play_wave(
                policy, wave, rng, result if record else Rollouts(result.rewards), first
            )
        return result

    def _play_wave(
        self,
        policy: Policy,
        workloads: Sequence[Workload],
        rng: np.random.Generator | None,
        result: Rollouts,
        first: int,
    ) -> None:
        with ExitStack() as open_sessions:
            episodes = []
            for workload in workloads:
                episodes.append(Episode(self._backend, workload, self._cache))
                open_sessions.callback(episodes[-1].close)
            self._step_to_the_end(policy, episodes, rng, result, first)
        for number, episode in enumerate(episodes, start=first):
            best_ns = self._baseline.best_single_ns(episode.workload)
            result.rewards[number] = reward_of(episode.makespan_ns, best_ns)

    def _step_to_the_end(
        self,
        policy: Policy,
        episodes: Sequence[Episode],
        rng: np.random.Generator | None,
        result: Rollouts,
        first: int,
    ) -> None:
        n_devices = len(self._backend.profile.cluster.devices)
        observer = Observer(n_devices, policy.max_ready)
        running = list(range(len(episodes)))
        while running:
            observation, shown = observer.observe([episodes[e].table for e in running])
            actions = policy.choose(observation, rng)
            result.observations.append(observation)
            result.actions.append(actions)
            result.episode_of.append(np.array(running, dtype=np.int64) + first)
            for e, tasks, action in zip(running, shown, actions.tolist(), strict=True):
                episodes[e].place(*candidate(tasks, action, n_devices))
            running = [e for e in running if not episodes[e].finished]
