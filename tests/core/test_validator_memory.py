"""The validator on loads and memory: one valid trace, its mutations, and random worlds."""

import time
from dataclasses import replace

import pytest

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    LaunchSpan,
    Link,
    LoadSpan,
    Profile,
    Reveal,
    Task,
    TaskGraph,
    Trace,
    TransferSpan,
    single_task_plan,
)
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.sim import simulate
from dynpartition.sim.worlds import random_world
from dynpartition.validator import find_violations

CPU, GPU = "cpu:0", "cuda:0"
ONE_BYTE_PER_NS = AffineCost(1, 10**9)
CELLS = (Cell("a", 4), Cell("b", 4), Cell("c", 3))
WORLDS = 2000


def machine(*, memory_bytes=10, resident=("a",), blocks=None, back=True, host_bytes=None):
    """A host and a GPU that holds 10 bytes; each launch takes 5 ns there and 20 ns here."""
    gpu = Device(GPU, "cuda", memory_bytes, resident=resident)
    links = [Link(CPU, GPU, ONE_BYTE_PER_NS, ("bus",), blocks)]
    links += [Link(GPU, CPU, ONE_BYTE_PER_NS, ("bus",))] if back else []
    cluster = Cluster((Device(CPU, "cpu", host_bytes), gpu), tuple(links))
    costs = {CPU: Curve((1,), (20,)), GPU: Curve((1,), (5,))}
    return Profile(cluster, {cell.name: costs for cell in CELLS})


def chain(last="a", **changes):
    """0 (a) ─► 1 (b) ─► 2 (c) ─► 3 (a, returns), all on the GPU; `changes` are of task 1."""
    second = Task(id=1, cell="b", inputs=(0,), output_bytes=2)
    tasks = [
        Task(id=0, cell="a", output_bytes=2),
        replace(second, **changes),
        Task(id=2, cell="c", inputs=(1,), output_bytes=1),
        Task(id=3, cell=last, inputs=(2,), output_bytes=1, returns=True),
    ]
    return TaskGraph.from_tasks("chain", CELLS, tasks)


PLAN = single_task_plan((task, GPU) for task in range(4))

VALID = Trace(
    makespan_ns=36,
    launches=(
        LaunchSpan(GPU, (0,), 0, 5),  # a and 2 bytes: 6 of 10
        LaunchSpan(GPU, (1,), 10, 15),  # a goes, for its output: b and 2 + 2 bytes
        LaunchSpan(GPU, (2,), 19, 24),  # b, c and 2 + 1 bytes: 10
        LaunchSpan(GPU, (3,), 29, 34),  # c, a and 1 + 1 bytes: 9
    ),
    transfers=(TransferSpan(GPU, CPU, (3,), 1, 34, 36),),
    loads=(
        LoadSpan(GPU, "b", 4, 5, 10),  # fits: a, b and 2 bytes
        LoadSpan(GPU, "c", 3, 15, 19),
        LoadSpan(GPU, "a", 4, 24, 29),  # b goes: its last use is older
    ),
)


def loads(number, **changes):
    rows = list(VALID.loads)
    rows[number] = replace(rows[number], **changes)
    return replace(VALID, loads=tuple(rows))


def without(number):
    return replace(VALID, loads=VALID.loads[:number] + VALID.loads[number + 1 :])


def with_more(load):
    return replace(VALID, loads=(*VALID.loads, load))


def test_the_trace_is_what_the_simulator_does():
    assert simulate(chain(), machine(), PLAN) == VALID
    assert find_violations(chain(), machine(), PLAN, VALID, exact_durations=True) == []


