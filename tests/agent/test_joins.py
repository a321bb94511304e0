"""Tasks that join launches: what may, what is seen of it, and that every legal plan can be made."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    Curve,
    Dispatch,
    GraphWorkload,
    Plan,
    Profile,
    TaskGraph,
    check_plan,
    run,
)
from dynpartition.agent import env_kernel as kernel
from dynpartition.agent.batch import Batch
from dynpartition.agent.conformance import World, small_worlds
from dynpartition.agent.env import PlacementEnv
from dynpartition.agent.episode import Episodes, reward_of
from dynpartition.agent.facts import Facts
from dynpartition.agent.observe import BATCH_FEATURES, FEATURES
from dynpartition.contract import INFEASIBLE_NS, FixedPlan
from dynpartition.errors import (
    OutOfDeviceMemory,
    PlanError,
    ProfileError,
    SchedulerError,
)
from dynpartition.plan import chosen_launches
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.reference import simulate
from dynpartition.sim.worlds import random_world
from tests.agent.observer import JoinObserver
from tests.agent.worlds import (
    can_be_scheduled,
    graph_of,
    half_of_batches,
    run_uncompiled,
    tree_graph,
    two_cpus,
    with_first_uses,
)

HOSTS = [
    Dispatch(host_mode="processes", handoff_ns=3_000, bookkeeping_ns=700),
    Dispatch(host_mode="single", h_copy=500),
    Dispatch(host_mode="threads", lock=0.3, queue_depth=2),
    Dispatch(host_mode="replay"),
]
FIRST = np.zeros(1, dtype=np.int64)


def with_curves(profile: Profile) -> Profile:
    """Return a profile where four tasks in one launch take less than two alone."""
    cells = {
        cell: {d: Curve((1, 4), (c.at(1), 2 * c.at(1) - 7)) for d, c in row.items()}
        for cell, row in profile.cells.items()
    }
    return replace(profile, cells=cells)


def batching(world: World) -> World:
    return replace(world, profile=with_curves(world.profile))


EASY_WORLDS = [batching(world) for world in small_worlds() if world.easy]


# What is seen


def play_both(
    graph: TaskGraph, profile: Profile, seed: int, max_ready: int = 4, planned: Plan | None = None
) -> int:
    """Play an episode in compiled code and in the readable reference; return how many joined."""
    rng, facts = np.random.default_rng(seed), Facts(graph, profile)
    observer = JoinObserver(facts, max_ready, planned)
    batch, slot = Batch(profile, 2, max_ready, batching=True), np.ones(1, dtype=np.int64)
    batch.begin(1, facts, planned or Plan())
    batch.observe(slot)
    while True:
        features, mask = observer.observe()
        assert batch.shown(1) == observer.shown
        np.testing.assert_array_equal(batch.mask[1], mask)
        np.testing.assert_allclose(batch.features[1], features, atol=2e-5)
        if not mask.any():
            break
        joins = np.flatnonzero(mask[-max_ready:]) + len(mask) - max_ready
        wants = len(joins) and rng.random() < 0.6
        action = int(rng.choice(joins if wants else np.flatnonzero(mask)))
        observer.choose(action)
        batch.act(slot, np.array([action]))
        assert not batch.mask[0].any()
    expected = [(facts.names[device], tuple(tasks)) for device, tasks in observer.launches]
    assert [(each.device, each.tasks) for each in batch.launches(1)] == expected
    return int(batch.chosen(1)[:, 2].sum())


@pytest.mark.parametrize("world", small_worlds(), ids=lambda w: w.name)
def test_observations_equal_those_of_the_readable_estimate(world):
    world = batching(world)
    for seed in range(3):
        play_both(world.graph, world.profile, seed)


@pytest.mark.parametrize("dispatch", HOSTS, ids=lambda d: d.host_mode)
@pytest.mark.parametrize("blocks", [None, "src", "both"])
def test_on_trees_with_every_host_and_blocking_copies(dispatch, blocks):
    profile = with_curves(two_cpus(blocks, dispatch))
    assert sum(play_both(tree_graph(9, seed), profile, seed, 6) for seed in range(2)) > 5


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_on_random_hostile_worlds(seed):
    """Shared buses, absent links, own durations, little memory, staging, every host mode."""
    world = random_world(seed)
    if not can_be_scheduled(world):
        return
    play_both(world.graph, with_first_uses(world.profile, seed), seed)


def test_goes_on_from_launches_of_several_tasks():
    """What has been launched before is closed."""
    world, planned = half_of_batches()
    play_both(world.graph, world.profile, 0, planned=planned)


def test_launches_of_their_own_look_as_without_batching():
    graph, profile, rng = tree_graph(9, 2), with_curves(two_cpus()), np.random.default_rng(0)
    plain, joining = Batch(profile, 1, 5), Batch(profile, 1, 5, batching=True)
    for batch in (plain, joining):
        batch.begin(0, Facts(graph, profile))
        batch.observe(FIRST)
    for _ in range(len(graph)):
        n_alone, n_own = plain.n_candidates, len(FEATURES)
        np.testing.assert_array_equal(joining.mask[0, :n_alone], plain.mask[0])
        np.testing.assert_array_equal(joining.features[0, :n_alone, :n_own], plain.features[0])
        action = rng.choice(np.flatnonzero(plain.mask[0]), size=1)
        assert plain.act(FIRST, action) == joining.act(FIRST, action)
    assert not joining.chosen(0)[:, 2].any()


def test_what_is_seen_of_a_join():
    """Four leaves on one device: each costs 40 µs alone, and four of them 100 µs together.

    Two are placed in one launch, which takes 60 µs; the third would make it 80 µs long.
    """
    profile = two_cpus()
    cells = profile.cells | {"leaf": {"cpu:0": Curve((1, 4), (40_000, 100_000))}}
    graph, profile = graph_of([(), (), (), ()]), replace(profile, cells=cells)
    batch = Batch(profile, 1, 3, batching=True)
    batch.begin(0, Facts(graph, profile))
    batch.observe(FIRST)
    assert batch.mask[0].tolist() == [1, 0] * 3 + [0] * 3
    batch.act(FIRST, np.array([0]))
    batch.act(FIRST, np.array([6]))  # joins
    assert batch.mask[0].tolist() == [1, 0] * 2 + [0] * 2 + [1, 1, 0]
    alone, joined = (
        dict(zip((*FEATURES, *BATCH_FEATURES), batch.features[0, k].tolist(), strict=True))
        for k in (0, 6)
    )
    unit_ns = 40_000

    def squashed(ns: float) -> float:
        return pytest.approx(4 * ns / (4 * unit_ns + abs(ns)))

    def compared(ns: float, base_ns: float) -> float:
        return pytest.approx(2 * (ns - base_ns) / (ns + base_ns))

    assert alone["start_lag"] == 0 and joined["start_lag"] == squashed(-60_000)
    assert alone["rise"] == squashed(40_000) and joined["rise"] == squashed(20_000)
    assert alone["duration"] == squashed(40_000) and joined["duration"] == squashed(20_000)
    assert joined["finish_lag"] == squashed(-20_000) and joined["finishes_first"] == 1
    assert joined["delay"] == squashed(20_000) and joined["saved"] == compared(20_000, 40_000)
    assert (alone["joins"], joined["joins"]) == (0, 1)
    assert joined["together"] == pytest.approx(4 * 2 / 6)
    assert alone["mates"] == joined["mates"] == pytest.approx(4 * 1 / 5)
    assert alone["next"] == joined["next"] == compared(20_000, 40_000)


# What may join


Choices = tuple[tuple[int, ...], ...]  # (task, device, joins) in order


def legal_sequences(graph: TaskGraph, profile: Profile) -> set[Choices]:
    """Return all choices that are a legal plan, by trying everything."""
    names, found = profile.cluster.names, set()
    for order in itertools.permutations(range(len(graph))):
        for joins in itertools.product((0, 1), repeat=len(order) - 1):
            for devices in itertools.product(range(len(names)), repeat=len(order)):
                rows = tuple(zip(order, devices, (0, *joins), strict=True))
                apart = any(b[2] and a[1] != b[1] for a, b in itertools.pairwise(rows))
                plan = Plan(tuple(chosen_launches(np.array(rows), names)))
                if not apart and is_legal(graph, profile, plan):
                    found.add(rows)
    return found


def is_legal(graph: TaskGraph, profile: Profile, plan: Plan) -> bool:
    try:
        check_plan(graph, profile.cluster, plan)
    except PlanError:
        return False
    return True


def reachable_sequences(
    graph: TaskGraph, profile: Profile
) -> set[tuple[tuple[int, int, int], ...]]:
    """Return all choices that masks allow, by trying everything."""
    facts, found = Facts(graph, profile), set()
    batch = Batch(profile, 1, len(graph), batching=True)
    unexplored: list[list[int]] = [[]]
    while unexplored:
        actions = unexplored.pop()
        batch.begin(0, facts)
        batch.observe(FIRST)
        for action in actions:
            batch.act(FIRST, np.array([action]))
        legal = np.flatnonzero(batch.mask[0]).tolist()
        assert bool(legal) == (len(actions) < len(graph))
        unexplored += [[*actions, action] for action in legal]
        if not legal:
            found.add(tuple(map(tuple, batch.chosen(0).tolist())))
    return found


@pytest.mark.parametrize(
    ("inputs", "cells"),
    [
        ([(), (), (0,), ()], ["leaf"] * 4),
        ([(), (0,), (0,), (1, 2)], ["leaf", "composer", "composer", "leaf"]),
        ([(), (), (0, 1), ()], ["leaf", "composer", "leaf", "leaf"]),
    ],
)
def test_every_legal_plan_can_be_made_and_no_other(inputs, cells):
    graph, profile = graph_of(inputs, cells=cells), two_cpus()
    assert reachable_sequences(graph, profile) == legal_sequences(graph, profile)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_plans_of_random_worlds_can_be_made(seed):
    world = random_world(seed)
    graph, profile = world.graph, world.profile
    if graph.revealers or not is_legal(graph, profile, world.plan):
        return
    facts = Facts(graph, profile)
    if not facts.legality.all_linked:
        return  # where links are missing, some legal plans are never made
    batch = Batch(profile, 1, len(graph), batching=True)
    batch.begin(0, facts)
    batch.observe(FIRST)
    for launch in world.plan.launches:
        device = facts.names.index(launch.device)
        for position, task in enumerate(launch.tasks):
            row = batch.shown(0).index(task)
            n_alone = len(graph) * batch.n_devices
            action = n_alone + row if position else row * batch.n_devices + device
            if batch.mask[0, action] == 0:
                assert facts.prices.run_ns[task][device] < 0  # its weights can never be there
                return
            batch.act(FIRST, np.array([action]))
    assert batch.launches(0) == list(world.plan.launches)


# Episodes


def play(env: PlacementEnv, seed: int):
    rng, done, info, reward = np.random.default_rng(seed), False, {}, 0.0
    observation, _ = env.reset(options={"workload": 0})
    while not done:
        assert observation["mask"].any()
        assert observation in env.observation_space
        action = rng.choice(np.flatnonzero(observation["mask"]))
        observation, reward, done, _, info = env.step(action)
    assert not observation["mask"].any()
    return reward, info


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(EASY_WORLDS), st.integers(0, 10**6))
def test_masked_choices_end_in_a_legal_plan_that_is_worth_what_the_reference_says(world, seed):
    """Reveals included: there the plan is played again on a fresh session."""
    backend, workload = SimBackend(world.profile), GraphWorkload(world.graph)
    reward, info = play(PlacementEnv(backend, [workload], max_ready=3, batching=True), seed)
    plan = info["plan"]
    again = run(backend, workload, FixedPlan(plan))
    check_plan(again.graph, world.profile.cluster, plan)
    makespan_ns = again.trace.makespan_ns
    if not world.graph.revealers:
        assert makespan_ns == simulate(world.graph, world.profile, plan).makespan_ns
    assert info["makespan_ns"] == makespan_ns
    assert reward == reward_of(makespan_ns, info["best_single_ns"])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9))
def test_so_they_do_on_random_hostile_worlds(seed):
    """Little memory, noise, arrivals and reveals; some worlds nobody can plan."""
    world, rng = random_world(seed), np.random.default_rng(seed)
    backend, workload = SimBackend(world.profile), GraphWorkload(world.graph)
    episodes = Episodes(backend, 1, 3, batching=True)
    try:
        episodes.begin(FIRST, [workload])
        while not episodes.finished:
            legal = np.flatnonzero(episodes.batch.mask[0])
            assert len(legal)
            episodes.act(FIRST, rng.choice(legal, size=1))
    except (SchedulerError, ProfileError, PlanError, OutOfDeviceMemory):
        assert not episodes.finished
        return
    finally:
        episodes.close()
    plan, makespan_ns = episodes.plan(0), episodes.finished[0].makespan_ns
    try:
        again = run(backend, workload, FixedPlan(plan))
    except OutOfDeviceMemory:
        assert makespan_ns == INFEASIBLE_NS
        return
    check_plan(again.graph, world.profile.cluster, plan)
    assert makespan_ns == again.trace.makespan_ns


def test_what_has_been_run_before_a_reveal_is_closed():
    """Task 1 shows when task 0 is known, and could otherwise have joined it."""
    graph = graph_of([(), (), (), ()], reveals={2: 0, 3: 0})
    profile = with_curves(two_cpus())
    env = PlacementEnv(SimBackend(profile), [GraphWorkload(graph)], max_ready=3, batching=True)
    env.reset()
    env.step(np.int64(0))
    assert env.action_masks()[6:].tolist() == [True, False, False]
    env.step(np.int64(6))  # both that are shown are placed, in one launch
    assert env.action_masks().tolist() == [True, True] * 2 + [False] * 5
    env.step(np.int64(0))
    *_, info = env.step(np.int64(6))
    assert [launch.tasks for launch in info["plan"].launches] == [(0, 1), (2, 3)]


def test_an_illegal_join_changes_nothing():
    env = PlacementEnv(SimBackend(two_cpus()), [GraphWorkload(tree_graph(5, 1))], batching=True)
    before, _ = env.reset()
    after, reward, *_, info = env.step(np.int64(env.action_space.n - 1))
    assert (reward, info) == (-1.0, {"illegal_action": True})
    np.testing.assert_array_equal(before["candidates"], after["candidates"])


def test_gymnasiums_checker_is_silent():
    workloads = [GraphWorkload(tree_graph(5, seed)) for seed in range(3)]
    check_env(
        PlacementEnv(SimBackend(with_curves(two_cpus())), workloads, batching=True),
        skip_render_check=True,
    )


def test_joining_everything_alike_takes_what_the_curve_says():
    """Eight leaves of 40 µs on a curve that goes on at 13.331 µs a task, then what reads them."""
    graph = graph_of([()] * 8 + [tuple(range(8))])
    profile = with_curves(two_cpus())
    env = PlacementEnv(SimBackend(profile), [GraphWorkload(graph)], max_ready=2, batching=True)
    env.reset()
    env.step(np.int64(0))
    for _ in range(7):
        env.step(np.int64(4))
    *_, info = env.step(np.int64(0))
    leaf, composer = (profile.cells[name]["cpu:0"] for name in ("leaf", "composer"))
    assert info["makespan_ns"] == leaf.at(8) + composer.at(1) < 8 * leaf.at(1)


PROGRAM = """
from tests.agent.test_joins import HOSTS, play_both, with_curves
from tests.agent.worlds import tree_graph, two_cpus
for dispatch in HOSTS:
    assert play_both(tree_graph(5, 1), with_curves(two_cpus("src", dispatch)), 0) > 0
print("equal")
"""


def test_the_source_gives_the_same_numbers_without_compilation():
    assert run_uncompiled(PROGRAM) == "equal\n"


def test_slots_grow_for_larger_graphs_and_keep_what_others_play():
    profile, rng = with_curves(two_cpus()), np.random.default_rng(0)
    small, large = (Facts(tree_graph(n, 3), profile) for n in (5, 40))
    alone, together = (Batch(profile, n, 4, batching=True) for n in (1, 2))
    for batch in (alone, together):
        batch.begin(0, small)
        batch.observe(FIRST)
    for step in range(len(small.graph)):
        if step == 3:
            together.begin(1, large)
            together.observe(np.ones(1, dtype=np.int64))
        np.testing.assert_array_equal(alone.features[0], together.features[0])
        action = rng.choice(np.flatnonzero(alone.mask[0])[-2:], size=1)  # joins, if any may
        assert alone.act(FIRST, action) == together.act(FIRST, action)
    assert alone.act(FIRST, np.array([-1])).tolist() == [kernel.ALL_PLACED]
    np.testing.assert_array_equal(alone.chosen(0), together.chosen(0))
