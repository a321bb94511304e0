"""Compiled list schedulers against their definitions in Python."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynpartition import Plan
from dynpartition.agent.facts import Facts
from dynpartition.agent.families import FAMILIES, Ranges, Setting, draw_setting, draw_world
from dynpartition.agent.holdings import cell_weights
from dynpartition.agent.list_tables import estimated_ns, list_graph
from dynpartition.agent.machines import Machine
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.registry import make_scheduler
from dynpartition.contract import GraphWorkload, Scheduler, run
from dynpartition.errors import DynPartitionError, SchedulerError
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.worlds import random_world
from tests.agent.worlds import can_be_scheduled, run_uncompiled, with_first_uses

COMPILED = (
    *("heft", "peft", "cpop", "min-min", "lookahead", "best-single"),
    *("split-left-right", "split-state-output", "split-requests", "best-of-heuristics"),
)


def answer(decide, *arguments):
    try:
        return list(decide(*arguments))
    except SchedulerError as error:
        return str(error)


def compare(graph, profile, planned=None):
    """Every scheduler decides as it is defined, or refuses with the same words."""
    for name in COMPILED:
        scheduler = make_scheduler(name)
        arguments = (graph, profile, planned or Plan())
        assert answer(scheduler.schedule, *arguments) == answer(scheduler.define, *arguments), name


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
@example(313696919)  # tasks that are planned before what reveals them
@example(10_004_993)  # launches that hold the lock for no time at all
@example(60_253)  # a split that wants a device which has no room for the weights
def test_on_random_hostile_worlds(seed):
    """Shared buses, absent links, missing costs, reveals, arrivals, staging, every host mode."""
    world = random_world(seed)
    if not can_be_scheduled(world):
        return
    profile = with_first_uses(world.profile, seed)
    compare(world.graph, profile)
    weights = cell_weights(world.graph.cells, profile)
    if weights is not None and any(
        weights.barred[
            world.graph.cell_of[launch.tasks[0]], world.profile.cluster.index(launch.device)
        ]
        for launch in world.plan.launches
    ):
        return  # such a plan has no end that could be estimated
    if list_graph(world.graph, profile) is not None:
        partial = PartialPlan.of(world.graph, profile, world.plan)
        estimated = estimated_ns(world.graph, profile, world.plan)
        assert estimated == partial.estimate.makespan_ns


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.floats(0.1, 0.9))
def test_on_plans_that_go_on_from_others(seed, share):
    """Launches of several tasks, and devices that the scheduler would not have chosen."""
    world = random_world(seed)
    if world.graph.revealers:
        return
    planned = Plan(world.plan.launches[: int(share * len(world.plan))])
    try:
        Facts(world.graph, world.profile)
    except DynPartitionError:
        return
    if Facts(world.graph, world.profile).legality.all_linked:
        compare(world.graph, with_first_uses(world.profile, seed), planned)


class _Compared(Scheduler):
    """Decides as `name` does, and compares at every call."""

    def __init__(self, name):
        self.name, self.calls = name, 0

    def schedule(self, graph, profile, planned):
        scheduler = make_scheduler(self.name)
        launches = scheduler.schedule(graph, profile, planned)
        assert list(launches) == list(scheduler.define(graph, profile, planned))
        self.calls += 1
        return launches


@pytest.mark.parametrize("name", COMPILED)
def test_on_graphs_that_are_revealed_step_by_step(name):
    calls = 0
    for seed in range(6):
        machine = Machine(wiring="bus", host_mode=MODES[seed % len(MODES)])
        setting = Setting(family="moe", n_tasks=30, machine=machine, reveals=True, host_data=True)
        graph, profile = draw_world(setting, np.random.default_rng(seed))
        scheduler = _Compared(name)
        run(SimBackend(profile), GraphWorkload(graph), scheduler)
        calls += scheduler.calls
    assert calls > 12


MODES = ("none", "single", "threads", "processes", "replay")
WIDE = Ranges(
    n_tasks=(20, 90), host_modes=MODES, host_data_share=0.4, spread=(0.0, 0.5), batch_share=0.3
)


@pytest.mark.parametrize("seed", range(12))
def test_on_drawn_worlds(seed):
    """More ready tasks than min-min looks at, up to eight devices."""
    rng = np.random.default_rng(seed)
    compare(*draw_world(draw_setting(WIDE, rng), rng))


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family_with_blocking_copies_and_staging(family):
    machine = Machine(blocks=True, staging=True, wiring="bus", ratio=2.0)
    setting = Setting(family=family, n_tasks=40, machine=machine, host_data=True)
    compare(*draw_world(setting, np.random.default_rng(3)))


def test_sizes_and_bandwidths_that_need_long_integers():
    rng = np.random.default_rng(1)
    graph, profile = draw_world(Setting(family="layered", n_tasks=12), rng)
    tasks = graph.tasks()
    big = type(graph).from_tasks(
        "big", graph.cells, [_with_bytes(task, 10**12 + task.id) for task in tasks]
    )
    compare(big, profile)
    huge = type(graph).from_tasks(
        "huge", graph.cells, [_with_bytes(task, 10**15) for task in tasks]
    )
    compare(huge, profile)


def _with_bytes(task, size):
    return replace(task, output_bytes=size)


def test_times_beyond_int64_are_left_to_the_definitions():
    rng = np.random.default_rng(1)
    graph, profile = draw_world(Setting(family="chains", n_tasks=3000), rng)
    tasks = [
        replace(task, duration_ns=dict.fromkeys(profile.cluster.names, 10**15))
        for task in graph.tasks()
    ]
    slow = type(graph).from_tasks("slow", graph.cells, tasks)
    assert list_graph(slow, profile) is None
    scheduler = make_scheduler("heft")
    assert scheduler.schedule(slow, profile, Plan()) == scheduler.define(slow, profile, Plan())


PROGRAM = """
import numpy as np
from tests.agent.test_listing import WIDE, compare
from dynpartition.agent.families import draw_setting, draw_world
rng = np.random.default_rng(5)
for _ in range(2):
    compare(*draw_world(draw_setting(WIDE, rng), rng))
print("equal")
"""


def test_the_source_gives_the_same_choices_without_compilation():
    assert run_uncompiled(PROGRAM) == "equal\n"