LAUNCH_1, LAUNCH_3 = "launch 1 (task 1 (b) on cuda:0)", "launch 3 (task 3 (a) on cuda:0)"
LAUNCH_2 = "launch 2 (task 2 (c) on cuda:0)"
MUTATIONS = {
    "load missing": (without(0), f"{LAUNCH_1} starts at 10 ns without the weights of b"),
    "load after an eviction missing": (
        without(2),
        f"{LAUNCH_3} starts at 29 ns without the weights of a",
    ),
    "load ends after the launch starts": (
        loads(1, end_ns=20),
        "load of c to cuda:0 at 15 ns is for no launch after it",
    ),
    "load of something else": (
        loads(1, cell="a", bytes=4),
        f"load of a to cuda:0 for {LAUNCH_3} starts at 15 ns before launch 2 (task 2 (c) on cuda:0)"
        " ends at 24 ns",
    ),
    "load of what is there": (
        with_more(LoadSpan(GPU, "a", 4, -5, 0)),
        "load of a to cuda:0 starts at -5 ns, before the run",
    ),
    "load of what nobody needs": (
        with_more(LoadSpan(GPU, "b", 4, 29, 34)),
        "load of b to cuda:0 at 29 ns is for no launch after it",
    ),
    "load before its turn": (
        loads(0, start_ns=4, end_ns=9),
        f"load of b to cuda:0 for {LAUNCH_1} starts at 4 ns before launch 0 (task 0 (a) on cuda:0)"
        " ends at 5 ns",
    ),
    "load to the host": (
        with_more(LoadSpan(CPU, "a", 4, 40, 45)),
        "load of a to cpu:0 is not needed: cpu:0 holds all weights",
    ),
    "load ends before it starts": (loads(0, end_ns=4), "load of b to cuda:0 ends at 4 ns, before"),
    "wrong bytes": (loads(1, bytes=4), "load of c to cuda:0 moves 4 bytes instead of 3"),
    "bus shared": (
        replace(VALID, transfers=(TransferSpan(GPU, CPU, (3,), 1, 28, 36),)),
        "transfer of task 3 (a) cuda:0->cpu:0 overlaps load of a to cuda:0 on resource 'bus'",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name):
    trace, fragment = MUTATIONS[name]
    found = find_violations(chain(), machine(), PLAN, trace)
    assert any(fragment in message for message in found), found


def test_a_load_takes_the_time_of_its_link():
    trace = loads(0, start_ns=6)
    assert find_violations(chain(), machine(), PLAN, trace, exact_durations=True) == [
        "load of b to cuda:0 lasts 4 ns instead of 5 ns"
    ]
    assert find_violations(chain(), machine(), PLAN, trace) == []


def test_a_load_waits_for_the_arrival_of_its_launch():
    found = find_violations(chain(arrival_ns=6), machine(), PLAN, VALID)
    assert found == [
        f"load of b to cuda:0 for {LAUNCH_1} starts at 5 ns before its arrival at 6 ns"
    ]
    assert find_violations(chain(arrival_ns=5), machine(), PLAN, VALID) == []


def test_a_load_waits_until_its_launch_is_known():
    hidden, profile = chain(revealed_by=0), machine()
    trace = replace(
        VALID,
        transfers=(TransferSpan(GPU, CPU, (0,), 2, 5, 8), *VALID.transfers),
        reveals=(Reveal(0, 5, 8),),
    )
    found = find_violations(hidden, profile, PLAN, trace)
    assert found[-1] == (
        f"load of b to cuda:0 for {LAUNCH_1} starts at 5 ns before task 0 (a) is known at 8 ns"
    )


def test_a_load_over_a_link_that_blocks_waits_for_the_launch_before():
    profile = machine(blocks="dst")
    assert find_violations(chain(), profile, PLAN, VALID) == []
    found = find_violations(chain(), profile, PLAN, loads(2, start_ns=23, end_ns=28))
    assert (
        "load of a to cuda:0 overlaps launch of task 2 (c) on cuda:0, which blocks cuda:0" in found
    )


def test_a_load_needs_a_link_from_the_host():
    profile = machine()
    only_back = replace(profile.cluster, links=profile.cluster.links[1:])
    found = find_violations(chain(), replace(profile, cluster=only_back), PLAN, VALID)
    assert found == [f"load of {cell} to cuda:0 has no such link" for cell in "bca"]


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        # What is there is not loaded: by the list, by default, or because nothing is evicted.
        ({"resident": ("a", "b")}, "load of b to cuda:0 starts at 5 ns though its weights are"),
        ({"resident": None}, "load of b to cuda:0 starts at 5 ns though its weights are there"),
        (
            {"resident": ("c",)},
            "launch 0 (task 0 (a) on cuda:0) starts at 0 ns without the weights",
        ),
        (
            {"memory_bytes": None},
            "load of a to cuda:0 starts at 24 ns though its weights are there",
        ),
        ({"memory_bytes": 20}, "load of a to cuda:0 starts at 24 ns though its weights are there"),
        ({"resident": ()}, "launch 0 (task 0 (a) on cuda:0) starts at 0 ns without the weights of"),
        # What never fits at once.
        ({"memory_bytes": 3}, "cuda:0 does not hold the cells in its list `resident`"),
        (
            {"memory_bytes": 7},
            f"{LAUNCH_1} needs 2 bytes on cuda:0 at 10 ns, where 1 of 7 are free and no idle"
            " weights are left",
        ),
    ],
)
def test_the_same_trace_on_another_device_is_found(changes, fragment):
    (found,) = find_violations(chain(), machine(**changes), PLAN, VALID)
    assert fragment in found


