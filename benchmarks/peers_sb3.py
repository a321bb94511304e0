"""Agents of Stable-Baselines3 and sb3-contrib, trained on one machine, as schedulers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from dynpartition import GraphWorkload, Profile
from dynpartition.agent.vector_env import PlacementVectorEnv
from dynpartition.interop.agents import AgentScheduler
from dynpartition.interop.sb3_env import PlacementVecEnv
from dynpartition.sim import SimBackend

NAMES = {"sb3-maskable-ppo": MaskablePPO, "sb3-ppo": PPO}
"""Name in the table → class of the agent."""
MAX_READY, N_ENVS = 8, 32
SETTINGS = {
    "n_steps": 64,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "ent_coef": 0.003,
    "gamma": 1.0,
    "gae_lambda": 0.98,
}


class Trained(NamedTuple):
    """An agent as a scheduler, and how long it was trained."""

    scheduler: AgentScheduler
    seconds: float


def trained(
    name: str, profile: Profile, workloads: Sequence[GraphWorkload], steps: int, seed: int
) -> Trained:
    """Return an agent trained for so many decisions on inputs for this machine."""
    torch.set_num_threads(1)
    envs = PlacementVectorEnv(SimBackend(profile), workloads, num_envs=N_ENVS, max_ready=MAX_READY)
    env = PlacementVecEnv(envs)
    env.seed(seed)
    agent = NAMES[name]("MultiInputPolicy", env, seed=seed, device="cpu", **SETTINGS)
    agent.set_logger(Logger(None, []))  # the default one makes a folder among temporary files
    begun_s = time.monotonic()
    agent.learn(steps)
    env.close()
    is_masked = isinstance(agent, MaskablePPO)

    def choose(observation: Any, mask: Any) -> int:
        masks = {"action_masks": mask} if is_masked else {}
        return int(np.asarray(agent.predict(observation, deterministic=True, **masks)[0]))

    scheduler = AgentScheduler(choose, name=name, max_ready=MAX_READY)
    return Trained(scheduler, time.monotonic() - begun_s)
