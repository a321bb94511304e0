"""The compiled simulator does exactly what the reference does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Device,
    Launch,
    Link,
    Plan,
    PricedGraph,
    Profile,
    Task,
    TaskGraph,
    single_task_plan,
)
from dynpartition.cluster import TableCost, TransferCost
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.pricing import price
from dynpartition.program import lower
from dynpartition.sim import batch as batches
from dynpartition.sim import kernel
from dynpartition.sim.batch import pack, run_batch
from dynpartition.sim.engine import compile_all, simulate_compiled
from dynpartition.sim.kernel_pack import ProgramWorld, is_plain
from dynpartition.sim.reference import simulate
from dynpartition.sim.worlds import describe_difference, find_difference, outcome, random_world
from tests.sim.random_worlds import World, worlds

SEEDS = 1000


def program_world(world: object) -> ProgramWorld:
    priced = PricedGraph(world.graph, world.profile)
    program = lower(world.graph, world.profile.cluster, world.plan)
    return ProgramWorld(priced, program, price(program, priced, world.conditions))


def outcome_of(result: batches.BatchResult, index: int) -> object:
    error = result.error(index)
    return result.trace(index) if error is None else str(error)


def test_it_gives_the_traces_of_the_reference_in_seeded_worlds() -> None:
    memory_ran_out = 0
    for seed in range(SEEDS):
        world = random_world(seed)
        expected, found = outcome(simulate, world), outcome(simulate_compiled, world)
        assert describe_difference(expected, found) is None, f"seed {seed}"
        assert expected == found, f"seed {seed}: another order"
        memory_ran_out += isinstance(found, str)
    assert memory_ran_out > SEEDS // 50


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_it_gives_the_traces_of_the_reference_in_hypothesis_worlds(world: World) -> None:
    assert outcome(simulate, world) == outcome(simulate_compiled, world)


def test_a_batch_gives_what_its_worlds_give_alone() -> None:
    single = [outcome(simulate, random_world(seed)) for seed in range(64)]
    result = run_batch(pack([program_world(random_world(seed)) for seed in range(64)]))
    assert [outcome_of(result, index) for index in range(64)] == single
    short = run_batch(result.batch, recording=False)
    assert short.makespan_ns.tolist() == result.makespan_ns.tolist()
    assert run_batch(result.batch).makespan_ns.tolist() == result.makespan_ns.tolist()


def test_the_plain_and_the_full_kernel_agree_where_both_can_run() -> None:
    chosen = [world for seed in range(600) if is_plain(world := program_world(random_world(seed)))]
    assert len(chosen) > 10
    plain, full = run_batch(pack(chosen)), run_batch(pack(chosen, plain=False))
    assert plain.batch.is_plain and not full.batch.is_plain
    for index in range(len(chosen)):
        assert plain.trace(index) == full.trace(index)


def test_the_beginnings_of_plans_are_run_alike() -> None:
    for seed in range(200):
        world = random_world(seed)
        for count in {0, len(world.plan) // 2, len(world.plan) - 1}:
            plan = Plan(world.plan.launches[:count])
            assert begun(simulate, world, plan) == begun(simulate_compiled, world, plan)


def begun(engine: object, world: object, plan: Plan) -> object:
    conditions = world.conditions
    try:
        return engine(world.graph, world.profile, plan, complete=False, conditions=conditions)
    except OutOfDeviceMemory as error:
        return str(error)


def test_traces_need_a_recording() -> None:
    result = run_batch(pack([program_world(random_world(0))]), recording=False)
    with pytest.raises(AssertionError, match="recording=True"):
        result.trace(0)


NOT_COMPILED = """
from dynpartition.sim import kernel
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.reference import simulate
from dynpartition.sim.worlds import find_difference, random_world
assert not hasattr(kernel.run_worlds, "py_func")
for seed in range(200):
    assert find_difference(simulate, simulate_compiled, random_world(seed)) is None, seed
"""


def test_the_source_also_runs_uncompiled() -> None:
    run_python(NOT_COMPILED, NUMBA_DISABLE_JIT="1")


CACHED = """
import time
from dynpartition.sim.engine import compile_all
told, begun_s = [], time.process_time()
compile_all(told.append)
print(time.process_time() - begun_s, len(told))
"""


FORGOTTEN = """
from numba.core.caching import NullCache
from dynpartition.sim import kernel
kernel.lower_plans._cache = NullCache()
"""
COUNTED = """
made = (kernel.run_plain_worlds, kernel.run_worlds, kernel.condense_worlds, kernel.lower_plans)
print(*(len(function.signatures) for function in made))
print(*told)
"""


def test_all_is_made_ready_and_every_function_that_is_compiled_is_told() -> None:
    """One must be compiled, the others lie on the disk: to compile them too would take 20 s."""
    compile_all()
    _, made, told = run_python(FORGOTTEN + CACHED + COUNTED).splitlines()
    assert made == "1 1 1 1"
    assert {"lower_plans", "lower_plan", "add_copy"} <= set(told.split())
    assert not {"run_plain_worlds", "run_worlds", "condense_worlds"} & set(told.split())


def test_a_second_start_takes_the_compiled_code_from_disk() -> None:
    compile_all()
    seconds, told = run_python(CACHED).split()
    assert told == "0"
    assert float(seconds) < 5  # of processor time; 1 is usual, and compiling takes 20


UNWRITABLE = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
from dynpartition.compiled import compiled
def double(x):
    return 2 * x
assert compiled(double)(4) == 8
"""


