"""Merging tasks into launches: fewer launches, the same placement, always legal."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import Launch, Plan, check_plan, single_task_plan
from dynpartition.merging import merged
from dynpartition.sim.worlds import random_world
from tests.agent.worlds import graph_of, tree_graph, two_cpus


def on(device: str, graph):
    return single_task_plan((t, device) for t in graph.topological_order).launches


def test_a_tree_is_one_launch_of_leaves_one_per_level_and_one_of_outputs():
    """0 1 2 3 are leaves; 4 = (0, 1), 5 = (2, 3), 6 = (4, 5); every node has an output."""
    cells = ["leaf"] * 4 + ["composer"] * 3 + ["output"] * 7
    inputs = [(), (), (), (), (0, 1), (2, 3), (4, 5), *[(n,) for n in range(7)]]
    graph = graph_of(inputs, cells=cells)
    found = merged(graph, on("cpu:0", graph))
    assert [launch.tasks for launch in found] == [
        (0, 1, 2, 3),
        (4, 5),
        (6,),
        (7, 8, 9, 10, 11, 12, 13),
    ]


def test_a_chain_cannot_be_merged():
    graph = graph_of([(), (0,), (1,), (2,)])
    assert merged(graph, on("cpu:0", graph)) == list(on("cpu:0", graph))


def test_devices_are_kept_apart():
    graph = graph_of([(), (), (), ()])
    launches = [Launch("cpu:0", (0,)), Launch("cpu:1", (1,)), Launch("cpu:0", (2,))]
    found = merged(graph, [*launches, Launch("cpu:1", (3,))])
    assert found == [Launch("cpu:0", (0, 2)), Launch("cpu:1", (1, 3))]


def test_kinds_that_wait_for_each_other_are_split():
    """a1 → b1 and b2 → a2: {a1, a2} and {b1, b2} in one launch each would be a cycle."""
    graph = graph_of([(), (0,), (), (2,)], cells=["leaf", "output", "output", "leaf"])
    found = merged(graph, on("cpu:0", graph))
    check_plan(graph, two_cpus().cluster, Plan(tuple(found)))
    assert len(found) == 3


def test_sizes_are_respected_and_first_tasks_go_first():
    graph = graph_of([()] * 7)
    found = merged(graph, on("cpu:0", graph), sizes=(1, 2, 4))
    assert [launch.tasks for launch in found] == [(0, 1, 2, 3), (4, 5), (6,)]


def test_goes_on_from_what_has_been_launched():
    graph = graph_of([(), (0,), (0,), (1, 2)])
    found = merged(graph, [Launch("cpu:1", (task,)) for task in (1, 2, 3)])
    assert found == [Launch("cpu:1", (1, 2)), Launch("cpu:1", (3,))]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([None, (1,), (1, 2), (1, 2, 4, 8)]))
def test_merged_plans_are_legal_and_keep_every_task_where_it_was(seed, sizes):
    world = random_world(seed)
    found = Plan(tuple(merged(world.graph, world.plan.launches, sizes=sizes)))
    check_plan(world.graph, world.profile.cluster, found)
    assert found.placement() == world.plan.placement()
    if sizes is not None:
        assert all(len(launch.tasks) in sizes for launch in found.launches)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10**6))
def test_trees_on_one_device_take_as_few_launches_as_levels_allow(n_leaves, seed):
    graph = tree_graph(n_leaves, seed)
    level = [0] * len(graph)
    for task in graph.topological_order:
        level[task] = 1 + max((level[source] for source in graph.input_lists[task]), default=0)
    composers = {level[t] for t in range(len(graph)) if graph.cell_name(t) == "composer"}
    assert len(merged(graph, on("cpu:0", graph))) == 2 + len(composers)


def test_what_waits_for_another_device_holds_up_no_lower_level():
    """0 → 1 → 2 on cpu:0, 3 on cpu:1; 4 reads 2 and 3, so it is no launch with 5, which reads 3."""
    graph = graph_of([(), (0,), (1,), (), (2, 3), (3,)])
    launches = [Launch("cpu:0", (t,)) for t in (0, 1, 2)]
    found = merged(graph, [*launches, *(Launch("cpu:1", (t,)) for t in (3, 4, 5))])
    assert Launch("cpu:1", (5,)) in found
    assert Launch("cpu:1", (4,)) in found
