"""CP-SAT's bound and the plans of `optimal` against brute force."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest

from dynpartition import AffineCost, Cluster, Plan
from dynpartition.agent import optimal
from dynpartition.agent import search_kernel as kernel
from dynpartition.agent.conformance import check_scheduler
from dynpartition.agent.facts import Facts
from dynpartition.agent.families import Setting, draw_world
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.machines import Machine
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.search import problem_of
from dynpartition.contract import INFEASIBLE_NS, GraphWorkload, run
from dynpartition.errors import DynPartitionError, OutOfDeviceMemory, SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.sim.worlds import random_world

pytest.importorskip("ortools", reason="the extra 'optimal' is not installed")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    """What is not proven soon is not proven in these tests."""
    monkeypatch.setattr(optimal, "TIME_S", 1.0)


EASY = ("arrivals", "memory", "resident lists", "reveals", "noise", "huge numbers")


def topological_orders(graph, placed=()):
    if len(placed) == len(graph):
        yield placed
        return
    for task in range(len(graph)):
        if task not in placed and set(graph.input_lists[task]) <= set(placed):
            yield from topological_orders(graph, (*placed, task))


def chosen(order, device):
    """Choices: tasks in order, each on its device."""
    return np.stack([order, device[order]], axis=1)


def brute_force_ns(graph, profile, problem):
    """The shortest makespan of all plans of one task per launch, by the simulator."""
    able = [np.flatnonzero(row >= 0).tolist() for row in problem.lists.run_ns]
    places = np.array(list(itertools.product(*able)), dtype=np.int64)
    orders = [np.array(order, dtype=np.int64) for order in topological_orders(graph)]
    # A plan that lacks a link lacks it in every order.
    first = np.stack([problem.start(orders[0], device) for device in places])
    places = places[problem.makespans_ns(first) < kernel.NEVER]
    plans = [chosen(order, device) for order in orders for device in places]
    return int(evaluate_many([graph] * len(plans), plans, profile).min())


def solved(graph, profile, seed=0):
    scheduler = make_scheduler("optimal", evaluations=4000, seed=seed)
    launches = scheduler.schedule(graph, profile, Plan())
    proof = scheduler.proof
    assert proof.makespan_ns == evaluate_many([graph], [Plan(tuple(launches))], profile)[0]
    return proof


def worlds(count, without=EASY):
    """Small hostile worlds that someone can serve, every one of them with host mode `none`."""
    found = 0
    for seed in itertools.count():
        world = random_world(seed, tasks_max=5, devices_max=3, without=without)
        try:
            Facts(world.graph, world.profile)
            make_scheduler("heft").schedule(world.graph, world.profile, Plan())
        except DynPartitionError:
            continue
        lists = list_graph(world.graph, world.profile)
        problem = lists and problem_of(lists)
        if problem is None or len(world.graph) < 3:
            continue
        yield seed, world.graph, world.profile, problem
        found += 1
        if found == count:
            return


def test_the_bound_is_below_and_the_plan_is_the_best_of_brute_force():
    equal = 0
    for seed, graph, profile, problem in worlds(60):
        best_ns = brute_force_ns(graph, profile, problem)
        proof = solved(graph, profile)
        assert proof.bound_ns <= best_ns, seed
        if problem.arrays.has_batches:
            assert proof.makespan_ns <= best_ns, seed
        else:
            assert proof.makespan_ns == best_ns, seed
        equal += proof.bound_ns == best_ns
    assert equal > 20  # most small worlds leave the order of transfers no choice


def without_contention(graph, profile):
    """The same, where nothing that travels takes time."""
    tasks = [replace(task, output_bytes=0, host_bytes=0) for task in graph.tasks()]
    links = tuple(replace(link, cost=AffineCost(0, 10**9)) for link in profile.cluster.links)
    cluster = Cluster(profile.cluster.devices, links, profile.cluster.host)
    free = TaskGraph.from_tasks(graph.name, graph.cells, tasks)
    return free, replace(profile, cluster=cluster)


def test_the_bound_is_the_optimum_where_nothing_contends():
    compared = 0
    for seed, graph, profile, _ in worlds(40, (*EASY, "host modes", "link tables")):
        free, machine = without_contention(graph, profile)
        problem = problem_of(list_graph(free, machine))
        if problem.arrays.has_batches:
            continue
        proof = solved(free, machine)
        best_ns = brute_force_ns(free, machine, problem)
        assert proof.bound_ns == proof.makespan_ns == best_ns, seed
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("mode", ["single", "threads", "processes", "replay"])
def test_the_bound_is_a_bound_with_every_host(mode):
    for seed in range(4):
        machine = Machine(speeds=(1.0, 2.0), host_mode=mode, host_share=0.4, wiring="bus")
        setting = Setting(family="layered", n_tasks=6, machine=machine, host_data=seed % 2 == 0)
        graph, profile = draw_world(setting, np.random.default_rng(seed))
        orders = list(itertools.islice(topological_orders(graph), 40))
        places = itertools.product(range(2), repeat=len(graph))
        plans = [
            chosen(np.array(order), np.array(device))
            for device, order in itertools.product(places, orders)
        ]
        best_ns = int(evaluate_many([graph] * len(plans), plans, profile).min())
        proof = solved(graph, profile)
        assert proof.bound_ns <= min(best_ns, proof.makespan_ns)


def test_the_bound_holds_for_batches():
    """Two tasks as one launch take 110 instead of 200: no bound that forgets it would be one."""
    machine = Machine(speeds=(1.0, 1.0), n_cpus=0, batch_gain=0.9)
    setting = Setting(family="independent", n_tasks=12, machine=machine)
    graph, profile = draw_world(setting, np.random.default_rng(1))
    proof = solved(graph, profile)
    alone = make_scheduler("heft").schedule(graph, profile, Plan())
    assert proof.bound_ns <= proof.makespan_ns
    assert proof.makespan_ns < 0.8 * evaluate_many([graph], [Plan(tuple(alone))], profile)[0]


def test_what_is_revealed_has_a_plan_and_no_bound_after_the_first():
    setting = Setting(family="moe", n_tasks=12, reveals=True)
    graph, profile = draw_world(setting, np.random.default_rng(1))
    scheduler = make_scheduler("optimal", evaluations=200, budget_us=200_000.0)
    run(SimBackend(profile), GraphWorkload(graph), scheduler)
    assert scheduler.proof is None


def test_conformance():
    assert check_scheduler(make_scheduler("optimal", evaluations=100)) >= 18


def test_a_missing_solver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    graph, profile = draw_world(Setting(n_tasks=4), np.random.default_rng(1))
    with pytest.raises(SchedulerError, match=r"pip install 'dynpartition\[optimal\]'"):
        make_scheduler("optimal").schedule(graph, profile, Plan())


def test_scarce_memory_does_not_confuse_the_bound():
    machine = Machine(memory_share=0.3, ratio=0.3)
    setting = Setting(family="moe", n_tasks=10, machine=machine)
    graph, profile = draw_world(setting, np.random.default_rng(4))
    scheduler = make_scheduler("optimal", evaluations=200)
    try:
        makespan_ns = run(SimBackend(profile), GraphWorkload(graph), scheduler).trace.makespan_ns
    except OutOfDeviceMemory:
        makespan_ns = INFEASIBLE_NS
    assert scheduler.proof.bound_ns <= makespan_ns == scheduler.proof.makespan_ns
