"""Plans evaluated from arrays have the makespans that simulating them one by one gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dynpartition import PricedGraph, TaskGraph
from dynpartition.agent.synthetic import synthetic_workloads
from dynpartition.cluster import TableCost
from dynpartition.conditions import Conditions
from dynpartition.contract import INFEASIBLE_NS, Backend, CompletePlan
from dynpartition.errors import OutOfDeviceMemory, PlanError, ProfileError
from dynpartition.formats import load_shipped
from dynpartition.plan import Plan, chosen_launches
from dynpartition.profile import Dispatch, HostMode, Noise, Profile
from dynpartition.sim import SimBackend, evaluate, kernel
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.sim.prepared import PreparedGraph
from dynpartition.sim.reference import simulate
from dynpartition.sim.worlds import random_world
from dynpartition.types import IntArray, frozen


def plainly(graph: TaskGraph, profile: Profile) -> tuple[TaskGraph, Profile]:
    """Take away what compiled lowering leaves to Python."""
    count = len(graph)
    graph = replace(graph, arrival_ns=frozen([0] * count), revealed_by=frozen([-1] * count))
    devices = tuple(
        replace(device, memory_bytes=None, resident=None) for device in profile.cluster.devices
    )
    dispatch = profile.dispatch
    kept = Dispatch(
        bookkeeping_ns=dispatch.bookkeeping_ns,
        copy_in=dispatch.copy_in,
        copy_out=dispatch.copy_out,
    )
    cluster = replace(profile.cluster, devices=devices)
    return graph, replace(profile, cluster=cluster, dispatch=kept, noise=None)


def random_plan(graph: TaskGraph, n_devices: int, random: np.random.Generator) -> IntArray:
    order: list[int] = []
    while len(order) < len(graph):
        ready = [
            task
            for task in range(len(graph))
            if task not in order and set(graph.input_lists[task]) <= set(order)
        ]
        order.append(int(random.choice(ready)))
    return np.stack([np.array(order), random.integers(0, n_devices, len(graph))], axis=1)


def batched(choices: IntArray, graph: TaskGraph, random: np.random.Generator) -> IntArray:
    """Return the plan with launches of several tasks, not all of them legal."""
    rows = np.concatenate([choices, np.zeros((len(choices), 1), dtype=np.int64)], axis=1)
    for before, row in pairwise(rows):
        if graph.cell_of[before[0]] == graph.cell_of[row[0]] and random.random() < 0.7:
            row[2] = 1
            if random.random() < 0.95:
                row[1] = before[1]
    return rows


def as_plan(choices: IntArray, profile: Profile) -> Plan:
    return Plan(tuple(chosen_launches(choices, profile.cluster.names)))


def makespan(graph: TaskGraph, profile: Profile, plan: Plan) -> int | None:
    try:
        return simulate(graph, profile, plan).makespan_ns
    except (PlanError, ProfileError):
        return None


def test_plain_worlds_are_lowered_in_compiled_code_to_the_same_makespans() -> None:
    random = np.random.default_rng(0)
    checked = 0
    for seed in range(400):
        world = random_world(seed)
        graph, profile = plainly(world.graph, world.profile)
        prepared = PreparedGraph(PricedGraph(graph, profile))
        assert prepared.is_quick
        count = len(profile.cluster.devices)
        plans = [random_plan(graph, count, random) for _ in range(4)]
        expected = [makespan(graph, profile, as_plan(plan, profile)) for plan in plans]
        legal = [plan for plan, ns in zip(plans, expected, strict=True) if ns is not None]
        found = evaluate_many([prepared] * len(legal), legal, profile)
        assert found.tolist() == [ns for ns in expected if ns is not None], f"seed {seed}"
        checked += len(legal)
    assert checked > 800


HOST_MODES: tuple[HostMode, ...] = ("none", "single", "threads", "processes", "replay")


def hosted(profile: Profile, mode: HostMode, random: np.random.Generator) -> Profile:
    """Return the profile with a host mode and costs of the host, some of them 0."""
    h_copy, handoff_ns, h = random.integers(0, 4, 3).tolist()
    dispatch = replace(
        profile.dispatch,
        host_mode=mode,
        h={"a": 7, profile.cluster.names[-1]: 3} if random.random() < 0.3 else h,
        h_copy=h_copy,
        lock=float(random.choice([0.0, 0.3, 1.0])),
        handoff_ns=handoff_ns,
        queue_depth=int(random.integers(1, 4)) if random.random() < 0.5 else None,
    )
    return replace(profile, dispatch=dispatch)


@pytest.mark.parametrize("mode", HOST_MODES)
def test_plans_with_hosts_are_lowered_in_compiled_code_too(mode: HostMode) -> None:
    random = np.random.default_rng(HOST_MODES.index(mode))
    checked = 0
    for seed in range(200):
        world = random_world(seed)
        graph, profile = plainly(world.graph, world.profile)
        profile = hosted(profile, mode, random)
        prepared = PreparedGraph(PricedGraph(graph, profile))
        assert prepared.is_quick
        count = len(profile.cluster.devices)
        plans = [random_plan(graph, count, random) for _ in range(4)]
        expected = [makespan(graph, profile, as_plan(plan, profile)) for plan in plans]
        legal = [plan for plan, ns in zip(plans, expected, strict=True) if ns is not None]
        found = evaluate_many([prepared] * len(legal), legal, profile)
        assert found.tolist() == [ns for ns in expected if ns is not None], f"seed {seed}"
        checked += len(legal)
    assert checked > 400


@pytest.mark.parametrize("mode", HOST_MODES)
def test_batches_are_lowered_in_compiled_code_too(mode: HostMode) -> None:
    """Links with tables, own durations, curves, first uses, legal and illegal launches."""
    random = np.random.default_rng([HOST_MODES.index(mode), 1])
    outcomes = {"legal": 0, "illegal": 0, "split": 0}
    for seed in range(200):
        world = random_world(seed)
        graph, profile = plainly(world.graph, world.profile)
        profile = hosted(profile, mode, random)
        first_use_ns = {cell: {profile.cluster.names[0]: 5} for cell in profile.cells}
        dispatch = replace(profile.dispatch, first_use_ns=first_use_ns)
        profile = replace(profile, dispatch=dispatch)
        prepared = PreparedGraph(PricedGraph(graph, profile))
        assert prepared.is_quick
        count = len(profile.cluster.devices)
        plans = [batched(random_plan(graph, count, random), graph, random) for _ in range(6)]
        found = evaluate.Evaluator().makespans_ns([prepared] * len(plans), plans)
        for plan, found_ns in zip(plans, found.tolist(), strict=True):
            joins = plan[1:, 2] == 1
            if (np.diff(plan[:, 1])[joins] != 0).any():
                assert found_ns == -1  # one launch on several devices
                outcomes["split"] += 1
                continue
            expected_ns = makespan(graph, profile, as_plan(plan, profile))
            assert found_ns == (-1 if expected_ns is None else expected_ns), f"seed {seed}"
            outcomes["illegal" if expected_ns is None else "legal"] += joins.any()
    assert min(outcomes.values()) > 20, outcomes


def test_many_plans_reuse_the_same_tables() -> None:
    """More plans than one compiled call takes, for graphs of several sizes."""
    random = np.random.default_rng(2)
    profile = hosted(plainly(random_world(0).graph, random_world(0).profile)[1], "threads", random)
    graphs, plans, expected = [], [], []
    for seed in range(300):
        graph = plainly(random_world(seed).graph, profile)[0]
        plan = random_plan(graph, len(profile.cluster.devices), random)
        makespan_ns = makespan(graph, profile, as_plan(plan, profile))
        if makespan_ns is not None:
            graphs.append(graph)
            plans.append(plan)
            expected.append(makespan_ns)
    assert len(plans) > 64
    assert evaluate_many(graphs, plans, profile).tolist() == expected


def test_an_evaluator_prices_the_same_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of several sizes and merged transfers come and go, more of them than it keeps."""
    monkeypatch.setattr(evaluate, "_VALUES_MAX", 3_000)
    monkeypatch.setattr(evaluate, "_WANTED_MAX", 1)
    monkeypatch.setattr(evaluate, "_MERGED_MAX", 2)
    monkeypatch.setattr(evaluate, "_ROOM_MAX", 200)
    random = np.random.default_rng(3)
    profile = hosted(plainly(random_world(0).graph, random_world(0).profile)[1], "single", random)
    cost = TableCost(((1, 3), (8, 11), (64, 40)))  # merged transfers are priced in Python
    links = tuple(replace(link, cost=cost) for link in profile.cluster.links)
    profile = replace(profile, cluster=replace(profile.cluster, links=links))
    graphs, prepared = [], []
    for seed in range(150):
        graph = plainly(random_world(seed).graph, profile)[0]
        with suppress(ProfileError):  # its tasks know other devices
            prepared.append(PreparedGraph(PricedGraph(graph, profile)))
            graphs.append(graph)
    evaluator = evaluate.Evaluator()
    checked = 0
    for _ in range(60):
        chosen = random.integers(len(graphs), size=int(random.integers(1, 5))).tolist()
        plans = [random_plan(graphs[n], len(profile.cluster.devices), random) for n in chosen]
        plans[1:] = [
            batched(plan, graphs[n], random) for n, plan in zip(chosen[1:], plans[1:], strict=True)
        ]
        expected = [
            makespan(graphs[n], profile, as_plan(plan, profile))
            for n, plan in zip(chosen, plans, strict=True)
        ]
        if None not in expected:
            found = evaluate_many(
                [prepared[n] for n in chosen], plans, profile, evaluator=evaluator
            )
            assert found.tolist() == expected
            checked += len(plans)
    assert checked > 30


