"""Agents of Stable-Baselines3 and sb3-contrib learn on the environment."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from dynpartition import run
from dynpartition.agent.env import ILLEGAL_MAX, PlacementEnv
from dynpartition.agent.vector_env import PlacementVectorEnv
from dynpartition.formats import load_shipped
from dynpartition.interop.agents import AgentScheduler
from dynpartition.interop.padded_env import PaddedPlacement, padded
from dynpartition.sim import SimBackend
from tests.agent.worlds import trees, two_cpus

sb3 = pytest.importorskip("stable_baselines3", reason="the extra `sb3` is not installed")
contrib = pytest.importorskip("sb3_contrib", reason="the extra `sb3` is not installed")

from sb3_contrib.common.maskable.utils import get_action_masks  # noqa: E402
from stable_baselines3.common.env_checker import check_env  # noqa: E402
from stable_baselines3.common.logger import Logger  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from dynpartition.interop.sb3_env import PlacementVecEnv  # noqa: E402

SETTINGS = {
    "n_steps": 64,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "ent_coef": 0.003,
    "gamma": 1.0,
    "seed": 0,
    "device": "cpu",
}


@pytest.mark.parametrize("batching", [False, True])
def test_the_checker_is_silent(batching):
    backend = SimBackend(load_shipped("synthetic-cpu-2gpu"))
    env = PaddedPlacement(PlacementEnv(backend, trees(4, 3), batching=batching))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


@pytest.mark.parametrize("batching", [False, True])
def test_many_in_one_are_as_many_of_their_own(batching):
    """Seeds, observations, masks, rewards and infos of SB3's DummyVecEnv around single ones."""
    options = {"max_ready": 3, "batching": batching}

    def make():
        return PaddedPlacement(PlacementEnv(SimBackend(two_cpus()), trees(4, 3), **options))

    many = PlacementVecEnv(
        PlacementVectorEnv(SimBackend(two_cpus()), trees(4, 3), num_envs=4, **options)
    )
    alone = DummyVecEnv([make] * 4)
    for env in (many, alone):
        env.seed(5)
    shown, seen = many.reset(), alone.reset()
    rng = np.random.default_rng(0)
    ended = 0
    for step in range(400):
        for key in ("candidates", "mask"):
            np.testing.assert_array_equal(shown[key], seen[key])
        masks = get_action_masks(many)
        np.testing.assert_array_equal(masks, get_action_masks(alone))
        # Illegal choices for a while, so that episodes are cut too.
        legal = [rng.choice(np.flatnonzero(mask)) for mask in masks]
        actions = np.array(legal) if step > 150 else rng.integers(masks.shape[1], size=4)
        shown, rewards, dones, infos = many.step(actions)
        seen, expected, over, facts = alone.step(actions)
        np.testing.assert_allclose(rewards, expected, rtol=1e-6)
        np.testing.assert_array_equal(dones, over)
        for slot in np.flatnonzero(dones):
            ended += 1
            for key in ("candidates", "mask"):
                np.testing.assert_array_equal(
                    infos[slot]["terminal_observation"][key],
                    facts[slot]["terminal_observation"][key],
                )
            assert infos[slot]["TimeLimit.truncated"] == facts[slot]["TimeLimit.truncated"]
            assert infos[slot].get("makespan_ns") == facts[slot].get("makespan_ns")
    assert ended > 8
    with pytest.raises(AttributeError):
        many.set_attr("workloads", [])
    assert not many.has_attr("no_such_name")
    assert many.env_is_wrapped(PaddedPlacement) == [False] * 4


def mean_reward(env: PlacementVecEnv, choose, episodes: int = 200) -> float:
    observation, rewards = env.reset(), []
    while len(rewards) < episodes:
        observation, _, _, infos = env.step(choose(observation))
        rewards += [info["episode"]["r"] for info in infos if "episode" in info]
    return float(np.mean(rewards))


@pytest.fixture
def one_thread():
    """Threads cost such small networks more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("kind", "steps"), [("MaskablePPO", 16_000), ("PPO", 32_000)])
def test_an_agent_learns(kind, steps, one_thread):
    """Both get better than random legal choices; without a mask that must be learned first too.

    MaskablePPO may also batch, which pays on this machine.
    """
    backend, is_masked = SimBackend(load_shipped("synthetic-cpu-2gpu")), kind == "MaskablePPO"
    options = {"max_ready": 4, "batching": is_masked}
    env = PlacementVecEnv(PlacementVectorEnv(backend, num_envs=32, **options))
    env.seed(1)
    rng = np.random.default_rng(0)

    def at_random(observation):
        return np.array([rng.choice(np.flatnonzero(mask)) for mask in observation["mask"]])

    random = mean_reward(env, at_random)
    agent_type = contrib.MaskablePPO if is_masked else sb3.PPO
    agent = agent_type("MultiInputPolicy", env, **SETTINGS)
    agent.set_logger(Logger(None, []))  # the default one makes a folder among temporary files
    agent.learn(steps)

    def trained(observation):
        masks = {"action_masks": observation["mask"] == 1} if is_masked else {}
        return agent.predict(observation, deterministic=False, **masks)[0]

    learned = mean_reward(env, trained)
    assert learned > random + 0.3
    scheduler = AgentScheduler(
        lambda observation, mask: trained({key: value[None] for key, value in observation.items()})[
            0
        ],
        **options,
    )
    outcomes = [run(backend, each, scheduler) for each in env.get_attr("workloads")[0][:4]]
    sizes = [len(launch.tasks) for outcome in outcomes for launch in outcome.plan.launches]
    assert (max(sizes) > 1) == is_masked
    env.close()


def test_illegal_choices_end_an_episode():
    env = PlacementVecEnv(PlacementVectorEnv(SimBackend(two_cpus()), trees(4, 3), num_envs=1))
    observation = env.reset()
    illegal = np.flatnonzero(observation["mask"][0] == 0)[:1]  # fewer tasks are ready than shown
    for step in range(ILLEGAL_MAX):
        _, rewards, dones, infos = env.step(illegal)
        assert rewards[0] == -1
        assert dones[0] == (step == ILLEGAL_MAX - 1)
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["episode"] == {
        "r": -ILLEGAL_MAX,
        "l": ILLEGAL_MAX,
        "t": infos[0]["episode"]["t"],
    }
    batch = {"candidates": np.zeros((2, 3, 4), np.float32), "mask": np.zeros((2, 3), np.int8)}
    assert padded(batch)["candidates"].shape == (2, 12)
