"""Stable-Baselines3 and sb3-contrib train on the environment (extra `sb3`); about 15 seconds.

Observations are padded to vectors of fixed length, with a mask of what is legal. MaskablePPO uses
the mask; PPO has to learn that illegal choices cost a point. Then both are judged as schedulers.
"""

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from dynpartition import run
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.vector_env import PlacementVectorEnv
from dynpartition.formats import load_shipped
from dynpartition.interop.agents import AgentScheduler
from dynpartition.interop.sb3_env import PlacementVecEnv
from dynpartition.sim import SimBackend

MAX_READY = 4
torch.set_num_threads(1)  # more of them cost such small networks more than they bring

backend = SimBackend(load_shipped("synthetic-cpu-2gpu"))
env = PlacementVecEnv(PlacementVectorEnv(backend, num_envs=32, max_ready=MAX_READY))
settings = {"n_steps": 64, "batch_size": 512, "learning_rate": 1e-3, "gamma": 1.0, "seed": 0}
masked = MaskablePPO("MultiInputPolicy", env, ent_coef=0.003, device="cpu", **settings)
masked.set_logger(Logger(None, []))  # the default one makes a folder among temporary files
masked.learn(16_000)
plain = PPO("MultiInputPolicy", env, ent_coef=0.003, device="cpu", **settings)
plain.set_logger(Logger(None, []))
plain.learn(32_000)


def choose_masked(observation, mask):
    return masked.predict(observation, action_masks=mask, deterministic=True)[0]


def choose(observation, mask):
    return plain.predict(observation, deterministic=True)[0]


def mean_ms(scheduler):
    workloads = env.get_attr("workloads")[0]
    times = [run(backend, workload, scheduler).trace.makespan_ns for workload in workloads]
    return np.mean(times) / 1e6


random_ms = mean_ms(make_scheduler("random"))
for name, chosen in (("MaskablePPO", choose_masked), ("PPO", choose)):
    learned_ms = mean_ms(AgentScheduler(chosen, max_ready=MAX_READY))
    print(f"{name} takes less time than random placement: {learned_ms < 0.8 * random_ms}")
