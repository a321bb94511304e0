"""The simulator against a naive one that was written from the specification alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Device,
    Dispatch,
    Link,
    Profile,
    Task,
    TaskGraph,
    Trace,
    single_task_plan,
)
from dynpartition.errors import OutOfDeviceMemory, PlanError
from dynpartition.profile import HostMode
from dynpartition.sim.reference import simulate
from tests.sim.oracle import Oracle
from tests.sim.random_worlds import World, rich_worlds

WORLDS = 2000
SHARE_MIN = 0.05
"""Each feature must occur in at least this share of the worlds of the modes that have it."""

FEATURES_OF_ALL = (
    "batch",
    "hidden task",
    "later arrival",
    "late transfer",
    "host input",
    "answer",
    "transfer waits for transfer",
    "transfer waits for blocked device",
    "launch waits for blocking copy",
    "tie in a queue",
    "tie of launches",
    "requests",
    "late by arrival",
    "load",
    "load waits for its link",
    "eviction for a launch",
    "output stays for hidden readers",
    "noise",
    "slowdown",
)
FEATURES_OF_MODES = {
    "queue full": ("single", "threads", "processes"),
    "host pays for a late transfer": ("single", "threads", "processes"),
    "lock wait": ("threads",),
    "lock tie": ("threads",),
    "handoff": ("processes",),
    "replay starts": ("replay",),
}
RARE_FEATURES = (
    "joined requests",
    "late by arrival and reveal",
    "load before its inputs",
    "load ties with a host input",
    "load at the instant of its eviction",
    "load without a link",
    "blocking load",
    "second load of a cell",
    "eviction for a load",
    "eviction for a transfer",
    "eviction by name",
    "eviction by last use",
    "eviction of what comes next",
    "out of memory",
    "out of memory before the run",
    "second slowdown",
    "slowdown at the start of a launch",
)
"""Each occurs in some worlds, in too few for a share."""
REFUSED_SHARE_MAX = 0.2
"""At most this share of the worlds may end with an error: nothing else is compared in them."""


@pytest.mark.timeout(900)  # most of it for making the worlds
def test_both_simulators_agree_on_everything_that_happens() -> None:
    census: Counter[str] = Counter()

    @settings(max_examples=WORLDS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(rich_worlds())
    def agree(world: World) -> None:
        graph, profile, plan, conditions = world.graph, world.profile, world.plan, world.conditions
        oracle = Oracle(graph, profile, plan, conditions)
        expected = outcome(oracle.run)
        assert outcome(lambda: simulate(graph, profile, plan, conditions=conditions)) == expected
        census.update({feature for feature, times in oracle.seen.items() if times})
        census.update(["worlds", oracle.mode, *(["refused"] if "error" in expected else [])])

    agree()
    rare = {name: share for name, share in shares(census).items() if share < SHARE_MIN}
    assert not rare, f"random worlds hardly exercise {rare}"
    assert all(census[name] for name in RARE_FEATURES), sorted(set(RARE_FEATURES) - set(census))
    assert census["refused"] <= REFUSED_SHARE_MAX * census["worlds"]


@pytest.mark.parametrize(
    ("mode", "start_ns"), [("none", 0), ("replay", 5), ("processes", 5), ("single", 5)]
)
def test_a_free_dispatch_completes_in_the_next_round(mode: HostMode, start_ns: int) -> None:
    """Where a host dispatches, a copy that blocks cuda:0 gets there before task 1 is dispatched.

    cpu:0   |0: 0 0|
    cuda:0  |copy: 0 5|1: 5 8|2: 8 11|
    """
    tasks = [
        Task(id=0, cell="a", duration_ns={"cpu:0": 0}),
        Task(id=1, cell="a", duration_ns={"cuda:0": 3}),
        Task(id=2, cell="a", duration_ns={"cuda:0": 3}, inputs=(0,)),
    ]
    link = Link("cpu:0", "cuda:0", AffineCost(5, 10**9), blocks="dst")
    placed = [("cpu:0", 0), ("cuda:0", 1), ("cuda:0", 2)]
    trace = both(tasks, [link], Dispatch(host_mode=mode), placed)
    assert trace.launches[1].start_ns == start_ns


def test_the_share_of_the_lock_is_rounded_up() -> None:
    """Half of 3 ns is 2 ns: then the dispatch of task 1 may begin."""
    tasks = [
        Task(id=0, cell="a", duration_ns={"cpu:0": 3}),
        Task(id=1, cell="a", duration_ns={"cuda:0": 3}),
    ]
    dispatch = Dispatch(host_mode="threads", h=4, lock=0.5)
    trace = both(tasks, [], dispatch, [("cpu:0", 0), ("cuda:0", 1)])
    assert [(s.start_ns, s.end_ns) for s in trace.dispatches] == [(2, 6)]


def test_the_lock_goes_to_whoever_is_ready_first_not_to_the_first_in_the_plan() -> None:
    """Task 2's dispatch is ready at 0, task 1 (before it in the plan) at 5.

    lock   |0: 0 10|dispatch of 2: 10 14|1: 14 17|
    """
    tasks = [
        Task(id=0, cell="a", duration_ns={"cpu:0": 10}),
        Task(id=1, cell="a", duration_ns={"cpu:1": 3}, arrival_ns=5),
        Task(id=2, cell="a", duration_ns={"cuda:0": 3}),
    ]
    dispatch = Dispatch(host_mode="threads", h=4, lock=1.0)
    trace = both(tasks, [], dispatch, [("cpu:0", 0), ("cpu:1", 1), ("cuda:0", 2)])
    assert [(s.start_ns, s.end_ns) for s in trace.dispatches] == [(10, 14)]
    assert [s.start_ns for s in trace.launches] == [0, 14, 14]


def both(
    tasks: list[Task], links: list[Link], dispatch: Dispatch, placed: list[tuple[str, int]]
) -> Trace:
    """Return the trace on which both simulators agree."""
    names = ("cpu:0", "cpu:1", "cuda:0")
    devices = [Device(name, "cuda" if name.startswith("cuda") else "cpu") for name in names]
    graph = TaskGraph.from_tasks("small", [Cell("a")], tasks)
    profile = Profile(Cluster(tuple(devices), tuple(links)), {}, dispatch)
    plan = single_task_plan((task, device) for device, task in placed)
    trace = simulate(graph, profile, plan)
    assert happened(trace) == happened(Oracle(graph, profile, plan).run())
    return trace


def outcome(run: Callable[[], Trace]) -> dict[str, object]:
    """Return what happened, or the kind of the error and what its message names."""
    try:
        trace = run()
    except (OutOfDeviceMemory, PlanError) as error:
        message = str(error)
        launch = re.search(r"launch \d+ on [a-z]+:\d+", message)
        size = re.search(r"needs (\d+ bytes( on [a-z]+:\d+)?)", message)
        return {"error": type(error), "launch": launch and launch[0], "bytes": size and size[1]}
    by_start = [(load.start_ns, int(load.device.split(":")[1])) for load in trace.loads]
    assert by_start == sorted(by_start)
    return happened(trace)


def happened(trace: Trace) -> dict[str, object]:
    """Everything in a trace, but for the order in which it is listed."""
    return {
        "launches": [(s.device, s.tasks, s.start_ns, s.end_ns) for s in trace.launches],
        "transfers": sorted(
            (s.src, s.dst, sorted(s.tasks), s.bytes, s.start_ns, s.end_ns, s.host_input)
            for s in trace.transfers
        ),
        "dispatches": sorted((s.device, s.tasks, s.start_ns, s.end_ns) for s in trace.dispatches),
        "loads": sorted((s.device, s.cell, s.bytes, s.start_ns, s.end_ns) for s in trace.loads),
        "reveals": sorted((r.task, r.end_ns, r.known_ns) for r in trace.reveals),
        "makespan_ns": trace.makespan_ns,
    }


def shares(census: Counter[str]) -> dict[str, float]:
    """Return feature → share of the worlds whose host mode has it."""
    everywhere = {name: census[name] / census["worlds"] for name in FEATURES_OF_ALL}
    return everywhere | {
        name: census[name] / sum(census[mode] for mode in modes)
        for name, modes in FEATURES_OF_MODES.items()
    }