def test_other_worlds_are_evaluated_too() -> None:
    infeasible = 0
    for seed in range(300):
        world = random_world(seed)
        try:
            trace = simulate(world.graph, world.profile, world.plan, conditions=world.conditions)
            expected = trace.makespan_ns
        except OutOfDeviceMemory:
            expected = INFEASIBLE_NS
            infeasible += 1
        found = evaluate_many(
            [world.graph], [world.plan], world.profile, conditions=world.conditions
        )
        assert found.tolist() == [expected], f"seed {seed}"
    assert infeasible


def test_plans_for_several_graphs_of_one_profile_share_a_call() -> None:
    random = np.random.default_rng(1)
    first = random_world(0)
    graph, profile = plainly(first.graph, first.profile)
    longer = plainly(random_world(3).graph, profile)[0]
    graphs = [graph, longer, graph]
    try:
        plans = [random_plan(one, 1, random) for one in graphs]
        expected = [
            simulate(one, profile, as_plan(plan, profile)).makespan_ns
            for one, plan in zip(graphs, plans, strict=True)
        ]
    except (PlanError, ProfileError):
        pytest.skip("the worlds of these seeds have changed")
    assert evaluate_many(graphs, plans, profile).tolist() == expected


def test_a_batch_in_arrays_is_a_launch() -> None:
    world = next(
        world
        for world in map(random_world, range(500))
        if any(len(launch.tasks) > 1 for launch in world.plan.launches)
    )
    graph, profile = plainly(world.graph, world.profile)
    index = profile.cluster.index
    rows = [
        (task, index(launch.device), task != launch.tasks[0])
        for launch in world.plan.launches
        for task in launch.tasks
    ]
    expected = simulate(graph, profile, world.plan).makespan_ns
    assert evaluate_many([graph], [np.array(rows, dtype=np.int64)], profile).tolist() == [expected]


