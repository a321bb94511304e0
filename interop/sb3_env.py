"""Many environments in one for Stable-Baselines3, stepped by one compiled call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from dynpartition.agent.vector_env import PlacementVectorEnv
from dynpartition.interop.padded_env import PaddedObservation, padded, padded_space

Indices = int | Iterable[int] | None


class PlacementVecEnv(VecEnv):
    """Wraps `PlacementVectorEnv` as Stable-Baselines3's own kind of vector environment.

    Observations are padded as by `PaddedPlacement`. Infos of an episode that has ended hold
    `terminal_observation`, `TimeLimit.truncated` (too many illegal actions), `makespan_ns` and
    `best_single_ns` of one that reached its end, and `episode`, which SB3's logger averages.
    """

    def __init__(self, envs: PlacementVectorEnv) -> None:
        self._envs = envs
        self._actions: npt.NDArray[np.int64] = np.zeros(envs.num_envs, dtype=np.int64)
        self._begin_s = time.monotonic()
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        space = padded_space(envs.single_observation_space)
        super().__init__(envs.num_envs, space, envs.single_action_space)

    def reset(self) -> PaddedObservation:
        """Start all environments, with the seeds that `seed` has set."""
        observation, infos = self._envs.reset(seed=self._seeds)
        self.reset_infos = [{"workload": int(index)} for index in infos["workload"]]
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = self._lengths[:] = 0
        return padded(observation)

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        """Take note of the actions."""
        self._actions = np.asarray(actions, dtype=np.int64)

    def step_wait(
        self,
    ) -> tuple[PaddedObservation, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[Any]]:
        """Place the candidates that `step_async` got."""
        observation, rewards, terminated, truncated, found = self._envs.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for slot in np.flatnonzero(dones).tolist():
            infos[slot] = self._ended(slot, found, is_cut=bool(truncated[slot]))
        return padded(observation), rewards.astype(np.float32), dones, infos

    def _ended(self, slot: int, found: dict[str, Any], *, is_cut: bool) -> dict[str, Any]:
        info: dict[str, Any] = {
            "terminal_observation": padded(found["final_obs"][slot]),
            "TimeLimit.truncated": is_cut,
            "episode": {
                "r": float(self._returns[slot]),
                "l": int(self._lengths[slot]),
                "t": time.monotonic() - self._begin_s,
            },
        }
        if not is_cut:
            final = found["final_info"]
            info |= {key: int(final[key][slot]) for key in ("makespan_ns", "best_single_ns")}
        self._returns[slot] = self._lengths[slot] = 0
        return info

    def close(self) -> None:
        """Free the sessions that are open."""
        self._envs.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of the whole, once per environment asked for."""
        if attr_name == "render_mode":
            return [None for _ in self._get_indices(indices)]
        value = getattr(self._envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refuse: the environments share everything."""
        raise AttributeError(f"{attr_name!r} cannot be set: the environments share everything")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the whole; its result's first axis is the environments."""
        rows: Sequence[Any] = getattr(self._envs, method_name)(*method_args, **method_kwargs)
        return [rows[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Return False for each: there are no wrappers inside."""
        return [False for _ in self._get_indices(indices)]
