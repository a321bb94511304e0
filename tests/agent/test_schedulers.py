"""Every registered scheduler, and what each of them decides on worlds one can check by eye."""

import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    GraphWorkload,
    Link,
    Plan,
    Profile,
    Task,
    TaskGraph,
    check_plan,
    run,
)
from dynpartition.agent import merging
from dynpartition.agent.caching import Caching
from dynpartition.agent.conformance import check_scheduler, small_worlds
from dynpartition.agent.decoder import Decoder
from dynpartition.agent.facts import Facts
from dynpartition.agent.listing import Heft, optimistic_costs
from dynpartition.agent.paper.config import KINDS
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.prices import Prices
from dynpartition.agent.ranks import downward_ranks, mean_costs, upward_ranks
from dynpartition.agent.registry import make_scheduler, scheduler_names
from dynpartition.agent.splits import left_of_roots
from dynpartition.agent.subtrees import left_of_many_roots
from dynpartition.agent.warming import warm_up
from dynpartition.contract import Scheduler
from dynpartition.errors import PlanError, SchedulerError
from dynpartition.formats import load_shipped, shipped_names
from dynpartition.models import build_model, generate_inputs, merge_inputs
from dynpartition.plan import Launch
from dynpartition.profile import PricedGraph
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.reference import simulate
from tests.agent.worlds import graph_of, tree_graph, two_cpus


def every_scheduler() -> list[Scheduler]:
    elsewhere = ("single:DEVICE", "optimal", *KINDS)  # they have tests of their own
    named = [n for n in scheduler_names() if n not in elsewhere]
    return [
        make_scheduler("single:cpu:0"),
        *(make_scheduler(name, seed=3, evaluations=40) for name in named),
        PolicyScheduler(Policy.untrained(1)),
        make_scheduler("best-single+merge"),
        make_scheduler("heft+merge"),
        make_scheduler("heft+merge+cache"),
        make_scheduler("local-search+merge+cache", evaluations=40),
    ]


@pytest.mark.parametrize("scheduler", every_scheduler(), ids=lambda s: s.name)
def test_conformance(scheduler):
    assert check_scheduler(scheduler) >= 18


@pytest.mark.parametrize("scheduler", every_scheduler(), ids=lambda s: s.name)
def test_warming_up_changes_no_decision(scheduler):
    profile, graph = two_cpus(), tree_graph(6, 1)
    alone = list(scheduler.schedule(graph, profile, Plan()))
    for world in small_worlds():
        if not scheduler.name.startswith("single:"):
            warm_up(scheduler, world.profile)
    assert list(scheduler.schedule(graph, profile, Plan())) == alone


def test_warming_up_reaches_what_only_inputs_from_the_host_need(monkeypatch):
    calls, plain = [], Decoder.fed_first_ns

    def counted(self, choices):
        calls.append(len(choices))
        return plain(self, choices)

    monkeypatch.setattr(Decoder, "fed_first_ns", counted)
    for name in shipped_names():
        calls.clear()
        warm_up(make_scheduler("policy"), load_shipped(name))
        assert calls
    alone = Profile(Cluster((Device("cpu:0", "cpu"), Device("cpu:1", "cpu")), ()), {})
    calls.clear()
    warm_up(make_scheduler("single:cpu:1"), alone)  # nothing can come from the host
    warm_up(make_scheduler("policy"), alone)
    assert not calls


class _Forgets(Scheduler):
    name = "forgets"

    def schedule(self, graph, profile, planned):
        return make_scheduler("round-robin").schedule(graph, profile, planned)[:-1]


class _Wavers(Scheduler):
    name = "wavers"

    def __init__(self):
        self.calls = 0

    def schedule(self, graph, profile, planned):
        self.calls += 1
        return make_scheduler("random", seed=self.calls).schedule(graph, profile, planned)


