"""Worlds that small changes to the simulators survived elsewhere; `docs/simulators.md` says more.

Unless a world says otherwise: `cpu:0` is the host, links have 5 ns latency and 1 byte/ns, and
there are no host costs. Both simulators must give the trace that was computed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Device,
    Dispatch,
    Launch,
    Link,
    Plan,
    PricedGraph,
    Profile,
    TableCost,
    Task,
    TaskGraph,
    Trace,
    lower,
)
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.pricing import price
from dynpartition.sim import batch, kernel, simulate
from dynpartition.sim.batch import pack, run_batch
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.kernel_pack import ProgramWorld
from dynpartition.sim.worlds import World, describe_difference, outcome, random_world
from dynpartition.trace import LoadSpan

Places = Sequence[tuple[str, tuple[int, ...]]]
COST = AffineCost(5, 10**9)


def task(number: int, **fields: Any) -> Task:
    return Task(id=number, cell="a", **fields)


def world(tasks: Sequence[Task], links: Sequence[Link], plan: Places, **dispatch: Any) -> World:
    names = sorted({"cpu:0", *(name for link in links for name in (link.src, link.dst))})
    devices = tuple(Device(name, "cuda" if name.startswith("cuda") else "cpu") for name in names)
    profile = Profile(Cluster(devices, tuple(links), "cpu:0"), {}, Dispatch(**dispatch))
    launches = tuple(Launch(device, placed) for device, placed in plan)
    return World(TaskGraph.from_tasks("gap", [Cell("a")], tasks), profile, Plan(launches))


def lowered(each: World) -> ProgramWorld:
    priced = PricedGraph(each.graph, each.profile)
    program = lower(each.graph, each.profile.cluster, each.plan)
    return ProgramWorld(priced, program, price(program, priced, each.conditions))


def both(each: World) -> Trace:
    """Return the trace on which both simulators agree, alone and among others."""
    end = outcome(simulate, each)
    assert describe_difference(end, outcome(simulate_compiled, each)) is None
    packed = pack([lowered(each)] * 2, plain=False)
    assert describe_difference(end, run_batch(packed).trace(1)) is None
    assert isinstance(end, Trace)
    return end


def moves(trace: Trace) -> list[tuple[str, str, tuple[int, ...], int, int, int]]:
    return [(s.src, s.dst, s.tasks, s.bytes, s.start_ns, s.end_ns) for s in trace.transfers]


# Transfers that become ready together travel together.


def joined(cost: AffineCost | TableCost, size: int = 20, then: int = 30) -> World:
    """Tasks 2 and 3 reveal the readers of tasks 0 and 1; both are known at 100.

    cuda:0   |0,1: 0 10|
    cpu:0    |2,3: 0 ……… 100|
    ->cpu:1                 |0 and 1: 100 …|4|5|
    """
    tasks = [
        *(task(n, output_bytes=b, duration_ns={"cuda:0": 5}) for n, b in ((0, size), (1, then))),
        *(task(n, duration_ns={"cpu:0": 50}) for n in (2, 3)),
        task(4, inputs=(0,), revealed_by=2, duration_ns={"cpu:1": 10}),
        task(5, inputs=(1,), revealed_by=3, duration_ns={"cpu:1": 10}),
    ]
    plan = [("cuda:0", (0, 1)), ("cpu:0", (2, 3)), ("cpu:1", (4,)), ("cpu:1", (5,))]
    return world(tasks, [Link("cuda:0", "cpu:1", cost)], plan)


@pytest.mark.parametrize(
    ("cost", "lasts_ns"),
    [
        (COST, 5 + 50),
        (AffineCost(0, 3 * 10**8), 167),  # 166 ⅔
        (AffineCost(1, 7), 1 + 7_142_857_143),  # 50/7 s, rounded up
        (AffineCost(1, 10**9 // 3), 1 + 151),  # 50 · 3.000000003 ns
        (AffineCost(0, 50), 10**9),
        (AffineCost(0, 51), 980_392_157),
        (AffineCost(2, 1), 2 + 50 * 10**9),
        (TableCost(((10, 7), (50, 21), (60, 99))), 21),
        (TableCost(((50, 33), (60, 99))), 33),
    ],
)
def test_outputs_whose_readers_become_known_together_travel_together(
    cost: AffineCost | TableCost, lasts_ns: int
) -> None:
    end_ns = 100 + lasts_ns
    trace = both(joined(cost))
    assert moves(trace) == [("cuda:0", "cpu:1", (0, 1), 50, 100, end_ns)]
    assert [(s.start_ns, s.end_ns) for s in trace.launches[2:]] == [
        (end_ns, end_ns + 10),
        (end_ns + 10, end_ns + 20),
    ]


def test_a_batch_prices_merged_transfers_by_the_table_of_their_own_link() -> None:
    """The same bytes on links of several machines, each of which has its own table."""
    costs = [TableCost(((1, 1), (size, ns))) for ns in (8, 9, 10) for size in (50, 40)]
    sizes = [(20, 30) if cost.points[1][0] == 50 else (15, 25) for cost in costs]
    worlds = [joined(cost, *size) for cost, size in zip(costs, sizes, strict=True)]
    unused = Link("cpu:0", "cuda:0", TableCost(((50, 77),)))
    worlds.append(
        World(
            worlds[0].graph,
            Profile(
                Cluster(
                    worlds[0].profile.cluster.devices,
                    (unused, Link("cuda:0", "cpu:1", costs[4])),
                    "cpu:0",
                ),
                {},
            ),
            worlds[0].plan,
        )
    )
    result = run_batch(pack([lowered(each) for each in worlds]))
    found = [result.trace(number).transfers[0].end_ns - 100 for number in range(len(worlds))]
    assert found == [8, 8, 9, 9, 10, 10, 10]


# As many devices as sets of bits hold, and one more.


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("spare", [0, 1])
def test_machines_beyond_the_bits_of_the_plain_loop_are_run_too(spare: int, blocks: bool) -> None:
    """Each device reads what the one before made, over a link of its own that may block both."""
    count = kernel.BITS_MAX // (2 if blocks else 1) + spare
    names = ["cpu:0", *(f"cuda:{number}" for number in range(10, 9 + count))]
    links = [
        Link(a, b, AffineCost(3, 10**9), (), "both" if blocks else None) for a, b in pairwise(names)
    ]
    tasks = [
        task(n, inputs=(n - 1,) if n else (), output_bytes=n, duration_ns={name: 10 + n % 3})
        for n, name in enumerate(names)
    ]
    each = world(tasks, links, [(name, (n,)) for n, name in enumerate(names)])
    assert pack([lowered(each)]).is_plain == (spare == 0)
    assert len(both(each).transfers) == count - 1


# Many devices: more slots than the kernel scans at once, and long queues.

COUNT = 10
NAMES = [f"cuda:{number}" for number in range(COUNT)]


def all_to_all(resources: tuple[str, ...] = ()) -> World:
    """Every device runs one task for 10 ns, then one that reads what all others have made.

    The plan goes from the last device to the first. A transfer from device s to d lasts
    1 + 10 s + d ns, which differs for every pair.
    """
    tasks = [task(n, duration_ns={NAMES[n]: 10}) for n in range(COUNT)]
    others = [tuple(s for s in range(COUNT) if s != d) for d in range(COUNT)]
    tasks += [task(COUNT + d, inputs=others[d], duration_ns={NAMES[d]: 5}) for d in range(COUNT)]
    links = [
        Link(NAMES[s], NAMES[d], AffineCost(1 + 10 * s + d, 10**9), resources)
        for d in range(COUNT)
        for s in others[d]
    ]
    first = [(NAMES[d], (d,)) for d in reversed(range(COUNT))]
    return world(tasks, links, [*first, *((NAMES[d], (COUNT + d,)) for d in range(COUNT))])


def test_transfers_between_all_devices_run_side_by_side() -> None:
    """The last input of device d comes from device 9, or from 8 if d is 9."""
    trace = both(all_to_all())
    assert {(s.src, s.dst, s.start_ns, s.end_ns) for s in trace.transfers} == {
        (NAMES[s], NAMES[d], 10, 11 + 10 * s + d)
        for s in range(COUNT)
        for d in range(COUNT)
        if s != d
    }
    assert [s.start_ns for s in trace.launches[COUNT:]] == [
        *(11 + 90 + d for d in range(9)),
        11 + 80 + 9,
    ]


def test_transfers_between_all_devices_queue_on_one_bus_by_plan_position() -> None:
    """One after the other: by producer in plan order, from the last device, then by destination."""
    trace = both(all_to_all(("bus",)))
    pairs = [(s, d) for s in reversed(range(COUNT)) for d in range(COUNT) if s != d]
    assert [(s.src, s.dst) for s in trace.transfers] == [(NAMES[s], NAMES[d]) for s, d in pairs]
    ends_ns = np.cumsum([1 + 10 * s + d for s, d in pairs]) + 10
    assert [s.end_ns for s in trace.transfers] == ends_ns.tolist()


# Weights


def test_a_cell_that_ran_again_was_used_then() -> None:
    """Two of three cells fit. At 30 `b` was used at 20 and `a` just now: `b` goes, `a` stays.

    cuda:0    |0(a): 0 10|1(b): 10 20|2(a): 20 30|            |3(c): 65 75|4(a): 75 85|
    ->cuda:0                                     |load c: 30 65|
    """
    cells = [Cell(name, 30) for name in "abc"]
    tasks = [Task(id=n, cell=name, duration_ns={"cuda:0": 10}) for n, name in enumerate("abaca")]
    devices = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda", 60))
    profile = Profile(Cluster(devices, (Link("cpu:0", "cuda:0", COST),)), {})
    plan = Plan(tuple(Launch("cuda:0", (n,)) for n in range(5)))
    trace = both(World(TaskGraph.from_tasks("gap", cells, tasks), profile, plan))
    assert trace.loads == (LoadSpan("cuda:0", "c", 30, 30, 65),)
    assert [s.start_ns for s in trace.launches] == [0, 10, 20, 65, 75]


# What a run finds in its state, and where the kernel's integers end.


def garbage(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int64) % 7 + 99_991


def test_a_run_does_not_depend_on_what_its_state_held_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [lowered(random_world(seed)) for seed in range(150)]
    before = [*ends(parts)]
    make = batch.make_state

    def filled(places: Any, **facts: Any) -> Any:
        state, shared = make(places, **facts)
        return garbage(len(state)), shared

    monkeypatch.setattr(batch, "make_state", filled)
    assert [*ends(parts)] == before


def ends(parts: Sequence[ProgramWorld]) -> Iterator[Trace | str]:
    for at in range(0, len(parts), 50):
        some = parts[at : at + 50]
        result = run_batch(pack(some))
        makespan_ns = run_batch(pack(some), recording=False).makespan_ns.tolist()
        for number in range(len(some)):
            error = result.error(number)
            yield str(error) if error else result.trace(number)
            assert makespan_ns[number] == result.makespan_ns[number]


@pytest.mark.parametrize("power", [59, 60, 61, 62, 70])
def test_times_beyond_the_kernels_integers_are_computed_by_the_reference(power: int) -> None:
    """A transfer of 2^power ns and 8 bytes at 1 byte/s, between launches of 10¹⁵ ns."""
    tasks = [
        task(0, output_bytes=8, duration_ns={"cuda:0": 10**15}),
        task(1, inputs=(0,), duration_ns={"cpu:0": 10**15}),
    ]
    slow = 2**power // 10**15 + 1
    links = [Link("cuda:0", "cpu:0", AffineCost(slow * 10**15, 1))]
    each = world(tasks, links, [("cuda:0", (0,)), ("cpu:0", (1,))])
    end_ns = 10**15 + slow * 10**15 + 8 * 10**9
    trace = simulate_compiled(each.graph, each.profile, each.plan)
    assert moves(trace) == [("cuda:0", "cpu:0", (0,), 8, 10**15, end_ns)]
    assert trace.makespan_ns == end_ns + 10**15


@pytest.mark.parametrize("first", ["cuda:1", "cuda:2"])
@pytest.mark.parametrize("sizes", [(60, 50), (50, 60)])
def test_of_transfers_that_start_together_the_first_in_the_plan_takes_memory(
    first: str, sizes: tuple[int, int]
) -> None:
    """Both end at 9 and have a link of their own into `cpu:0`, which holds 100 bytes.

    cuda:1  |--0--|-> cpu:0
    cuda:2  |--1--|-> cpu:0        the second one does not fit
    """
    second = "cuda:2" if first == "cuda:1" else "cuda:1"
    links = [Link(src, "cpu:0", COST) for src in ("cuda:1", "cuda:2")]
    tasks = [
        task(0, output_bytes=sizes[0], duration_ns={first: 9}),
        task(1, output_bytes=sizes[1], duration_ns={second: 9}),
        task(2, inputs=(0,), duration_ns={"cpu:0": 1}),
        task(3, inputs=(1,), duration_ns={"cpu:0": 1}),
    ]
    plan = [(first, (0,)), (second, (1,)), ("cpu:0", (2,)), ("cpu:0", (3,))]
    runs_out(world(tasks, links, plan), rf"launch 1 .*{sizes[1]} bytes")


def test_of_transfers_that_start_together_the_one_ready_first_takes_memory() -> None:
    """Both start at 20; launch 2's has waited since 9 for the link that launch 1's held.

    cuda:1  |-1-|--2--|        link |----1----|-> 2
    cuda:2  |--------0--------|              |-> 0 does not fit
    """
    links = [Link(src, "cpu:0", COST) for src in ("cuda:1", "cuda:2")]
    tasks = [
        task(0, output_bytes=45, duration_ns={"cuda:2": 20}),
        task(1, output_bytes=11, duration_ns={"cuda:1": 4}),
        task(2, output_bytes=50, duration_ns={"cuda:1": 5}),
        *(task(3 + n, inputs=(n,), duration_ns={"cpu:0": 30}) for n in range(3)),
    ]
    plan = [("cuda:2", (0,)), ("cuda:1", (1,)), ("cuda:1", (2,))]
    plan += [("cpu:0", (number,)) for number in (4, 5, 3)]
    runs_out(world(tasks, links, plan), r"launch 0 .*45 bytes")


def runs_out(each: World, message: str) -> None:
    """Check that `cpu:0` runs out of 100 bytes in both simulators, and for whom."""
    devices = tuple(
        replace(device, memory_bytes=100) if device.name == "cpu:0" else device
        for device in each.profile.cluster.devices
    )
    cluster = replace(each.profile.cluster, devices=devices)
    small = replace(each, profile=replace(each.profile, cluster=cluster))
    for engine in (simulate, simulate_compiled):
        with pytest.raises(OutOfDeviceMemory, match=message):
            engine(small.graph, small.profile, small.plan)
