"""The native vector environment of Gymnasium: 32 episodes in one, stepped by one compiled call."""

import gymnasium
import numpy as np

from dynpartition.formats import load_shipped
from dynpartition.sim import SimBackend

envs = gymnasium.make_vec(
    "dynpartition/Placement-v0",
    num_envs=32,
    vectorization_mode="vector_entry_point",
    backend=SimBackend(load_shipped("synthetic-cpu-2gpu")),
)
print("candidates", envs.observation_space["candidates"].shape)

rng = np.random.default_rng(0)
observation, infos = envs.reset(seed=0)
ratios = []
while len(ratios) < 500:
    # Of the legal candidates of each environment, one at random.
    scores = rng.random(observation["mask"].shape) * observation["mask"]
    observation, rewards, terminated, truncated, infos = envs.step(scores.argmax(axis=1))
    if terminated.any():
        final = infos["final_info"]
        makespans_ns, best_ns = (final[k][terminated] for k in ("makespan_ns", "best_single_ns"))
        ratios += (makespans_ns / best_ns).tolist()
print(f"at random, {len(ratios)} inputs take {np.exp(np.log(ratios).mean()):.2f} × the best device")
envs.close()
