"""The compiled observation against one computed from the readable estimate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import Dispatch, Plan
from dynpartition.agent import env_kernel as kernel
from dynpartition.agent.batch import Batch
from dynpartition.agent.conformance import small_worlds
from dynpartition.agent.facts import Facts
from dynpartition.agent.partial import PartialPlan
from dynpartition.sim.worlds import random_world
from tests.agent.observer import Observer
from tests.agent.worlds import (
    can_be_scheduled,
    half_of_batches,
    run_uncompiled,
    tree_graph,
    two_cpus,
    with_first_uses,
)

HOSTS = [
    Dispatch(host_mode="processes", handoff_ns=3_000),
    Dispatch(host_mode="single", h_copy=500),
    Dispatch(host_mode="threads", lock=0.3, queue_depth=2),
    Dispatch(),
]


def play_both(graph, profile, seed: int, max_ready: int = 4, planned: Plan | None = None) -> int:
    """Play one episode in both; return how many choices were compared."""
    rng = np.random.default_rng(seed)
    facts = Facts(graph, profile)
    partial = PartialPlan(facts, planned)
    n_devices = len(profile.cluster.devices)
    observer, batch = Observer(n_devices, max_ready), Batch(profile, 2, max_ready)
    slot = np.ones(1, dtype=np.int64)  # the second, to see that slots keep apart
    batch.begin(1, facts, planned or Plan())
    batch.observe(slot)
    for count in range(len(graph) + 1):
        features, mask = observer.observe(partial)
        assert batch.shown(1) == observer.shown
        np.testing.assert_array_equal(batch.mask[1], mask)
        np.testing.assert_allclose(batch.features[1], features, atol=2e-5)
        if not mask.any():
            return count
        action = int(rng.choice(np.flatnonzero(mask)))
        partial.place(observer.shown[action // n_devices], action % n_devices)
        batch.act(slot, np.array([action]))
        assert not batch.mask[0].any()
    raise AssertionError("an episode went on after everything was placed")


@pytest.mark.parametrize("world", small_worlds(), ids=lambda w: w.name)
@pytest.mark.parametrize("seed", range(3))
def test_observations_equal_those_of_the_readable_estimate(world, seed):
    play_both(world.graph, world.profile, seed)


@pytest.mark.parametrize("dispatch", HOSTS, ids=lambda d: d.host_mode)
@pytest.mark.parametrize("blocks", [None, "src", "both"])
@pytest.mark.parametrize("seed", range(3))
def test_on_trees_with_every_host_and_blocking_copies(dispatch, blocks, seed):
    graph = tree_graph(9, seed)
    assert play_both(graph, two_cpus(blocks, dispatch), seed, max_ready=6) == len(graph)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9))
def test_on_random_hostile_worlds(seed):
    """Shared buses, absent links, missing costs, reveals, arrivals, staging, every host mode."""
    world = random_world(seed)
    if not can_be_scheduled(world):
        return
    play_both(world.graph, with_first_uses(world.profile, seed), seed)


def test_goes_on_from_launches_of_several_tasks():
    world, planned = half_of_batches()
    play_both(world.graph, world.profile, 0, planned=planned)


def test_an_illegal_choice_changes_nothing():
    graph, profile = tree_graph(5, 1), two_cpus()
    batch, slot = Batch(profile, 1, 16), np.zeros(1, dtype=np.int64)
    batch.begin(0, Facts(graph, profile))
    assert batch.observe(slot).tolist() == [kernel.PLACED]
    before = batch.features.copy()
    batch.act(slot, np.array([0]))
    batch.begin(0, Facts(graph, profile))
    batch.observe(slot)
    illegal = np.flatnonzero(batch.mask[0] == 0)
    for choice in illegal:
        assert batch.act(slot, np.array([choice])).tolist() == [kernel.ILLEGAL]
    assert len(illegal)
    np.testing.assert_array_equal(batch.features, before)


def test_slots_grow_for_larger_graphs_and_keep_what_others_play():
    profile, rng = two_cpus(), np.random.default_rng(0)
    small, large = (Facts(tree_graph(n, 3), profile) for n in (5, 40))
    alone, together = Batch(profile, 1, 4), Batch(profile, 2, 4)
    first = np.zeros(1, dtype=np.int64)
    for batch in (alone, together):
        batch.begin(0, small)
        batch.observe(first)
    for step in range(len(small.graph)):
        if step == 3:
            together.begin(1, large)
            together.observe(np.ones(1, dtype=np.int64))
        np.testing.assert_array_equal(alone.features[0], together.features[0])
        action = rng.choice(np.flatnonzero(alone.mask[0]), size=1)
        assert alone.act(first, action) == together.act(first, action)
    np.testing.assert_array_equal(alone.chosen(0), together.chosen(0))


PROGRAM = """
from tests.agent.test_batch import HOSTS, play_both
from tests.agent.worlds import tree_graph, two_cpus, with_first_uses
for dispatch in HOSTS:
    play_both(tree_graph(5, 1), two_cpus("src", dispatch), 0)
print("equal")
"""


def test_the_source_gives_the_same_numbers_without_compilation():
    assert run_uncompiled(PROGRAM) == "equal\n"
