"""The Gymnasium environment `dynpartition/Placement-v0`.

One step is one choice of (ready task, device), or with batching of a ready task that joins the
launch placed last; the order of choices is the plan order. When all revealed tasks are placed the
backend runs the plan; a reveal opens the next steps. The reward is 0 until the end, then
−log(makespan / makespan of the best single device).
`dynpartition.agent.vector_env` steps many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dynpartition.agent import env_kernel as kernel
from dynpartition.agent.episode import Baseline, Episodes, reward_of
from dynpartition.agent.observe import BOUND, features_of
from dynpartition.agent.policy import MAX_READY
from dynpartition.agent.synthetic import synthetic_workloads
from dynpartition.contract import Backend, Workload
from dynpartition.errors import InputError

ENV_ID = "dynpartition/Placement-v0"
ILLEGAL_MAX = 100
"""Illegal actions after which an episode is truncated."""
DEFAULT_WORKLOADS = 16
"""How many synthetic workloads an environment makes when it is given none."""

EnvObservation = dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int8]]
Info = dict[str, object]


class PlacementEnv(gymnasium.Env[EnvObservation, np.int64]):
    """Places the tasks of one workload after the other on a backend's devices.

    Observation: `candidates` float32 (K, F), see `observe`, and `mask` int8 (K,). Action:
    the number of a candidate. An action that the mask forbids gets reward −1 and changes nothing;
    `info["illegal_action"]` says so, and ILLEGAL_MAX of them truncate the episode. After the last
    step `info` holds `makespan_ns`, `best_single_ns` and `plan`.

    `batching`: whether tasks may join launches: more candidates and more features; see `observe`.

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
        batching: bool = False,
    ) -> None:
        self.workloads = given_or_synthetic(workloads, backend)
        self._baseline = Baseline(backend, baseline_repeats)
        self._episodes = Episodes(backend, 1, max_ready, batching=batching)
        self._is_running = False
        self._n_illegal = 0
        n_candidates = self._episodes.batch.n_candidates
        self.observation_space = observation_space(n_candidates, batching=batching)
        self.action_space = spaces.Discrete(n_candidates)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[EnvObservation, Info]:
        """Start the next workload, or the one that `options["workload"]` names."""
        super().reset(seed=seed)
        index = chosen_workload(options, len(self.workloads), self.np_random)
        self._episodes.begin(_FIRST, [self.workloads[index]])
        self._is_running, self._n_illegal = True, 0
        return self._observation(), {"workload": index}

    def step(self, action: np.int64) -> tuple[EnvObservation, float, bool, bool, Info]:
        """Place candidate `action`."""
        if not self._is_running:
            raise InputError("the episode is over or not started; call reset() first")
        if not self.action_space.contains(action):
            last = self._episodes.batch.n_candidates - 1
            raise InputError(f"action {action!r} is no candidate; give 0 to {last}")
        outcome = self._episodes.act(_FIRST, np.array([action], dtype=np.int64))[0]
        if outcome == kernel.ILLEGAL:
            self._n_illegal += 1
            truncated = self._n_illegal >= ILLEGAL_MAX
            return self._observation(), -1.0, False, truncated, {"illegal_action": True}
        if outcome == kernel.PLACED:
            return self._observation(), 0.0, False, False, {}
        self._is_running = False
        makespan_ns = self._episodes.finished[0].makespan_ns
        best_ns = self._baseline.best_single_ns(self._episodes.workload(0))
        info: Info = {"makespan_ns": makespan_ns, "best_single_ns": best_ns}
        info["plan"] = self._episodes.plan(0)
        return self._observation(), reward_of(makespan_ns, best_ns), True, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return bool (K,): which actions are legal now (the name that sb3-contrib asks for)."""
        masks: npt.NDArray[np.bool_] = self._episodes.batch.mask[0].astype(np.bool_)
        return masks

    def shown(self) -> list[int]:
        """Return the ready tasks of the last observation, whose candidates `observe` explains."""
        return self._episodes.batch.shown(0)

    def close(self) -> None:
        """Free the session that is open; the backend stays the caller's."""
        self._episodes.close()
        self._is_running = False

    def _observation(self) -> EnvObservation:
        batch = self._episodes.batch
        return {"candidates": batch.features[0].copy(), "mask": batch.mask[0].copy()}


_FIRST = np.zeros(1, dtype=np.int64)


def given_or_synthetic(
    workloads: Sequence[Workload] | None, backend: Backend
) -> Sequence[Workload]:
    """Return the workloads that an environment plays."""
    if workloads is None:
        return synthetic_workloads(backend.profile, DEFAULT_WORKLOADS, 0)
    if not workloads:
        raise InputError("the environment got an empty list of workloads; give it at least one")
    return workloads


def chosen_workload(
    options: Mapping[str, object] | None, n_workloads: int, rng: np.random.Generator
) -> int:
    """Return the index that `options["workload"]` names, or one drawn from `rng`."""
    index = (options or {}).get("workload")
    if index is None:
        return int(rng.integers(n_workloads))
    if not isinstance(index, int | np.integer) or not 0 <= index < n_workloads:
        raise InputError(f"options['workload'] is {index!r}; give 0 to {n_workloads - 1}")
    return int(index)


def observation_space(n_candidates: int, *, batching: bool) -> spaces.Space[EnvObservation]:
    """Return the space of one environment's observations."""
    shape = (n_candidates, len(features_of(batching=batching)))
    box = spaces.Box(-BOUND, BOUND, shape, np.float32)
    space = spaces.Dict({"candidates": box, "mask": spaces.MultiBinary(n_candidates)})
    return cast(spaces.Space[EnvObservation], space)  # Dict is a Space of dicts of anything
