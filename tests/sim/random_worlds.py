"""Random worlds for property tests: small numbers, so that ties are the normal case."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    Launch,
    Link,
    Plan,
    Profile,
    Task,
    TaskGraph,
)

HOST_MODES = ("none", "single", "threads", "processes", "replay")


@dataclass(frozen=True)
class World:
    graph: TaskGraph
    profile: Profile
    plan: Plan


@st.composite
def graphs(draw: st.DrawFn, max_tasks: int = 8) -> TaskGraph:
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, max_tasks))):
        earlier = st.integers(0, number - 1)
        inputs = draw(st.lists(earlier, max_size=3)) if number else []
        hidden = bool(number) and draw(st.integers(0, 2)) == 0
        tasks.append(
            Task(
                id=number,
                cell=draw(st.sampled_from("ab")),
                inputs=tuple(inputs),
                output_bytes=draw(st.integers(0, 3)),
                revealed_by=draw(earlier) if hidden else None,
                arrival_ns=draw(st.sampled_from([0, 0, 0, 0, 2, 5])),
                host_bytes=draw(st.sampled_from([0, 2])),
                returns=draw(st.booleans()),
            )
        )
    return TaskGraph.from_tasks("random", [Cell("a"), Cell("b")], tasks)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    count = draw(st.sampled_from([1, 2, 2, 3, 3, 3]))
    kinds = draw(st.lists(st.sampled_from(["cpu", "cuda"]), min_size=count, max_size=count))
    devices = [Device(f"{kind}:{number}", kind) for number, kind in enumerate(kinds)]
    names = [device.name for device in devices]
    links = [draw(links_between(a, b)) for a in names for b in names if a != b]
    short = st.integers(0, 4)
    cells = {
        cell: {
            name: Curve((1, 3), (first, first + draw(short)))
            for name in names
            for first in [draw(st.integers(0, 6))]
        }
        for cell in "ab"
    }
    small = st.sampled_from([0, 0, 1])
    mode = draw(st.sampled_from((*HOST_MODES, "threads")))  # the mode with most to go wrong
    copies = {name: AffineCost(draw(small), 10**9) for name in names}
    dispatch = Dispatch(
        host_mode=mode,
        h=draw(st.integers(0, 2)),
        h_copy=draw(st.sampled_from([0, 1, 2])),
        lock=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        handoff_ns=draw(st.sampled_from([0, 1, 2])),
        queue_depth=draw(st.sampled_from([None, 1, 2])),
        bookkeeping_ns=draw(small),
        copy_in=copies if draw(st.booleans()) else {},
        copy_out=copies if draw(st.booleans()) else {},
        sync_ns=draw(small),
        decision_ns=draw(small),
    )
    host = draw(st.sampled_from(["", *names]))
    return Profile(Cluster(tuple(devices), tuple(links), host), cells, dispatch)


def links_between(src: str, dst: str) -> st.SearchStrategy[Link]:
    return st.builds(
        Link,
        st.just(src),
        st.just(dst),
        st.builds(AffineCost, st.integers(0, 2), st.sampled_from([10**9, 5 * 10**8])),
        st.sampled_from([(), ("bus",), ("bus",), ("bus", "port")]),
        st.sampled_from([None, "src", "dst", "dst", "both", "both"]),
    )


@st.composite
def worlds(draw: st.DrawFn, max_tasks: int = 8) -> World:
    graph, profile = draw(graphs(max_tasks)), draw(profiles())
    names = profile.cluster.names
    launches: list[Launch] = []
    for task in draw(topological_orders(graph)):
        last = launches[-1] if launches else None
        if last and draw(st.booleans()) and may_join(graph, last, task):
            launches[-1] = Launch(last.device, (*last.tasks, task))
        else:
            launches.append(Launch(draw(st.sampled_from(names)), (task,)))
    return World(graph, profile, Plan(tuple(launches)))


def may_join(graph: TaskGraph, launch: Launch, task: int) -> bool:
    same_cell = graph.cell_of[launch.tasks[0]] == graph.cell_of[task]
    needs = {*graph.input_lists[task], int(graph.revealed_by[task])}
    return bool(same_cell) and needs.isdisjoint(launch.tasks)


@st.composite
def topological_orders(draw: st.DrawFn, graph: TaskGraph) -> list[int]:
    order: list[int] = []
    left = set(range(len(graph)))
    while left:
        ready = [
            task
            for task in sorted(left)
            if {*graph.input_lists[task], int(graph.revealed_by[task])} - {-1} <= set(order)
        ]
        order.append(draw(st.sampled_from(ready)))
        left.remove(order[-1])
    return order