def test_what_is_evicted_is_what_was_used_longest_ago():
    """After c, and the load of a for which b goes, a launch of c needs no load, one of b does."""
    tasks = [*chain().tasks(), Task(id=4, cell="c", inputs=(3,))]
    plan = single_task_plan((task, GPU) for task in range(5))
    trace = replace(
        VALID, makespan_ns=39, launches=(*VALID.launches, LaunchSpan(GPU, (4,), 34, 39))
    )
    graph = TaskGraph.from_tasks("longer", CELLS, tasks)
    assert find_violations(graph, machine(), plan, trace) == []
    tasks[4] = replace(tasks[4], cell="b")
    (found,) = find_violations(TaskGraph.from_tasks("b", CELLS, tasks), machine(), plan, trace)
    assert found.endswith("task 4 (b) on cuda:0) starts at 34 ns without the weights of b")


def two_inputs(*, hidden):
    """0 and 1 (on the host) ─► 2 (a, on the GPU); 3 (a) reads nothing and may be revealed by 2."""
    tasks = [
        Task(id=0, cell="a", output_bytes=3, host_bytes=9),
        Task(id=1, cell="a", output_bytes=3),
        Task(id=2, cell="a", inputs=(0, 1), host_bytes=1),
        Task(id=3, cell="a", output_bytes=3, revealed_by=2 if hidden else None),
    ]
    plan = single_task_plan([(0, CPU), (1, CPU), (2, GPU), (3, GPU)])
    return TaskGraph.from_tasks("two", CELLS, tasks), plan


def test_inputs_take_memory_from_the_start_of_their_transfer():
    """On the GPU: a (4), the host input (1) and two outputs of 3 bytes: 11."""
    graph, plan = two_inputs(hidden=False)
    trace = simulate(graph, machine(memory_bytes=11), plan)
    assert find_violations(graph, machine(memory_bytes=11), plan, trace) == []
    assert find_violations(graph, machine(memory_bytes=10), plan, trace) == [
        "load of a for launch 2 (task 2 (a) on cuda:0) needs 4 bytes on cuda:0 at 40 ns, where 3 of"
        " 10 are free and no idle weights are left"
    ]  # its weights have gone for the second input


