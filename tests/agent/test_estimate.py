"""The estimate against the simulator, and by hand on worlds of a few tasks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import AffineCost, Dispatch, Plan, PricedGraph, single_task_plan
from dynpartition.agent.estimate import Estimate
from dynpartition.agent.occupancy import Occupancy, common_fit
from dynpartition.agent.partial import PartialPlan
from dynpartition.sim.reference import simulate
from tests.agent.worlds import graph_of, tree_graph, two_cpus


def test_options_commit_nothing_and_agree_with_commit():
    estimate = Estimate(PricedGraph(graph_of([(), (), (0, 1)]), two_cpus()))
    estimate.commit(0, 0)
    estimate.commit(1, 1)
    before = estimate.options(2)
    assert before == estimate.options(2)
    # On cpu:0: leaf 1 ends at 80 µs, transfer 8.12 µs, hand-off 3 µs, composer 60 µs.
    assert before == [(91_120, 151_120), (80_000, 200_000)]
    estimate.commit(2, 0)
    assert estimate.span(2) == (91_120, 151_120)
    assert estimate.makespan_ns == 151_120


def test_copy_that_blocks_its_source_pushes_back_what_follows():
    """0 → 2 crosses while cpu:0 would run 1: the copy goes first.

    cpu:0  |--0--|copy|--1--|
    cpu:1             |----2----|
    """
    estimate = Estimate(PricedGraph(graph_of([(), (), (0,)]), two_cpus()))
    estimate.commit(0, 0)
    estimate.commit(1, 0)
    estimate.commit(2, 1)
    assert estimate.span(1) == (48_120, 88_120)
    assert estimate.device_free_ns[0] == 88_120
    assert estimate.span(2) == (51_120, 171_120)


def test_absent_link_and_missing_cost_give_no_option():
    profile = two_cpus()
    lonely = type(profile)(type(profile.cluster)(profile.cluster.devices), profile.cells)
    estimate = Estimate(PricedGraph(graph_of([(), (0,)]), lonely))
    estimate.commit(0, 0)
    assert estimate.options(1)[1] is None


def test_revealed_tasks_are_released_when_their_revealer_is_known():
    graph = graph_of([(), (0,)], reveals={1: 0})
    dispatch = Dispatch(sync_ns=5_000, decision_ns=2_000)
    estimate = Estimate(PricedGraph(graph, two_cpus(None, dispatch)))
    estimate.replay(single_task_plan([(0, "cpu:1")]))
    # 80 µs on cpu:1, transfer to the host, sync and decision.
    assert estimate.release_ns[1] == 80_000 + 8_120 + 7_000


@pytest.mark.parametrize("mode", ["none", "single", "processes", "threads", "replay"])
def test_equals_the_simulator_without_blocking_copies(mode):
    profile = two_cpus(None, Dispatch(host_mode=mode, bookkeeping_ns=700))
    for seed in range(6):
        graph = tree_graph(6, seed)
        partial = PartialPlan.of(graph, profile)
        while partial.ready:
            task = partial.ready[0]
            partial.place(task, partial.earliest(task))
        trace = simulate(graph, profile, Plan(tuple(partial.take_launches())))
        assert partial.estimate.makespan_ns == trace.makespan_ns


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, "src", "dst", "both"]), st.booleans())
def test_stays_near_the_simulator(seed, blocks, staged):
    """Random placements of trees; with copies that block, later commits move earlier ones."""
    staging = {"cpu:0": AffineCost(1_000, 10**9), "cpu:1": AffineCost(2_000, 10**9)}
    dispatch = Dispatch(
        host_mode="processes",
        handoff_ns=3_000,
        copy_in=staging if staged else {},
        copy_out=staging if staged else {},
    )
    graph, profile = tree_graph(6, seed), two_cpus(blocks, dispatch)
    rng = np.random.default_rng(seed)
    partial = PartialPlan.of(graph, profile)
    while partial.ready:
        partial.place(partial.ready[0], int(rng.integers(2)))
    trace = simulate(graph, profile, Plan(tuple(partial.take_launches())))
    bound = {None: 0.05, "both": 0.35}.get(blocks, 0.2)
    assert partial.estimate.makespan_ns == pytest.approx(trace.makespan_ns, rel=bound)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_a_device_alone_is_exact(seed):
    graph, profile = tree_graph(5, seed), two_cpus()
    plan = single_task_plan((task, "cpu:0") for task in graph.topological_order)
    estimate = Estimate(PricedGraph(graph, profile))
    estimate.replay(plan)
    assert estimate.makespan_ns == simulate(graph, profile, plan).makespan_ns


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12))
def test_occupancy_keeps_intervals_disjoint(requests):
    both = [Occupancy(), Occupancy()]
    for number, (ready, length) in enumerate(requests):
        chosen = both[: 1 + number % 2]
        start = common_fit(chosen, ready, length)
        assert start >= ready
        for resource in chosen:
            resource.take(start, start + length)
    for resource in both:
        spans = sorted(zip(resource.starts, resource.ends, strict=True))
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_what_takes_no_time_hides_no_interval():
    """The lock of a CPU launch of 0 ns: the next one must still wait for [0, 3)."""
    lock = Occupancy()
    lock.take(0, 3)
    lock.take(0, 0)
    assert lock.first_fit(0, 2) == 3
