"""The environment: Gymnasium's own checker, masks, rewards, and what observations depend on."""

import math
import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    Backend,
    GraphWorkload,
    Plan,
    Profile,
    Session,
    TaskGraph,
    Workload,
    check_plan,
    run,
)
from dynpartition.agent.conformance import small_worlds
from dynpartition.agent.env import ENV_ID, ILLEGAL_MAX, PlacementEnv
from dynpartition.agent.episode import reward_of
from dynpartition.agent.heuristics import SingleDevice
from dynpartition.agent.observe import FEATURES
from dynpartition.contract import FixedPlan
from dynpartition.errors import InputError
from dynpartition.sim.backend import SimBackend
from dynpartition.streams import closed_loop, latencies_ns, open_stream
from dynpartition.trace import Trace
from tests.agent.worlds import graph_of, tree_graph, trees, two_cpus

EASY_WORLDS = [world for world in small_worlds() if world.easy]  # the reward needs a single device


class _SlowSession(Session):
    """A session on another clock: everything takes three times as long and 1 µs more."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner

    @property
    def graph(self) -> TaskGraph:
        return self._inner.graph

    @property
    def plan(self) -> Plan:
        return self._inner.plan

    def advance(self, launches):
        return self._inner.advance(launches)

    @property
    def trace(self) -> Trace:
        inner = self._inner.trace
        return replace(inner, makespan_ns=3 * inner.makespan_ns + 1_000)


class _SlowBackend(Backend):
    """Hides another clock behind the same profile."""

    def __init__(self, profile: Profile) -> None:
        self._inner = SimBackend(profile)

    @property
    def profile(self) -> Profile:
        return self._inner.profile

    def open(self, workload: Workload) -> Session:
        return _SlowSession(self._inner.open(workload))


def legal_action(env: PlacementEnv, rng: np.random.Generator) -> np.int64:
    return rng.choice(np.flatnonzero(env.action_masks()))


def play(env: PlacementEnv, seed: int, workload: int = 0):
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed, options={"workload": workload})
    seen, done, info, reward = [observation], False, {}, 0.0
    while not done:
        observation, reward, done, _, info = env.step(legal_action(env, rng))
        seen.append(observation)
    return seen, reward, info


def test_passes_gymnasiums_checker():
    check_env(gymnasium.make(ENV_ID, backend=SimBackend(two_cpus())).unwrapped)


def test_reward_is_the_log_ratio_to_the_best_single_device():
    workloads = trees(1, 3)
    backend = SimBackend(two_cpus())
    _, reward, info = play(PlacementEnv(backend, workloads), 0)
    single = [
        run(backend, workloads[0], SingleDevice(name)).trace.makespan_ns
        for name in ("cpu:0", "cpu:1")
    ]
    assert info["best_single_ns"] == min(single)
    assert reward == -math.log(info["makespan_ns"] / min(single))
    check_plan(workloads[0].graph, backend.profile.cluster, info["plan"])


def test_order_of_choices_is_plan_order():
    env = PlacementEnv(SimBackend(two_cpus()), trees(1, 3))
    env.reset(options={"workload": 0})
    rng, done, chosen = np.random.default_rng(0), False, []
    while not done:
        action = legal_action(env, rng)
        chosen.append(env.shown()[int(action) // 2])
        _, _, done, _, info = env.step(action)
    assert [launch.tasks[0] for launch in info["plan"].launches] == chosen


def test_illegal_actions_change_nothing_and_truncate():
    env = PlacementEnv(SimBackend(two_cpus()), trees(1, 3))
    before, _ = env.reset(options={"workload": 0})
    illegal = np.int64(np.flatnonzero(before["mask"] == 0)[0])
    for number in range(1, ILLEGAL_MAX + 1):
        after, reward, done, truncated, info = env.step(illegal)
        assert (reward, done, info) == (-1.0, False, {"illegal_action": True})
        assert truncated == (number == ILLEGAL_MAX)
        np.testing.assert_array_equal(before["candidates"], after["candidates"])


def test_steps_outside_an_episode_and_bad_options_are_refused():
    env = PlacementEnv(SimBackend(two_cpus()), trees(1, 3))
    with pytest.raises(InputError, match="reset"):
        env.step(np.int64(0))
    with pytest.raises(InputError, match="workload"):
        env.reset(options={"workload": 5})
    env.reset(options={"workload": np.int64(0)})
    for action in (-1, env.action_space.n, 0.5):
        with pytest.raises(InputError, match="no candidate; give 0 to 31"):
            env.step(action)
    with pytest.raises(InputError, match="empty"):
        PlacementEnv(SimBackend(two_cpus()), [])


@pytest.mark.parametrize("world", EASY_WORLDS, ids=lambda w: w.name)
def test_same_choices_give_the_same_observations_on_any_backend(world):
    workload = [GraphWorkload(world.graph)]
    fast, slow = (
        play(PlacementEnv(backend, workload), 1)
        for backend in (SimBackend(world.profile), _SlowBackend(world.profile))
    )
    assert len(fast[0]) == len(slow[0])
    for a, b in zip(fast[0], slow[0], strict=True):
        np.testing.assert_array_equal(a["candidates"], b["candidates"])
        np.testing.assert_array_equal(a["mask"], b["mask"])
    assert slow[2]["makespan_ns"] == 3 * fast[2]["makespan_ns"] + 1_000


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(EASY_WORLDS), st.integers(0, 10**6))
def test_masked_choices_always_end_in_a_legal_plan(world, seed):
    seen, _, info = play(
        PlacementEnv(SimBackend(world.profile), [GraphWorkload(world.graph)]), seed
    )
    assert info["makespan_ns"] > 0
    for observation in seen[:-1]:
        assert observation["mask"].any()
        assert np.isfinite(observation["candidates"]).all()
    assert not seen[-1]["mask"].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_masked_candidates_are_zero_and_shown_tasks_bounded(seed):
    env = PlacementEnv(SimBackend(two_cpus()), [GraphWorkload(tree_graph(12, seed))], max_ready=4)
    seen, _, _ = play(env, seed)
    for observation in seen:
        assert observation["candidates"].shape == (8, len(FEATURES))
        assert not observation["candidates"][observation["mask"] == 0].any()


def test_swapping_the_hidden_part_leaves_earlier_observations():
    def observations(hidden, reveals):
        graph = graph_of([(), (0,), (0,), (1, 2), *hidden], reveals=reveals)
        seen, _, _ = play(PlacementEnv(SimBackend(two_cpus()), [GraphWorkload(graph)]), 4)
        return seen

    few = observations([(3,)], {4: 3})
    many = observations([(1,), (2,), (4, 5)], {4: 3, 5: 3, 6: 3})
    for a, b in zip(few[:4], many[:4], strict=True):  # before the reveal
        np.testing.assert_array_equal(a["candidates"], b["candidates"])


@pytest.mark.parametrize("batching", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_an_episode_may_be_a_window_of_requests(closed, batching):
    """Tasks show as requests arrive; in a closed loop when depends on what was chosen before."""
    graphs = [tree_graph(n, n) for n in (3, 5, 4)]
    arrivals_ns = [0, 100_000, 150_000]
    stream = closed_loop(graphs, clients=2) if closed else open_stream(graphs, arrivals_ns)
    backend = SimBackend(two_cpus())
    seen, reward, info = play(PlacementEnv(backend, [stream], batching=batching), 3)
    assert len(seen) == len(stream.graph) + 1
    again = run(backend, stream, FixedPlan(info["plan"]))
    check_plan(again.graph, backend.profile.cluster, info["plan"])
    assert again.trace.makespan_ns == info["makespan_ns"]
    assert reward == reward_of(info["makespan_ns"], info["best_single_ns"])

    assert latencies_ns(again.graph, again.trace, "cpu:0").keys() == {0, 1, 2}


def test_observations_do_not_depend_on_the_scale_of_time():
    """All costs and times a thousand times larger look the same: no feature has a unit."""
    profile = two_cpus(latency_ns=8_000)
    slow = two_cpus(latency_ns=8_000_000)
    cells = {
        cell: {
            d: type(c)(c.batch, tuple(1000 * ns for ns in c.duration_ns)) for d, c in row.items()
        }
        for cell, row in profile.cells.items()
    }
    slow = replace(slow, cells=cells, dispatch=replace(slow.dispatch, handoff_ns=3_000_000))
    graph = graph_of([(), (), (0, 1), (2,)], output_bytes=0)
    a, b = (
        play(PlacementEnv(SimBackend(p), [GraphWorkload(graph)]), 2)[0] for p in (profile, slow)
    )
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x["candidates"], y["candidates"], atol=1e-5)


def test_any_import_of_the_package_registers_the_environment():
    program = """
from dynpartition.formats import load_shipped
from dynpartition.sim import SimBackend
import gymnasium
backend = SimBackend(load_shipped("synthetic-cpu-2gpu"))
env = gymnasium.make("dynpartition/Placement-v0", backend=backend)
print(env.reset(seed=0)[0]["mask"].any())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