@pytest.mark.parametrize("hidden", [False, True])
def test_outputs_stay_for_readers_that_are_hidden(hidden):
    """When 3 starts, what 2 has read is free: unless 3, when it becomes known, might read it."""
    graph, plan = two_inputs(hidden=hidden)
    trace = simulate(graph, machine(memory_bytes=11), plan)
    assert find_violations(graph, machine(memory_bytes=11), plan, trace) == []
    later = [replace(task, arrival_ns=100 * (task.id == 3)) for task in graph.tasks()]
    graph = TaskGraph.from_tasks("later", CELLS, later)
    trace = simulate(graph, machine(memory_bytes=11), plan)
    assert trace.launches[3].start_ns == 100
    assert find_violations(graph, machine(memory_bytes=11), plan, trace) == []


def test_outputs_on_the_host_count_and_its_weights_do_not():
    """The host makes 3 bytes twice, and its own input of 9 bytes takes nothing."""
    graph, plan = two_inputs(hidden=False)
    trace = simulate(graph, machine(memory_bytes=11, host_bytes=6), plan)
    assert find_violations(graph, machine(memory_bytes=11, host_bytes=6), plan, trace) == []
    assert find_violations(graph, machine(memory_bytes=11, host_bytes=5), plan, trace) == [
        "launch 1 (task 1 (a) on cpu:0) needs 3 bytes on cpu:0 at 20 ns, where 2 of 5 are free and"
        " no idle weights are left"
    ]


def test_requests_that_nothing_joins_are_freed_one_by_one():
    """1 may read 0 when both are of one request, so 3 bytes stay until it arrives."""
    tasks = [
        Task(id=0, cell="a", output_bytes=3),
        Task(id=1, cell="a", output_bytes=3),
        Task(id=2, cell="a", arrival_ns=50),
    ]
    plan, profile = single_task_plan((task, GPU) for task in range(3)), machine(memory_bytes=7)
    apart = [replace(task, request=task.id) for task in tasks]
    graph = TaskGraph.from_tasks("apart", CELLS, apart)
    trace = simulate(graph, profile, plan)
    assert find_violations(graph, profile, plan, trace) == []
    graph = TaskGraph.from_tasks("one", CELLS, tasks)
    with pytest.raises(OutOfDeviceMemory):
        simulate(graph, profile, plan)
    assert find_violations(graph, profile, plan, trace) == [
        "launch 1 (task 1 (a) on cuda:0) needs 3 bytes on cuda:0 at 5 ns, where 0 of 7 are free and"
        " no idle weights are left"
    ]


REAL = {"tolerance_ns": 1}
"""Of a real machine, whose clocks may disagree."""


def test_clocks_that_disagree_leave_out_when_memory_is_freed():
    assert find_violations(chain(), machine(memory_bytes=7), PLAN, VALID, **REAL) == []
    assert find_violations(chain(), machine(memory_bytes=11), PLAN, VALID, **REAL) == []


@pytest.mark.parametrize(("number", "launch", "cell"), [(0, LAUNCH_1, "b"), (1, LAUNCH_2, "c")])
def test_weights_that_never_came_are_missed_on_any_clock(number, launch, cell):
    (found,) = find_violations(chain(), machine(), PLAN, without(number), **REAL)
    assert found.startswith(launch)
    assert found.endswith(f"without the weights of {cell}")


def test_weights_that_are_used_again_without_a_load_have_to_fit_on_any_clock():
    """Without the second load of a, it has to stay beside b and c: 11 bytes."""
    assert find_violations(chain(), machine(memory_bytes=11), PLAN, without(2), **REAL) == []
    assert find_violations(chain(), machine(memory_bytes=7), PLAN, without(2), **REAL) == [
        "launches on cuda:0 need 8 bytes of weights at 5 ns, where it holds 7"
    ]
    assert find_violations(chain(), machine(memory_bytes=None), PLAN, without(2), **REAL) == []