class _IgnoresLinks(Scheduler):
    name = "ignores-links"

    def schedule(self, graph, profile, planned):
        names = profile.cluster.names
        done = planned.placement()
        todo = [t for t in graph.topological_order if t not in done]
        return [Launch(names[t % len(names)], (t,)) for t in todo]


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [(_Forgets(), "in no launch"), (_Wavers(), "another plan"), (_IgnoresLinks(), "no such link")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_conformance_catches(scheduler, says):
    with pytest.raises(SchedulerError, match=says):
        check_scheduler(scheduler)


def test_unknown_names_get_the_nearest():
    with pytest.raises(SchedulerError, match="did you mean 'heft'"):
        make_scheduler("hefd")
    with pytest.raises(SchedulerError, match="names no device"):
        make_scheduler("single:")


@pytest.mark.parametrize("budget", [{"budget_us": 0.0}, {"budget_us": -1.0}, {"evaluations": -3}])
def test_a_budget_of_nothing_is_refused(budget):
    with pytest.raises(SchedulerError, match="must be above 0"):
        make_scheduler("local-search", **budget)


def placement(name: str, graph, profile=None) -> dict[int, str]:
    launches = make_scheduler(name).schedule(graph, profile or two_cpus(), Plan())
    return Plan(tuple(launches)).placement()


#       6
#      / \
#     4   5
#    / \ / \      7…13 are the outputs of 0…6
#   0  1 2  3
TREE = [(), (), (), (), (0, 1), (2, 3), (4, 5)]
WITH_OUTPUTS = TREE + [(n,) for n in range(7)]
CELLS_OF = ["leaf"] * 4 + ["composer"] * 3 + ["output"] * 7


def test_split_left_right_as_in_the_paper():
    placed = placement("split-left-right", graph_of(WITH_OUTPUTS, cells=CELLS_OF))
    left = {task for task, device in placed.items() if device == "cpu:0"}
    assert left == {0, 1, 4, 7, 8, 11}


def test_split_left_right_without_outputs_and_on_a_chain():
    placed = placement("split-left-right", graph_of(TREE))
    assert {t for t, d in placed.items() if d == "cpu:0"} == {0, 1, 4}
    assert set(placement("split-left-right", graph_of([(), (0,), (1,)])).values()) == {"cpu:0"}


def test_split_state_output_as_in_the_paper():
    placed = placement("split-state-output", graph_of(WITH_OUTPUTS, cells=CELLS_OF))
    assert {t for t, d in placed.items() if d == "cpu:0"} == set(range(7))


def requests_of(*costs):
    """One chain of two tasks per request; its cost in µs per task."""
    tasks = []
    for number, cost in enumerate(costs):
        for step in range(2):
            inputs = (len(tasks) - 1,) if step else ()
            durations = {"cpu:0": 1000 * cost, "cpu:1": 2000 * cost}
            tasks.append(
                Task(id=len(tasks), cell="a", inputs=inputs, duration_ns=durations, request=number)
            )
    return TaskGraph.from_tasks("requests", [Cell("a")], tasks)


def test_split_requests_deals_whole_requests_by_cost_and_speed():
    """In µs: 9 goes to cpu:0 (18), 6 to cpu:1 (24), 5 to cpu:0 (28), 2 to it (32), 1 to cpu:1."""
    placed = placement("split-requests", requests_of(2, 9, 1, 6, 5))
    homes = [{placed[2 * request], placed[2 * request + 1]} for request in range(5)]
    assert homes == [{"cpu:0"}, {"cpu:0"}, {"cpu:1"}, {"cpu:1"}, {"cpu:0"}]


def test_a_request_that_has_begun_stays_on_its_device():
    graph, scheduler = requests_of(5, 5), make_scheduler("split-requests")
    begun = Plan((Launch("cpu:1", (0,)),))
    launches = scheduler.schedule(graph, two_cpus(), begun)
    assert (begun + launches).placement() == {0: "cpu:1", 1: "cpu:1", 2: "cpu:0", 3: "cpu:0"}


def find_root(graph):
    """The task with most ancestors, walking down while a task has a single input."""
    above = [frozenset()] * len(graph)
    for task in graph.topological_order:
        above[task] = frozenset((task,)).union(*(above[s] for s in graph.input_lists[task]))
    root = max(range(len(graph)), key=lambda task: (len(above[task]), -task))
    while len(set(graph.input_lists[root])) == 1:
        root = graph.input_lists[root][0]
    return root, above


def left_by_definition(graph):
    root, above = find_root(graph)
    if not graph.input_lists[root]:
        return set(range(len(graph)))
    chosen = set(above[graph.input_lists[root][0]])
    for task in graph.topological_order:
        row = graph.input_lists[task]
        if row and task != root and chosen.issuperset(row):
            chosen.add(task)
    return chosen


def test_root_is_not_the_output_that_hangs_on_it():
    assert find_root(graph_of(WITH_OUTPUTS, cells=CELLS_OF))[0] == 6


@given(st.integers(0, 10**9))
def test_left_sub_trees_are_as_defined(seed):
    rng = np.random.default_rng(seed)
    n_tasks = int(rng.integers(1, 150))
    rows = [
        tuple(rng.integers(0, task, size=int(rng.integers(0, 3))).tolist()) if task else ()
        for task in range(n_tasks)
    ]
    graph = graph_of(rows)
    for left in (left_of_roots(graph), left_of_many_roots(graph)):
        assert set(np.flatnonzero(left).tolist()) == left_by_definition(graph)


def test_inputs_in_flight_are_split_one_by_one():
    model = build_model("treelstm", {"input_dim": 4, "hidden_dim": 2})
    inputs = generate_inputs(model, 5, seed=1)
    parts = np.concatenate([left_of_roots(one.graph) for one in inputs]).tolist()
    whole = merge_inputs(inputs).graph
    assert left_of_roots(whole).tolist() == left_of_many_roots(whole).tolist() == parts


def test_a_surely_better_merging_needs_no_estimate(monkeypatch):
    model = build_model("treelstm", {"input_dim": 4, "hidden_dim": 2})
    graph = merge_inputs(generate_inputs(model, 8, seed=1)).graph
    curve = Curve((1, 16), (10**6, 2 * 10**6))
    cells = {cell: {"cpu:0": curve, "cpu:1": curve} for cell in graph.cell_names}
    profile = Profile(two_cpus().cluster, cells)
    monkeypatch.setattr(merging, "_better", None)
    launches = make_scheduler("split-left-right+merge").schedule(graph, profile, Plan())
    assert len(launches) < len(graph) / 2
    assert {launch.device for launch in launches} == {"cpu:0", "cpu:1"}
    check_plan(graph, profile.cluster, Plan(tuple(launches)))


def test_split_goes_elsewhere_where_a_cell_cannot_run():
    profile = two_cpus()
    cells = dict(profile.cells) | {"output": {"cpu:0": Curve((1,), (1,))}}
    narrow = Profile(profile.cluster, cells, profile.dispatch)
    placed = placement("split-state-output", graph_of(WITH_OUTPUTS, cells=CELLS_OF), narrow)
    assert set(placed.values()) == {"cpu:0"}


def test_single_says_why_it_cannot():
    profile = two_cpus()
    cells = dict(profile.cells) | {"leaf": {"cpu:0": Curve((1,), (1,))}}
    with pytest.raises(SchedulerError, match=r"task 0 \(leaf\) cannot run on cpu:1, only on cpu:0"):
        placement("single:cpu:1", graph_of(TREE), Profile(profile.cluster, cells))


def test_best_single_takes_the_faster_device():
    assert set(placement("best-single", graph_of(TREE)).values()) == {"cpu:0"}


def test_random_depends_on_seed_and_content_only():
    def plan(seed, graph):
        return list(make_scheduler("random", seed=seed).schedule(graph, two_cpus(), Plan()))

    assert plan(0, tree_graph(6, 1)) == plan(0, tree_graph(6, 1))
    assert plan(0, tree_graph(6, 1)) != plan(1, tree_graph(6, 1))


# Topcuoglu et al. 2002, figure 1 and table 2: ten tasks, three processors.
HEFT_COST = [
    (14, 16, 9), (13, 19, 18), (11, 13, 19), (13, 8, 17), (12, 13, 10),
    (13, 16, 9), (7, 15, 11), (5, 11, 14), (18, 12, 20), (21, 7, 16),
]  # fmt: skip
HEFT_EDGE = {
    (0, 1): 18, (0, 2): 12, (0, 3): 9, (0, 4): 11, (0, 5): 14, (1, 7): 19, (1, 8): 16, (2, 6): 23,
    (3, 7): 27, (3, 8): 23, (4, 8): 13, (5, 7): 15, (6, 9): 17, (7, 9): 11, (8, 9): 13,
}  # fmt: skip


def textbook():
    """The example; an output has one size here, so an edge costs the mean of its task's edges."""

    names = ("p1", "p2", "p3")
    out = {t: [c for (a, _), c in HEFT_EDGE.items() if a == t] for t in range(10)}
    tasks = [
        Task(
            id=t,
            cell="task",
            inputs=tuple(a for a, b in HEFT_EDGE if b == t),
            output_bytes=round(sum(out[t]) / len(out[t])) if out[t] else 0,
            duration_ns=dict(zip(names, HEFT_COST[t], strict=True)),
        )
        for t in range(10)
    ]
    links = [Link(a, b, AffineCost(0, 10**9)) for a in names for b in names if a != b]
    cluster = Cluster(tuple(Device(name, "cpu") for name in names), tuple(links))
    return TaskGraph.from_tasks("heft", [Cell("task")], tasks), Profile(cluster, {})


def test_ranks_of_the_textbook_example():
    graph, profile = textbook()
    cost = mean_costs(Prices(PricedGraph(graph, profile)))
    up = upward_ranks(graph, cost, lambda a, b: HEFT_EDGE[a, b])
    # Topcuoglu et al. 2002, table 4.
    expected = [108, 77, 80, 80, 69, 63.333, 42.667, 35.667, 44.333, 14.667]
    assert up == pytest.approx(expected, abs=1e-3)
    down = downward_ranks(graph, cost, lambda a, b: HEFT_EDGE[a, b])
    assert down == pytest.approx([0, 31, 25, 22, 24, 27, 62.333, 66.667, 63.667, 93.333], abs=0.01)


def test_heft_on_the_textbook_example():
    """80 in the paper; 89 here: no insertion, one size per output, and links are contended."""
    graph, profile = textbook()
    makespan_ns = run(SimBackend(profile), GraphWorkload(graph), Heft()).trace.makespan_ns
    assert makespan_ns == 89


def test_cpop_keeps_the_critical_path_on_one_device():
    """0 → 2 → 3 is critical, 1 hangs on the side and may go elsewhere."""
    graph = graph_of([(), (0,), (0,), (2,)], cells=["leaf", "output", "composer", "composer"])
    placed = placement("cpop", graph)
    assert {placed[task] for task in (0, 2, 3)} == {"cpu:0"}


def test_optimistic_costs_of_a_chain():
    """PEFT's table: after leaf 0 the composer costs 60 µs at best, 60 + transfer from cpu:1."""
    facts = Facts(graph_of([(), (0,)]), two_cpus(dispatch=Dispatch()))
    assert optimistic_costs(facts) == [[60_000, 68_120], [0, 0]]


@pytest.mark.parametrize("scheduler", every_scheduler(), ids=lambda s: s.name)
def test_swapping_the_hidden_part_changes_no_earlier_decision(scheduler):
    def first_choices(hidden_inputs, reveals):
        graph = graph_of([(), (0,), (0,), (1, 2), *hidden_inputs], reveals=reveals)
        with SimBackend(two_cpus()).open(GraphWorkload(graph)) as session:
            return list(scheduler.schedule(session.graph, two_cpus(), session.plan))

    few = first_choices([(3,)], {4: 3})
    many = first_choices([(1,), (2,), (4, 5), (6,)], {4: 3, 5: 3, 6: 3, 7: 3})
    assert few == many
    assert few


def test_registry_needs_neither_torch_nor_gymnasium():
    code = """
import sys
from pathlib import Path
from dynpartition import Plan
from dynpartition.agent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dynpartition.agent.policy import Policy
from dynpartition.agent.registry import make_scheduler
from tests.agent.worlds import tree_graph, two_cpus
folder = Path(sys.argv[1]) / "policy"
save_checkpoint(folder, Checkpoint(Policy.untrained()))
for name in ("policy", "heft", "best-of-heuristics"):
    make_scheduler(name, policy=folder).schedule(tree_graph(3, 0), two_cpus(), Plan())
loaded = {"torch"} & set(sys.modules)
assert not loaded, loaded
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_refuge_keeps_plans_out_of_dead_ends():
    """cpu:0 → cpu:1 only: once something is on cpu:1, cpu:0 can read it no more."""
    profile = two_cpus()
    cluster = type(profile.cluster)(profile.cluster.devices, profile.cluster.links[:1])
    one_way = Profile(cluster, profile.cells)
    for seed in range(10):
        scheduler = make_scheduler("random", seed=seed)
        try:
            run(SimBackend(one_way), GraphWorkload(graph_of(TREE)), scheduler)
        except PlanError as error:
            pytest.fail(str(error))


def flattened(curve: Curve) -> Curve:
    """A second task costs a microsecond, and so does every further one."""
    return Curve((1, 2), (curve.at(1), curve.at(1) + 1_000))


def test_merging_is_taken_where_the_curve_says_that_it_pays():
    profile, graph = two_cpus(), tree_graph(8, 1)
    cells = {n: {d: flattened(c) for d, c in row.items()} for n, row in profile.cells.items()}
    cheap = replace(profile, cells=cells)
    together = make_scheduler("best-single+merge").schedule(graph, cheap, Plan())
    alone = make_scheduler("best-single").schedule(graph, cheap, Plan())
    assert len(together) < len(alone) == len(graph)
    spans = [simulate(graph, cheap, Plan(tuple(p))).makespan_ns for p in (together, alone)]
    assert spans[0] < 0.5 * spans[1]


def test_merging_is_never_worse_by_the_estimate():
    profile, graph = two_cpus(), tree_graph(8, 1)  # k tasks cost k times as much: it cannot pay
    facts = Facts(graph, profile)
    kept, heft = (
        Plan(tuple(make_scheduler(name).schedule(graph, profile, Plan())))
        for name in ("heft+merge", "heft")
    )
    spans = [PartialPlan(facts, plan).estimate.makespan_ns for plan in (kept, heft)]
    assert spans[0] <= spans[1]


def test_a_suffix_alone_is_no_scheduler():
    with pytest.raises(SchedulerError, match="no scheduler is named 'hft'"):
        make_scheduler("hft+merge")


def test_a_cache_asks_once_per_content_and_profile():
    class Counting(Scheduler):
        name = "counting"
        count = 0

        def schedule(self, graph, profile, planned):
            self.count += 1
            return make_scheduler("heft").schedule(graph, profile, planned)

    inner, profile = Counting(), two_cpus()
    cached = Caching(inner, size=2)
    first = cached.schedule(tree_graph(5, 1), profile, Plan())
    assert cached.schedule(tree_graph(5, 1), profile, Plan()) == first
    assert inner.count == 1
    for leaves in (6, 7):  # makes room
        cached.schedule(tree_graph(leaves, 1), profile, Plan())
    assert cached.schedule(tree_graph(5, 1), profile, Plan()) == first
    assert inner.count == 4
    cached.schedule(tree_graph(5, 1), two_cpus(), Plan())
    assert inner.count == 5
    cached.schedule(tree_graph(5, 1), profile, Plan((Launch("cpu:0", (0,)),)))
    assert inner.count == 6


def test_two_sums_bound_the_estimate_of_merged_plans():
    """Where they tell that merging pays, the estimate of the merged plan is within the bound."""
    model = build_model("treelstm", {"input_dim": 4, "hidden_dim": 2})
    curve = Curve((1, 16), (10**6, 2 * 10**6))
    for seed in range(5):
        graph = merge_inputs(generate_inputs(model, 4, seed=seed)).graph
        cells = {cell: {"cpu:0": curve, "cpu:1": curve} for cell in graph.cell_names}
        profile = Profile(two_cpus().cluster, cells, Dispatch(bookkeeping_ns=1000))
        priced, inner = PricedGraph(graph, profile), make_scheduler("split-left-right")
        choices = inner.place(priced, Plan())
        launches = make_scheduler("split-left-right+merge").schedule(graph, profile, Plan())
        facts = Facts(graph, profile)
        estimate_ns = PartialPlan(facts, Plan(tuple(launches))).estimate.makespan_ns
        index = profile.cluster.index
        sums_ns = [priced.compute_ns(one.tasks, index(one.device)) for one in launches]
        bound_ns = sum(sums_ns) + 1000 * len(graph) + merging._transfers_ns(priced, choices)
        assert estimate_ns <= bound_ns
