"""The environment as agents of other libraries expect it: vectors of fixed length, and a mask."""

from __future__ import annotations

from typing import cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dynpartition.agent.env import EnvObservation, PlacementEnv
from dynpartition.agent.observe import BOUND

PaddedObservation = dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int8]]
"""`candidates`: float32 (…, K·F), `mask`: int8 (…, K); zeros where no candidate is."""


class PaddedPlacement(
    gymnasium.ObservationWrapper[PaddedObservation, np.int64, EnvObservation],
    gymnasium.utils.RecordConstructorArgs,
):
    """Wraps `PlacementEnv`: observations are a Dict of two vectors, for K candidates of F features.

    Actions and `action_masks()` are those of the environment. K is fixed, max_ready · D or with
    batching max_ready · (D + 1), so an agent with networks of fixed size can learn on graphs of
    any size; with fewer ready tasks the rest is zeros.
    """

    def __init__(self, env: gymnasium.Env[EnvObservation, np.int64]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        placement = env.unwrapped
        assert isinstance(placement, PlacementEnv), "wrap dynpartition/Placement-v0"
        self._placement = placement
        self.observation_space = padded_space(placement.observation_space)

    def observation(self, observation: EnvObservation) -> PaddedObservation:
        """Return an observation of the environment as vectors."""
        return padded(observation)

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return bool (K,): which actions are legal now (the name that sb3-contrib asks for)."""
        return self._placement.action_masks()


def padded(observation: EnvObservation) -> PaddedObservation:
    """Return one observation, or a batch of them, with (K, F) candidates as one vector each."""
    candidates = observation["candidates"]
    flat = candidates.reshape(*candidates.shape[:-2], -1)
    return {"candidates": flat, "mask": observation["mask"]}


def padded_space(space: spaces.Space[EnvObservation]) -> spaces.Space[PaddedObservation]:
    """Return the space of padded observations of an environment with observations in `space`."""
    assert isinstance(space, spaces.Dict)
    n_candidates, n_features = space["candidates"].shape or (0, 0)
    box = spaces.Box(-BOUND, BOUND, (n_candidates * n_features,), np.float32)
    padded = spaces.Dict({"candidates": box, "mask": spaces.MultiBinary(n_candidates)})
    return cast(spaces.Space[PaddedObservation], padded)
