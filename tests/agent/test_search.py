"""The search engine: prices are the simulator's, and no result is worse than its starts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import Launch, Plan
from dynpartition.agent import search_kernel as kernel
from dynpartition.agent import simulated_search
from dynpartition.agent.facts import Facts
from dynpartition.agent.families import FAMILIES, Ranges, Setting, draw_setting, draw_world
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.machines import Machine
from dynpartition.agent.registry import heuristics, make_scheduler
from dynpartition.agent.search import Budget, improve, launches_of, problem_of
from dynpartition.contract import INFEASIBLE_NS, GraphWorkload, run
from dynpartition.errors import DynPartitionError, OutOfDeviceMemory
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.reference import simulate
from dynpartition.sim.worlds import random_world
from dynpartition.validator import check_trace
from tests.agent.worlds import run_uncompiled


def random_plan(graph, profile, problem, rng, joined=0.0):
    """Any topological order, any device that can, marks anywhere."""
    missing = [len(set(row)) for row in graph.input_lists]
    ready = [task for task, count in enumerate(missing) if not count]
    order = []
    while ready:
        task = ready.pop(int(rng.integers(len(ready))))
        order.append(task)
        for reader in graph.reader_lists[task]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    run_ns = problem.lists.run_ns
    device = [int(rng.choice(np.flatnonzero(row >= 0))) for row in run_ns]
    marks = rng.random(len(graph)) < joined
    if joined and rng.random() < 0.7:  # few devices and neighbours of one cell: more batches
        device = [min(np.flatnonzero(row >= 0)) for row in run_ns]
    return np.array([order, device, marks], dtype=np.int64)


def makespan_ns(graph, profile, plan):
    """What the reference simulator says."""
    launches = [Launch(profile.cluster.names[d], tasks) for d, tasks in launches_of(plan)]
    return simulate(graph, profile, Plan(tuple(launches))).makespan_ns


def with_first_uses(graph, profile, rng):
    """Let first launches of some cells on some devices take longer."""
    uses = {
        cell.name: {name: int(rng.integers(0, 3)) * 100 for name in profile.cluster.names}
        for cell in graph.cells
        if rng.random() < 0.7
    }
    return replace(profile, dispatch=replace(profile.dispatch, first_use_ns=uses))


SEARCHABLE = ("arrivals", "memory", "resident lists", "reveals", "noise")
"""Switches of random worlds that the compiled search leaves to the simulator."""
MERGING = ("link tables", "own durations")
"""Switches that keep it from merging tasks."""


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10**9), st.booleans(), st.sampled_from([0.0, 0.6]))
def test_prices_are_the_simulators_on_hostile_worlds(seed, merging, joined):
    """Shared buses, absent links, blocking copies, staging, host inputs, answers, zero lengths."""
    without = (*SEARCHABLE, *(MERGING if merging else ()))
    world = random_world(seed, tasks_max=14, without=without)
    graph, profile = world.graph, world.profile
    if seed % 2:
        profile = with_first_uses(graph, profile, np.random.default_rng(seed))
    try:
        Facts(graph, profile)
    except DynPartitionError:
        return
    lists = list_graph(graph, profile)
    problem = lists and problem_of(lists)
    if problem is None:
        return
    plan = random_plan(graph, profile, problem, np.random.default_rng(seed), joined)
    found = int(problem.makespans_ns(plan[None])[0])
    if found == kernel.ILLEGAL:
        plan[kernel.JOINED] = 0
        with pytest.raises(DynPartitionError):
            makespan_ns(graph, profile, plan)
    else:
        assert found == makespan_ns(graph, profile, problem.unmarked(plan))


RANGES = Ranges(n_tasks=(1, 70), n_devices=(1, 8), host_data_share=0.5, batch_share=0.5)


def drawn(seed):
    rng = np.random.default_rng(seed)
    graph, profile = draw_world(draw_setting(RANGES, rng), rng)
    return graph, profile, problem_of(list_graph(graph, profile)), rng


@pytest.mark.parametrize("seed", range(20))
def test_prices_are_the_simulators_on_drawn_worlds(seed):
    graph, profile, problem, rng = drawn(seed)
    for joined in (0.0, 0.3, 0.9):
        plan = random_plan(graph, profile, problem, rng, joined)
        expected = makespan_ns(graph, profile, problem.unmarked(plan))
        assert problem.makespans_ns(plan[None]).tolist() == [expected]


def loads_of(problem, plan):
    walk = problem.walk(plan, 0)
    problem.go_on(walk, 1)
    return walk.load_ns


@pytest.mark.parametrize("seed", range(30))
def test_bounds_by_which_plans_are_given_up_are_bounds(seed):
    """Loads of devices, and paths through tasks where they are."""
    graph, profile, problem, rng = drawn(seed)
    if problem.arrays.has_batches:
        return
    plan = random_plan(graph, profile, problem, rng)
    (makespan_ns,) = problem.makespans_ns(plan[None]).tolist()
    assert loads_of(problem, plan).max() <= makespan_ns
    q = problem.arrays
    alone_ns = q.run_ns[np.arange(len(graph)), plan[kernel.DEVICE]]
    assert (q.above_ns + alone_ns + q.below_ns).max() <= makespan_ns
    # On one device of equal tasks both are as large as they can be.
    if profile.cluster.devices and not graph.host_bytes.any() and not graph.returns.any():
        alone = problem.start(problem.lists.order, np.zeros(len(graph), dtype=np.int64))
        (one_ns,) = problem.makespans_ns(alone[None]).tolist()
        assert loads_of(problem, alone)[0] == one_ns


def test_loads_follow_what_is_moved_and_taken_back():
    graph, profile, problem, rng = drawn(3)
    walk = problem.walk(random_plan(graph, profile, problem, rng), 1)
    problem.go_on(walk, 1)
    for _ in range(300):
        kernel.propose_one(problem.arrays, walk)
        if rng.random() < 0.5:
            kernel.undo(problem.arrays, walk)
        expected = loads_of(problem, walk.plan)
        np.testing.assert_array_equal(walk.load_ns, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hot", [0.0, 0.05])
def test_a_search_ends_with_a_plan_that_is_what_it_says_and_no_worse_than_its_starts(family, hot):
    machine = Machine(wiring="bus", blocks=True, staging=True, batch_gain=0.5)
    setting = Setting(family=family, n_tasks=30, machine=machine, host_data=True)
    graph, profile = draw_world(setting, np.random.default_rng(2))
    problem = problem_of(list_graph(graph, profile))
    rng = np.random.default_rng(3)
    starts = np.stack([random_plan(graph, profile, problem, rng) for _ in range(3)])
    budget = Budget(evaluations=600)
    found = improve(problem, starts, budget, seed=1, hot=hot, cold=hot / 50, n_walks=2)
    assert found.makespan_ns < problem.makespans_ns(starts).min()
    assert found.n_evaluated == budget.spent <= 600
    assert makespan_ns(graph, profile, problem.unmarked(found.plan)) == found.makespan_ns


def test_marks_are_kept_where_launches_of_several_tasks_pay():
    machine = Machine(speeds=(1.0, 1.0), n_cpus=0, batch_gain=0.9)
    graph, profile = draw_world(
        Setting(family="independent", n_tasks=24, machine=machine), np.random.default_rng(1)
    )
    problem = problem_of(list_graph(graph, profile))
    start = problem.start(np.arange(24), np.arange(24) % 2)
    found = improve(problem, start[None], Budget(evaluations=5000), seed=1)
    launches = launches_of(problem.unmarked(found.plan))
    assert max(len(tasks) for _, tasks in launches) > 3
    assert found.makespan_ns < 0.7 * problem.makespans_ns(start[None])[0]


def test_one_seed_gives_one_result_and_more_evaluations_no_worse_one():
    setting = Setting(family="layered", n_tasks=40)
    graph, profile = draw_world(setting, np.random.default_rng(1))
    problem, rng = problem_of(list_graph(graph, profile)), np.random.default_rng(1)
    start = random_plan(graph, profile, problem, rng)[None]
    results = [
        improve(problem, start, Budget(evaluations=n), seed=seed)
        for n, seed in ((300, 1), (300, 1), (300, 2), (3000, 1))
    ]
    np.testing.assert_array_equal(results[0].plan, results[1].plan)
    assert results[0].makespan_ns == results[1].makespan_ns >= results[3].makespan_ns
    assert (results[0].plan != results[2].plan).any()


def test_a_limit_only_cuts_off_what_is_above_it():
    """Plans that a search refuses early are really slower: the limit is a bound, no guess."""
    for seed in range(8):
        graph, profile, problem, rng = drawn(seed)
        plans = [random_plan(graph, profile, problem, rng, joined=0.3) for _ in range(20)]
        exact = problem.makespans_ns(np.stack(plans))
        for limit_ns in np.quantile(exact, [0.2, 0.5]).astype(int).tolist():
            for plan, makespan in zip(plans, exact.tolist(), strict=True):
                assert problem.is_within(plan, limit_ns) == (makespan <= limit_ns)


def test_no_legal_start_is_no_result():
    graph, profile, problem, rng = drawn(1)
    start = random_plan(graph, profile, problem, rng)
    start[kernel.ORDER] = start[kernel.ORDER][::-1].copy()
    start[kernel.ORDER, 0] = start[kernel.ORDER, -1]
    assert improve(problem, start[None], Budget(evaluations=10)) is None


ALL_MODES = ("none", "single", "threads", "processes", "replay")


@pytest.mark.parametrize("name", ["local-search", "annealing"])
@pytest.mark.parametrize("seed", range(8))
def test_schedulers_that_search_are_never_slower_than_the_heuristics(name, seed):
    """In the simulator, hosts and scarce memory included."""
    rng = np.random.default_rng(seed)
    ranges = Ranges(n_tasks=(8, 24), host_modes=ALL_MODES, batch_share=0.5, host_data_share=0.5)
    graph, profile = draw_world(draw_setting(ranges, rng), rng)

    def run_ns(scheduler):
        try:
            return run(SimBackend(profile), GraphWorkload(graph), scheduler).trace.makespan_ns
        except OutOfDeviceMemory:
            return INFEASIBLE_NS

    heuristic_ns = min(run_ns(member) for member in heuristics())
    assert run_ns(make_scheduler(name, evaluations=300, seed=seed)) <= heuristic_ns


def test_a_search_where_weights_come_and_go_finds_a_better_plan():
    machine = Machine(memory_share=0.4, ratio=0.3, wiring="bus")
    setting = Setting(family="moe", n_tasks=24, machine=machine, host_data=True)
    graph, profile = draw_world(setting, np.random.default_rng(4))
    backend, workload = SimBackend(profile), GraphWorkload(graph)
    before, after = (
        run(backend, workload, make_scheduler(name, evaluations=2000)).trace.makespan_ns
        for name in ("best-of-heuristics", "local-search")
    )
    assert after < before


@pytest.mark.parametrize("seed", range(4))
def test_what_is_under_way_is_left_alone_when_more_is_revealed(seed):
    setting = Setting(family="moe", n_tasks=24, reveals=True, machine=Machine(wiring="bus"))
    graph, profile = draw_world(setting, np.random.default_rng(seed))
    scheduler = make_scheduler("local-search", evaluations=400)
    outcome = run(SimBackend(profile), GraphWorkload(graph), scheduler)
    check_trace(outcome.graph, profile, outcome.plan, outcome.trace, exact_durations=True)


def test_with_no_time_to_compare_plans_the_policy_decides_alone(monkeypatch):
    """Where a price takes longer than the decision may; later it is tried again."""
    profile = load_shipped("small-cpu")
    (workload, *_) = generate_inputs(build_model("moe"), 1, seed=3)
    assert workload.graph.revealers
    scheduler = make_scheduler("policy-search", budget_us=1000.0)
    scheduler._pace.us_per_task = 1e6
    monkeypatch.setattr(simulated_search._Pricer, "price_ns", None)  # calling it would fail
    backend = SimBackend(profile)
    expected = run(backend, workload, make_scheduler("policy")).trace
    assert run(backend, workload, scheduler).trace == expected
    assert 0 < scheduler._pace.us_per_task < 1e6
    scheduler._pace.us_per_task = 0.0
    with pytest.raises(TypeError, match="not callable"):
        run(backend, workload, scheduler)


def test_a_budget_of_time_is_kept():
    """Not to the microsecond, for the machine may be busy: it ends, and has done something."""
    setting = Setting(family="layered", n_tasks=40)
    graph, profile = draw_world(setting, np.random.default_rng(1))
    problem = problem_of(list_graph(graph, profile))
    start = random_plan(graph, profile, problem, np.random.default_rng(1))
    found = improve(problem, start[None], Budget(time_us=3000))
    assert 8 < found.n_evaluated < 100_000
    spent = improve(problem, start[None], Budget(time_us=0.0))
    assert spent.n_evaluated == 1
    assert spent.makespan_ns == problem.makespans_ns(start[None])[0]


PROGRAM = """
import numpy as np
from tests.agent.test_search import drawn, improve, Budget, random_plan
for seed in (3, 4):
    graph, profile, problem, rng = drawn(seed)
    start = random_plan(graph, profile, problem, rng)[None]
    found = improve(problem, start, Budget(evaluations=60), seed=1, hot=0.05, cold=0.01)
    print(found.makespan_ns, found.plan.sum())
"""


def test_the_source_finds_the_same_without_compilation():
    outputs = [run_uncompiled(PROGRAM, disabled=each) for each in "01"]
    assert outputs[0] == outputs[1] != ""
