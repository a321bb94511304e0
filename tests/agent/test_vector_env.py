"""The vector environment is as many environments of its own."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from dynpartition import Backend, GraphWorkload, Profile, Session, Workload
from dynpartition.agent.conformance import small_worlds
from dynpartition.agent.env import ENV_ID, ILLEGAL_MAX, PlacementEnv
from dynpartition.agent.episode import REWARD_MIN
from dynpartition.agent.vector_env import PlacementVectorEnv
from dynpartition.contract import INFEASIBLE_NS, CompletePlan
from dynpartition.errors import InputError
from dynpartition.sim.backend import SimBackend
from tests.agent.worlds import graph_of, trees, two_cpus

N_ENVS = 5
REVEALING = next(w for w in small_worlds() if w.graph.revealers and w.easy)


class OneByOne(Backend):
    """A simulator that has no faster way to price plans than sessions."""

    def __init__(self, profile: Profile) -> None:
        self._inner = SimBackend(profile)

    @property
    def profile(self) -> Profile:
        return self._inner.profile

    def open(self, workload: Workload) -> Session:
        return self._inner.open(workload)


def legal(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])


def workloads_of(kind: str) -> tuple[Profile, list[GraphWorkload]]:
    if kind == "trees":
        return two_cpus(), trees(4, 3)
    return REVEALING.profile, [GraphWorkload(REVEALING.graph)]


@pytest.mark.parametrize("kind", ["trees", "reveals"])
@pytest.mark.parametrize("batching", [False, True])
def test_each_is_as_one_environment_of_its_own(kind, batching):
    profile, workloads = workloads_of(kind)
    many = PlacementVectorEnv(SimBackend(profile), workloads, num_envs=N_ENVS, batching=batching)
    alone = [PlacementEnv(OneByOne(profile), workloads, batching=batching) for _ in range(N_ENVS)]
    assert many.single_observation_space == alone[0].observation_space
    assert many.single_action_space == alone[0].action_space
    seen, infos = many.reset(seed=7)
    for i, env in enumerate(alone):
        own, info = env.reset(seed=7 + i)
        assert info["workload"] == infos["workload"][i]
        np.testing.assert_array_equal(own["candidates"], seen["candidates"][i])
    rng, n_ended = np.random.default_rng(0), 0
    for _ in range(120):
        actions = legal(seen["mask"], rng)
        seen, rewards, terminated, truncated, infos = many.step(actions)
        assert not truncated.any()
        for i, env in enumerate(alone):
            own, reward, done, _, info = env.step(actions[i])
            assert (reward, done) == (rewards[i], terminated[i])
            if done:
                n_ended += 1
                final = infos["final_info"]
                assert infos["_final_obs"][i] and final["_makespan_ns"][i]
                assert final["makespan_ns"][i] == info["makespan_ns"]
                assert final["best_single_ns"][i] == info["best_single_ns"]
                tasks = [task for launch in info["plan"].launches for task in launch.tasks]
                assert final["choices"][i][:, 0].tolist() == tasks
                assert final["choices"][i].shape[1] == 2 + batching
                assert infos["final_obs"][i] in many.single_observation_space
                np.testing.assert_array_equal(infos["final_obs"][i]["mask"], own["mask"])
                own, info = env.reset()
                assert info["workload"] == infos["workload"][i]
            np.testing.assert_array_equal(own["candidates"], seen["candidates"][i])
            np.testing.assert_array_equal(own["mask"], seen["mask"][i])
    assert n_ended >= 2 * N_ENVS


def test_gymnasium_makes_it():
    envs = gymnasium.make_vec(
        ENV_ID,
        num_envs=3,
        vectorization_mode="vector_entry_point",
        backend=SimBackend(two_cpus()),
        workloads=trees(2, 0),
    )
    assert isinstance(envs.unwrapped, PlacementVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    seen, _ = envs.reset(seed=1)
    assert envs.observation_space.contains(seen)
    assert envs.action_space.contains(legal(seen["mask"], np.random.default_rng(0)))
    assert envs.single_observation_space.contains({k: v[0] for k, v in seen.items()})
    envs.close()


def test_same_seed_same_episodes():
    def rollout():
        envs = PlacementVectorEnv(SimBackend(two_cpus()), trees(5, 0), num_envs=3)
        seen, infos = envs.reset(seed=11)
        rng, rows = np.random.default_rng(1), [infos["workload"].tolist()]
        for _ in range(60):
            seen, rewards, *_ = envs.step(legal(seen["mask"], rng))
            rows.append(rewards.tolist())
        return rows

    assert rollout() == rollout()


def test_illegal_actions_cost_and_truncate_one_environment_only():
    envs = PlacementVectorEnv(SimBackend(two_cpus()), trees(1, 3), num_envs=2)
    seen, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for count in range(1, ILLEGAL_MAX + 1):
        actions = legal(seen["mask"], rng)
        actions[1] = np.flatnonzero(seen["mask"][1] == 0)[0]
        before = seen["candidates"][1].copy()
        seen, rewards, _, truncated, infos = envs.step(actions)
        assert rewards[1] == -1
        assert truncated.tolist() == [False, count == ILLEGAL_MAX]
        if count < ILLEGAL_MAX:
            assert infos["illegal_action"].tolist() == [False, True]
            np.testing.assert_array_equal(before, seen["candidates"][1])
    assert infos["_final_info"].tolist()[1]
    np.testing.assert_array_equal(before, infos["final_obs"][1]["candidates"])


def test_observations_are_the_callers_to_keep_unless_it_says_otherwise():
    for copy in (True, False):
        envs = PlacementVectorEnv(SimBackend(two_cpus()), trees(1, 3), num_envs=2, copy=copy)
        seen, _ = envs.reset(seed=0)
        kept = seen["candidates"].copy()
        envs.step(legal(seen["mask"], np.random.default_rng(0)))
        assert np.array_equal(kept, seen["candidates"]) == copy


def test_resets_only_those_that_are_asked_for():
    envs = PlacementVectorEnv(SimBackend(two_cpus()), trees(3, 3), num_envs=3)
    with pytest.raises(InputError, match="reset"):
        envs.step(np.zeros(3, dtype=np.int64))
    seen, _ = envs.reset(seed=[1, None, 3])
    seen, *_ = envs.step(legal(seen["mask"], np.random.default_rng(0)))
    again, infos = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert infos["_workload"].tolist() == [False, True, False]
    np.testing.assert_array_equal(again["candidates"][[0, 2]], seen["candidates"][[0, 2]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(2, dtype=np.int64), r"give integers \(3,\)"),
        (np.zeros(3), "give integers"),
        (np.full(3, 99), "give 0 to 31"),
        (np.full(3, -1), "give 0 to 31"),
    ],
)
def test_actions_that_are_none(wrong, message):
    envs = PlacementVectorEnv(SimBackend(two_cpus()), trees(1, 3), num_envs=3)
    envs.reset(seed=0)
    with pytest.raises(InputError, match=message):
        envs.step(wrong)


def test_bad_arguments():
    backend = SimBackend(two_cpus())
    with pytest.raises(InputError, match="num_envs is 0"):
        PlacementVectorEnv(backend, trees(1, 3), num_envs=0)
    envs = PlacementVectorEnv(backend, trees(1, 3), num_envs=2)
    with pytest.raises(InputError, match="one each"):
        envs.reset(seed=[1])
    for mask in (np.zeros(2, dtype=np.bool_), np.ones(3, dtype=np.bool_), [True, False]):
        with pytest.raises(InputError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})


def test_a_plan_that_runs_out_of_memory_is_worth_least():
    """Prices say so instead of ending the training."""
    profile = two_cpus()
    devices = tuple(replace(d, memory_bytes=2_000) for d in profile.cluster.devices)
    small = replace(profile, cluster=replace(profile.cluster, devices=devices))
    graph = graph_of([(), (), (0, 1)])
    choices = np.array([[0, 0], [1, 0], [2, 0]])
    for backend in (SimBackend(small), OneByOne(small)):
        plan = CompletePlan(GraphWorkload(graph), graph, choices)
        assert backend.makespans_ns([plan]).tolist() == [INFEASIBLE_NS]
    for backend in (SimBackend(profile), OneByOne(profile)):
        plan = CompletePlan(GraphWorkload(graph), graph, choices)
        assert backend.makespans_ns([plan, plan]).tolist() == [140_000, 140_000]


def test_so_is_one_that_does_after_a_reveal():
    """Everything on cpu:1 runs out of memory, everything on cpu:0 is the best single device."""
    profile = two_cpus()
    sizes = (7_000, 5_000)  # the last task and what it reads need 6,000
    devices = [
        replace(d, memory_bytes=n) for d, n in zip(profile.cluster.devices, sizes, strict=True)
    ]
    small = replace(profile, cluster=replace(profile.cluster, devices=tuple(devices)))
    inputs = [(), (0,), (0,), (0,), (0,), (1, 2, 3, 4)]
    graph = graph_of(inputs, reveals=dict.fromkeys(range(1, 6), 0))
    env = PlacementEnv(SimBackend(small), [GraphWorkload(graph)], max_ready=4)
    for device, expected in ((1, REWARD_MIN), (0, 0.0), (1, REWARD_MIN)):
        env.reset()
        done, reward, info = False, 0.0, {}
        while not done:
            _, reward, done, _, info = env.step(np.int64(device))
        assert reward == expected
        assert len(info["plan"]) == len(graph)