def test_choices_may_be_any_integers_in_any_layout() -> None:
    random = np.random.default_rng(5)
    graph, profile = plainly(random_world(0).graph, random_world(0).profile)
    prepared = PreparedGraph(PricedGraph(graph, profile))
    plan = random_plan(graph, len(profile.cluster.devices), random)
    expected = evaluate_many([prepared], [plan], profile).tolist()
    versions = len(kernel.lower_plans.signatures)
    for other in (plan.astype(np.int32), np.asfortranarray(plan), plan.astype(np.uint8)):
        assert evaluate_many([prepared], [other], profile).tolist() == expected
    assert len(kernel.lower_plans.signatures) == versions


def test_an_illegal_plan_is_the_error_of_the_slow_path() -> None:
    world = next(
        world
        for world in map(random_world, range(500))
        if any(world.graph.input_lists) and len(world.profile.cluster.devices) > 1
    )
    graph, profile = plainly(world.graph, world.profile)
    order = np.array(graph.topological_order)[::-1]
    plan = np.stack([order, np.zeros_like(order)], axis=1)
    with pytest.raises(PlanError, match="is not launched before"):
        evaluate_many([graph], [plan], profile)


@pytest.mark.parametrize("noise", [None, Noise(sigma=((1_000, 0.2), (100_000, 0.05)))])
def test_a_backend_prices_plans_as_its_sessions_run_them(noise: Noise | None) -> None:
    random = np.random.default_rng(4)
    profile = replace(load_shipped("synthetic-cpu-2gpu"), noise=noise)
    backend = SimBackend(profile, conditions=Conditions(seed=3))
    plans = []
    for workload in synthetic_workloads(profile, 6, 0):
        order = np.array(workload.graph.topological_order)
        devices = random.integers(len(profile.cluster.devices), size=len(order))
        choices = np.stack([order, devices], axis=1)
        plans.append(CompletePlan(workload, workload.graph, choices))
    priced = backend.makespans_ns(plans)
    assert priced.tolist() == Backend.makespans_ns(backend, plans).tolist()