def test_a_real_device_loads_by_itself():
    """Its load may overlap what the link carries; in simulation it may not."""
    tasks = [Task(id=0, cell="a", output_bytes=1), Task(id=1, cell="b", inputs=(0,), host_bytes=9)]
    graph = TaskGraph.from_tasks("overlap", CELLS, tasks)
    plan = single_task_plan([(0, GPU), (1, GPU)])
    trace = Trace(
        makespan_ns=20,
        launches=(LaunchSpan(GPU, (0,), 0, 5), LaunchSpan(GPU, (1,), 15, 20)),
        transfers=(TransferSpan(CPU, GPU, (1,), 9, 0, 10, host_input=True),),
        loads=(LoadSpan(GPU, "b", 4, 6, 11),),
    )
    assert find_violations(graph, machine(memory_bytes=18), plan, trace, **REAL) == []
    assert find_violations(graph, machine(memory_bytes=18), plan, trace) == [
        "load of b to cuda:0 overlaps host input of task 1 (b) cpu:0->cuda:0 on resource 'bus'"
    ]


def test_zero_lengths_leave_the_order_open_and_every_order_is_tried():
    """Launches take no time, loads 1 ns: 0 and the load for 1 are at 0, 1 and that for 2 at 1."""
    graph = TaskGraph.from_tasks(
        "zero", CELLS, [Task(id=0, cell="a"), Task(id=1, cell="b"), Task(id=2, cell="a")]
    )
    links = (Link(CPU, GPU, AffineCost(0, 10**12)),)
    devices = (Device(CPU, "cpu"), Device(GPU, "cuda", 4, resident=("a",)))
    costs = {GPU: Curve((1,), (0,))}
    profile = Profile(Cluster(devices, links), {"a": costs, "b": costs})
    plan = single_task_plan((task, GPU) for task in range(3))
    trace = simulate(graph, profile, plan)
    assert [load.cell for load in trace.loads] == ["b", "a"]
    assert find_violations(graph, profile, plan, trace, exact_durations=True) == []
    (found,) = find_violations(graph, profile, plan, replace(trace, loads=trace.loads[:1]))
    assert found == "launch 2 (task 2 (a) on cuda:0) starts at 2 ns without the weights of a"


def test_random_worlds_are_valid_and_their_loads_cannot_be_left_out():
    n_runs = n_limited = n_loads = n_left_out = 0
    for seed in range(WORLDS):
        world = random_world(seed)
        case = (world.graph, world.profile, world.plan)
        how = {"exact_durations": True, "conditions": world.conditions}
        try:
            trace = simulate(*case, conditions=world.conditions)
        except OutOfDeviceMemory:
            continue
        assert find_violations(*case, trace, **how) == [], f"world {seed}"
        n_runs += 1
        n_limited += any(device.tracks_memory for device in world.profile.cluster.devices)
        for number in range(len(trace.loads)):
            n_loads += 1
            fewer = trace.loads[:number] + trace.loads[number + 1 :]
            n_left_out += find_violations(*case, replace(trace, loads=fewer)) != []
    assert n_limited > 0.4 * n_runs
    assert n_loads > 0.1 * n_runs
    assert n_left_out == n_loads


def test_long_runs_are_replayed_in_linear_time():
    n = 4000
    tasks = [
        Task(id=i, cell="ab"[i % 2], inputs=(i - 1,) if i else (), output_bytes=1) for i in range(n)
    ]
    graph, profile = TaskGraph.from_tasks("long", CELLS, tasks), machine(memory_bytes=7)
    plan = single_task_plan((i, GPU) for i in range(n))
    trace = simulate(graph, profile, plan)
    assert len(trace.loads) == n - 1
    started = time.process_time()
    assert find_violations(graph, profile, plan, trace) == []
    assert find_violations(graph, profile, plan, trace, **REAL) == []
    assert time.process_time() - started < 10


def test_lost_devices_are_not_replayed():
    trace = replace(VALID, wasted=(LaunchSpan(GPU, (1,), 5, 6),))
    assert find_violations(chain(), machine(memory_bytes=7), PLAN, trace) == []
