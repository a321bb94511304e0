"""The padded environment holds what the environment shows, and agents play it as schedulers."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dynpartition import GraphWorkload, Plan, check_plan, run
from dynpartition.agent.conformance import check_scheduler, small_worlds
from dynpartition.agent.env import ENV_ID, PlacementEnv
from dynpartition.interop.agents import AgentScheduler
from dynpartition.interop.padded_env import PaddedPlacement
from dynpartition.sim import SimBackend
from tests.agent.worlds import trees, two_cpus


def test_observations_are_those_of_the_environment_as_vectors():
    plain = PlacementEnv(SimBackend(two_cpus()), trees(4, 3), max_ready=3)
    env = PaddedPlacement(PlacementEnv(SimBackend(two_cpus()), trees(4, 3), max_ready=3))
    seen, _ = plain.reset(seed=1)
    shown, _ = env.reset(seed=1)
    over = False
    while not over:
        assert shown in env.observation_space
        np.testing.assert_array_equal(shown["candidates"], seen["candidates"].ravel())
        np.testing.assert_array_equal(shown["mask"], seen["mask"])
        np.testing.assert_array_equal(env.action_masks(), shown["mask"] == 1)
        action = np.flatnonzero(shown["mask"])[-1]
        seen, reward, over, *_ = plain.step(action)
        shown, same, ended, *_ = env.step(action)
        assert (same, ended) == (reward, over)


def test_gymnasiums_checker_is_silent():
    """It looks at environments without wrappers; of a wrapped one it says no more than that."""
    env = gymnasium.make(ENV_ID, backend=SimBackend(two_cpus()), workloads=trees(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(PaddedPlacement(env), skip_render_check=True)
    assert all("different from the unwrapped version" in str(w.message) for w in said)


def test_only_this_environment_can_be_padded():
    with pytest.raises(AssertionError, match="Placement-v0"):
        PaddedPlacement(gymnasium.make("CartPole-v1"))


def first_legal(observation, mask):
    assert (observation["mask"] == mask).all()
    return int(mask.argmax())


def last_legal(observation, mask):
    """Join the open launch where one can."""
    assert (observation["mask"] == mask).all()
    return int(np.flatnonzero(mask)[-1])


def test_an_agent_is_a_scheduler():
    """One that often names an illegal candidate, and one that batches."""
    check_scheduler(AgentScheduler(lambda observation, mask: 0, max_ready=2))
    check_scheduler(AgentScheduler(last_legal, max_ready=2, batching=True))


@pytest.mark.parametrize("batching", [False, True])
@pytest.mark.parametrize("max_ready", [1, 5])
def test_a_scheduler_plays_as_the_environment_does(max_ready, batching):
    backend, workloads = SimBackend(two_cpus()), trees(4, 3)
    options = {"max_ready": max_ready, "batching": batching}
    choose = last_legal if batching else first_legal
    env = PaddedPlacement(PlacementEnv(backend, workloads, **options))
    for index, workload in enumerate(workloads):
        observation, _ = env.reset(options={"workload": index})
        over, info = False, {}
        while not over:
            action = choose(observation, env.action_masks())
            observation, _, over, _, info = env.step(action)
        outcome = run(backend, workload, AgentScheduler(choose, **options))
        assert outcome.trace.makespan_ns == info["makespan_ns"]
        assert outcome.plan == info["plan"]
        assert (len(outcome.plan) < len(workload.graph)) == batching


def test_hidden_tasks_are_placed_as_they_show():
    world = next(w for w in small_worlds() if w.graph.revealers)
    outcome = run(
        SimBackend(world.profile), GraphWorkload(world.graph), AgentScheduler(first_legal)
    )
    check_plan(outcome.graph, world.profile.cluster, outcome.plan)
    assert outcome.plan != Plan()
