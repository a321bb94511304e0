"""Many environments `dynpartition/Placement-v0` in one, stepped by one compiled call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from dynpartition.agent import env_kernel as kernel
from dynpartition.agent.env import (
    ILLEGAL_MAX,
    EnvObservation,
    chosen_workload,
    given_or_synthetic,
    observation_space,
)
from dynpartition.agent.episode import Baseline, Episodes, reward_of
from dynpartition.agent.policy import MAX_READY
from dynpartition.contract import Backend, Workload
from dynpartition.errors import InputError
from dynpartition.types import BoolArray, IntArray

Infos = dict[str, Any]
"""As Gymnasium's vector environments give them: one array per key, and `_key`: where it counts."""

AnyArray = npt.NDArray[Any]
"""Gymnasium has one type for rewards (float64) and both kinds of endings (bool)."""


class PlacementVectorEnv(gymnasium.vector.VectorEnv[EnvObservation, IntArray, AnyArray]):
    """B environments like `PlacementEnv`; environment i is as one of its own with seed + i.

    Observation: `candidates` float32 (B, K, F) and `mask` int8 (B, K). Actions: int64 (B,). An
    episode that ends begins again in the same step: `infos["final_obs"]` and `infos["final_info"]`
    hold what it ended with, `makespan_ns`, `best_single_ns` and `choices`: int64 (N, 2) of task and
    device in plan order. With `batching` (N, 3): and of whether the task joins the launch before.

    `copy`: whether observations are the caller's to keep; otherwise the next step overwrites them.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium's own declaration
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        backend: Backend,
        workloads: Sequence[Workload] | None = None,
        *,
        num_envs: int = 1,
        max_ready: int = MAX_READY,
        baseline_repeats: int = 1,
        batching: bool = False,
        copy: bool = True,
    ) -> None:
        if num_envs < 1:
            raise InputError(f"num_envs is {num_envs}; give at least 1")
        self.workloads = given_or_synthetic(workloads, backend)
        self.num_envs = num_envs
        self.copy = copy
        self._baseline = Baseline(backend, baseline_repeats)
        self._episodes = Episodes(backend, num_envs, max_ready, batching=batching)
        self._all: IntArray = np.arange(num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._n_illegal: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._is_running: BoolArray = np.zeros(num_envs, dtype=np.bool_)
        n_candidates = self._episodes.batch.n_candidates
        self.single_observation_space = observation_space(n_candidates, batching=batching)
        self.single_action_space = spaces.Discrete(n_candidates)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._empty = _nothing_left(self.single_observation_space)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> tuple[EnvObservation, Infos]:
        """Start all environments, or those that `options["reset_mask"]`, bool (B,), marks.

        `seed`: environment i gets seed + i, or the i-th of a list. `options["workload"]`: the
        index of the input that all of them play.
        """
        slots = self._asked(options)
        if seed is not None:
            self._seed(seed, slots)
        infos = self._begin(slots, options)
        return self._observation(), infos

    def step(self, actions: IntArray) -> tuple[EnvObservation, AnyArray, AnyArray, AnyArray, Infos]:
        """Place candidate `actions[i]` in environment i."""
        chosen = self._checked(actions)
        outcomes = self._episodes.act(self._all, chosen)
        rewards = np.zeros(self.num_envs)
        terminations = outcomes == kernel.ALL_PLACED
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        infos: Infos = {}
        if outcomes.any():  # else everything has been placed and no episode is over
            illegal = outcomes == kernel.ILLEGAL
            self._n_illegal += illegal
            rewards[illegal] = -1.0
            truncations |= illegal & (self._n_illegal >= ILLEGAL_MAX)
            infos = self._ended(terminations, illegal, truncations, rewards)
        return self._observation(), rewards, terminations, truncations, infos

    def action_masks(self) -> BoolArray:
        """Return bool (B, K): which actions are legal now (the name that sb3-contrib asks for)."""
        return self._episodes.batch.mask.astype(np.bool_)

    def close_extras(self, **kwargs: object) -> None:
        """Free the sessions that are open; the backend stays the caller's."""
        self._episodes.close()
        self._is_running[:] = False

    def _asked(self, options: Mapping[str, object] | None) -> IntArray:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return self._all
        if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
            asked: IntArray = np.flatnonzero(mask)
            if mask.shape == (self.num_envs,) and len(asked):
                return asked
        raise InputError(
            f"options['reset_mask'] is {mask!r}; give a bool array ({self.num_envs},), some True"
        )

    def _seed(self, seed: int | Sequence[int | None], slots: IntArray) -> None:
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
            seed = [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise InputError(f"{len(seed)} seeds for {self.num_envs} environments; give one each")
        for slot in slots.tolist():
            if seed[slot] is not None:
                self._rngs[slot] = seeding.np_random(seed[slot])[0]

    def _begin(self, slots: IntArray, options: Mapping[str, object] | None = None) -> Infos:
        """Start the next episode in each of the slots."""
        indices = np.zeros(self.num_envs, dtype=np.int64)
        is_begun = np.zeros(self.num_envs, dtype=np.bool_)
        for slot in slots.tolist():
            indices[slot] = chosen_workload(options, len(self.workloads), self._rng(slot))
        workloads = [self.workloads[index] for index in indices[slots].tolist()]
        self._episodes.begin(slots, workloads)
        self._n_illegal[slots] = 0
        self._is_running[slots] = is_begun[slots] = True
        return {"workload": indices, "_workload": is_begun}

    def _rng(self, slot: int) -> np.random.Generator:
        rng = self._rngs[slot]
        if rng is None:
            rng = self._rngs[slot] = seeding.np_random()[0]
        return rng

    def _checked(self, actions: IntArray) -> IntArray:
        if not self._is_running.all():
            raise InputError("an environment has not been started; call reset() first")
        chosen = np.asarray(actions)
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise InputError(
                f"actions are {chosen.dtype} {chosen.shape}; give integers ({self.num_envs},)"
            )
        n_candidates = self._episodes.batch.n_candidates
        if chosen.min() < 0 or chosen.max() >= n_candidates:
            raise InputError(f"actions {chosen} are no candidates; give 0 to {n_candidates - 1}")
        return chosen.astype(np.int64, copy=False)

    def _ended(
        self,
        terminations: BoolArray,
        illegal: BoolArray,
        truncations: BoolArray,
        rewards: npt.NDArray[np.float64],
    ) -> Infos:
        """Collect infos and rewards, and begin anew where an episode is over."""
        infos: Infos = {}
        going_on = illegal & ~truncations
        if going_on.any():
            infos |= {"illegal_action": going_on.copy(), "_illegal_action": going_on}
        over = terminations | truncations
        if over.any():
            infos |= self._final(terminations, truncations, rewards)
            infos |= self._begin(np.flatnonzero(over))
        return infos

    def _final(
        self,
        terminations: BoolArray,
        truncations: BoolArray,
        rewards: npt.NDArray[np.float64],
    ) -> Infos:
        seen = np.full(self.num_envs, None, dtype=object)
        best_ns, makespan_ns = np.zeros((2, self.num_envs), dtype=np.int64)
        choices = np.full(self.num_envs, None, dtype=object)
        for slot in np.flatnonzero(terminations).tolist():
            finished = self._episodes.finished[slot]
            makespan_ns[slot], choices[slot] = finished.makespan_ns, finished.choices
            best_ns[slot] = self._baseline.best_single_ns(self._episodes.workload(slot))
            rewards[slot] = reward_of(finished.makespan_ns, int(best_ns[slot]))
            seen[slot] = self._empty
        final: Infos = {}
        if terminations.any():
            rows = {"makespan_ns": makespan_ns, "best_single_ns": best_ns, "choices": choices}
            for key, values in rows.items():
                final |= {key: values, f"_{key}": terminations.copy()}
        if truncations.any():
            final |= {"illegal_action": truncations.copy(), "_illegal_action": truncations.copy()}
        batch, over = self._episodes.batch, terminations | truncations
        for slot in np.flatnonzero(truncations).tolist():
            seen[slot] = {
                "candidates": batch.features[slot].copy(),
                "mask": batch.mask[slot].copy(),
            }
        return {"final_obs": seen, "_final_obs": over, "final_info": final, "_final_info": over}

    def _observation(self) -> EnvObservation:
        batch = self._episodes.batch
        if not self.copy:
            return {"candidates": batch.features, "mask": batch.mask}
        return {"candidates": batch.features.copy(), "mask": batch.mask.copy()}


def _nothing_left(space: spaces.Space[EnvObservation]) -> EnvObservation:
    """Return what is seen when everything is placed, read-only."""
    assert isinstance(space, spaces.Dict)
    seen = {name: np.zeros(part.shape, part.dtype) for name, part in space.items()}
    for array in seen.values():
        array.flags.writeable = False
    return seen
