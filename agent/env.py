"""The Gymnasium environment `dynpartition/Placement-v0`.

One step is one choice of (ready task, device); the order of choices is the plan order. When all
revealed tasks are placed the backend runs the plan; a reveal opens the next steps. The reward is 0
until the end, then −log(makespan / makespan of the best single device).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dynpartition.agent.episode import Baseline, Episode, reward_of
from dynpartition.agent.facts import FactsCache
from dynpartition.agent.observe import BOUND, FEATURES, Observer
from dynpartition.agent.policy import MAX_READY, candidate
from dynpartition.agent.synthetic import synthetic_workloads
from dynpartition.contract import Backend, Workload
from dynpartition.errors import InputError
from dynpartition.types import FloatArray

ENV_ID = "dynpartition/Placement-v0"
ILLEGAL_MAX = 100
"""Illegal actions after which an episode is truncated."""
DEFAULT_WORKLOADS = 16
"""How many synthetic workloads an environment makes when it is given none."""

EnvObservation = dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int8]]
Info = dict[str, object]


class PlacementEnv(gymnasium.Env[EnvObservation, np.int64]):
    """Places the tasks of one workload after the other on a backend's devices.

    Observation: `candidates` float32 (K, F), see `observe.FEATURES`, and `mask` int8 (K,). Action:
    the number of a candidate. An action that the mask forbids gets reward −1 and changes nothing;
    `info["illegal_action"]` says so, and ILLEGAL_MAX of them truncate the episode. After the last
    step `info` holds `makespan_ns`, `best_single_ns` and `plan`.

    `workloads`: drawn from at each reset, or chosen with `options={"workload": index}`. Without
    them, small synthetic graphs over the profile's cells, which suit every backend that takes
    graphs; a backend that runs a model needs inputs of that model.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(
        self,
        backend: Backend,
        workloads: Sequence[Workload] | None = None,
        *,
        max_ready: int = MAX_READY,
        baseline_repeats: int = 1,
    ) -> None:
        if workloads is None:
            workloads = synthetic_workloads(backend.profile, DEFAULT_WORKLOADS, 0)
        self.workloads = workloads
        if not self.workloads:
            raise InputError("the environment got an empty list of workloads; give it at least one")
        self._backend = backend
        self._cache = FactsCache(backend.profile)
        self._baseline = Baseline(backend, baseline_repeats)
        self._n_devices = len(backend.profile.cluster.devices)
        self._observer = Observer(self._n_devices, max_ready)
        self._episode: Episode | None = None
        self._shown: list[int] = []
        self._mask: npt.NDArray[np.int8] = np.zeros(self._observer.n_candidates, dtype=np.int8)
        self._n_illegal = 0
        n_candidates = self._observer.n_candidates
        self.observation_space = _observation_space(n_candidates)
        self.action_space = spaces.Discrete(n_candidates)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[EnvObservation, Info]:
        """Start the next workload, or the one that `options["workload"]` names."""
        super().reset(seed=seed)
        self.close()
        index = (options or {}).get("workload")
        if index is None:
            index = int(self.np_random.integers(len(self.workloads)))
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.workloads):
            raise InputError(
                f"options['workload'] is {index!r}; give 0 to {len(self.workloads) - 1}"
            )
        self._episode = Episode(self._backend, self.workloads[int(index)], self._cache)
        self._n_illegal = 0
        return self._observe(self._episode), {"workload": int(index)}

    def step(self, action: np.int64) -> tuple[EnvObservation, float, bool, bool, Info]:
        """Place candidate `action`."""
        episode = self._running()
        if not self.action_space.contains(action):
            n_candidates = self._observer.n_candidates
            raise InputError(f"action {action!r} is no candidate; give 0 to {n_candidates - 1}")
        if not self._mask[action]:
            self._n_illegal += 1
            truncated = self._n_illegal >= ILLEGAL_MAX
            return self._observe(episode), -1.0, False, truncated, {"illegal_action": True}
        episode.place(*candidate(self._shown, int(action), self._n_devices))
        if not episode.finished:
            return self._observe(episode), 0.0, False, False, {}
        makespan_ns = episode.makespan_ns
        best_ns = self._baseline.best_single_ns(episode.workload)
        info: Info = {"makespan_ns": makespan_ns, "best_single_ns": best_ns, "plan": episode.plan}
        return self._observe(episode), reward_of(makespan_ns, best_ns), True, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return bool (K,): which actions are legal now (the name that sb3-contrib asks for)."""
        return self._mask.astype(np.bool_)

    def close(self) -> None:
        """Free the session that is open; the backend stays the caller's."""
        if self._episode is not None:
            self._episode.close()
            self._episode = None

    def _running(self) -> Episode:
        if self._episode is None or self._episode.finished:
            raise InputError("the episode is over or not started; call reset() first")
        return self._episode

    def _observe(self, episode: Episode) -> EnvObservation:
        observation, shown = self._observer.observe([episode.table])
        self._shown = shown[0]
        self._mask = observation.mask[0]
        features: FloatArray = observation.features[0]
        return {"candidates": features, "mask": self._mask.copy()}


def _observation_space(n_candidates: int) -> spaces.Space[EnvObservation]:
    box = spaces.Box(-BOUND, BOUND, (n_candidates, len(FEATURES)), np.float32)
    space = spaces.Dict({"candidates": box, "mask": spaces.MultiBinary(n_candidates)})
    return cast(spaces.Space[EnvObservation], space)  # Dict is a Space of dicts of anything