def test_without_a_place_for_the_cache_code_is_compiled_each_time() -> None:
    run_python(UNWRITABLE)


def run_python(code: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        env=os.environ | environment,
        cwd=Path.cwd(),
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("bandwidth", [1, 3, 7, 10**9, 123_456_789_012, 10**15, 2**60])
def test_long_division_prices_merged_transfers_exactly(bandwidth: int) -> None:
    for size in (0, 1, bandwidth - 1, bandwidth, bandwidth + 1, 9_999_999_999, 10**15):
        expected = 5 + (size * 10**9 + bandwidth - 1) // bandwidth
        if expected < kernel.NEVER:
            division = getattr(kernel.affine_ns, "py_func", kernel.affine_ns)
            assert division(5, bandwidth, size) == expected


@pytest.mark.parametrize("cost", [AffineCost(7, 3 * 10**9), TableCost(((10, 100), (10**9, 10**7)))])
def test_late_copies_that_become_due_together_are_one_transfer(cost: TransferCost) -> None:
    """One launch of tasks 0 and 1; tasks 2 and 3 read one output each.

    Both are known at the same time, but 3 also waits for revealer 1, so their copies differ.
    """
    tasks = [
        Task(id=0, cell="a", output_bytes=12_345_678, duration_ns={"cpu:0": 5}),
        Task(id=1, cell="a", output_bytes=9_876_543_210, duration_ns={"cpu:0": 5}),
        Task(id=2, cell="a", inputs=(0,), revealed_by=0, duration_ns={"cpu:1": 5}),
        Task(id=3, cell="a", inputs=(1, 2), revealed_by=1, duration_ns={"cpu:1": 5}),
    ]
    graph = TaskGraph.from_tasks("merged", [Cell("a")], tasks)
    names = ("cpu:0", "cpu:1")
    links = tuple(Link(a, b, cost) for a in names for b in names if a != b)
    profile = Profile(Cluster(tuple(Device(name, "cpu") for name in names), links), {})
    launches = [Launch("cpu:0", (0, 1)), Launch("cpu:1", (2,)), Launch("cpu:1", (3,))]
    plan = Plan(tuple(launches))
    trace = simulate_compiled(graph, profile, plan)
    assert trace == simulate(graph, profile, plan)
    assert [span.tasks for span in trace.transfers] == [(0, 1)]
    assert trace.transfers[0].bytes == 12_345_678 + 9_876_543_210


def test_times_beyond_62_bits_go_to_the_reference() -> None:
    graph = TaskGraph.from_tasks(
        "huge",
        [Cell("a")],
        [
            Task(id=0, cell="a", output_bytes=10**15, duration_ns={"cpu:0": 1}),
            Task(id=1, cell="a", inputs=(0,), duration_ns={"cpu:1": 1}),
        ],
    )
    devices = (Device("cpu:0", "cpu"), Device("cpu:1", "cpu"))
    profile = Profile(Cluster(devices, (Link("cpu:0", "cpu:1", AffineCost(0, 1)),)), {})
    plan = single_task_plan([(0, "cpu:0"), (1, "cpu:1")])
    trace = simulate_compiled(graph, profile, plan)
    assert trace.makespan_ns == 10**24 + 2
    assert trace == simulate(graph, profile, plan)


def test_out_of_memory_is_the_same_error() -> None:
    failing = next(
        world
        for world in map(random_world, range(1000))
        if isinstance(outcome(simulate, world), str)
    )
    with pytest.raises(OutOfDeviceMemory):
        simulate_compiled(
            failing.graph, failing.profile, failing.plan, conditions=failing.conditions
        )
    assert find_difference(simulate, simulate_compiled, failing) is None


def test_many_transfers_that_become_ready_together_are_sorted_quickly() -> None:
    """2000 host inputs that arrive at one instant, in the reverse of plan order by index."""
    count = 2000
    tasks = [
        Task(id=i, cell="a", host_bytes=1 + i % 3, arrival_ns=5, duration_ns={"cpu:1": 1})
        for i in range(count)
    ]
    graph = TaskGraph.from_tasks("wide", [Cell("a")], tasks)
    devices = (Device("cpu:0", "cpu"), Device("cpu:1", "cpu"))
    profile = Profile(Cluster(devices, (Link("cpu:0", "cpu:1", AffineCost(1, 10**9)),)), {})
    plan = single_task_plan([(task, "cpu:1") for task in reversed(range(count))])
    assert simulate_compiled(graph, profile, plan) == simulate(graph, profile, plan)
