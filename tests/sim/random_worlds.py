"""Random worlds for property tests: small numbers, so that ties are the normal case.

`worlds` has none of the features of `rich_worlds`: weights and memory, missing links, several
requests, noise and slowdowns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from dynpartition.conditions import GOOD_DAY, Conditions, Slowdown
from dynpartition.profile import Noise

HOST_MODES = ("none", "single", "threads", "processes", "replay")
ARRIVALS_NS = (0, 0, 0, 0, 2, 5)


@dataclass(frozen=True)
class World:
    graph: TaskGraph
    profile: Profile
    plan: Plan
    conditions: Conditions = GOOD_DAY


@dataclass(frozen=True)
class Kind:
    """What the tasks of a graph are like; the default has one request and no weights."""

    cells: tuple[Cell, ...] = (Cell("a"), Cell("b"))
    starts_ns: tuple[int, ...] = (0,)
    """Per request, when its first task may arrive."""
    joined: bool = True
    """Whether a request may read, and be revealed by, tasks of another."""
    first_id: int = 0
    tasks_min: int = 1
    hides: bool = True


PLAIN = Kind()


@st.composite
def graphs(draw: st.DrawFn, max_tasks: int = 8, kind: Kind = PLAIN) -> TaskGraph:
    tasks: list[Task] = []
    for number in range(draw(st.integers(kind.tasks_min, max_tasks))):
        request = draw(st.integers(0, len(kind.starts_ns) - 1))
        before = [task.id for task in tasks if kind.joined or task.request == request]
        earlier = st.sampled_from(before)
        inputs = draw(st.lists(earlier, max_size=3)) if before else []
        hidden = bool(before) and kind.hides and draw(st.integers(0, 2)) == 0
        tasks.append(
            Task(
                id=kind.first_id + number,
                cell=draw(st.sampled_from(kind.cells)).name,
                inputs=tuple(inputs),
                output_bytes=draw(st.integers(0, 3)),
                revealed_by=draw(earlier) if hidden else None,
                arrival_ns=kind.starts_ns[request] + draw(st.sampled_from(ARRIVALS_NS)),
                request=request,
                host_bytes=draw(st.sampled_from([0, 2])),
                returns=draw(st.booleans()),
            )
        )
    return TaskGraph.from_tasks("random", kind.cells, tasks)


@st.composite
def profiles(draw: st.DrawFn, cell_names: str = "ab") -> Profile:
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
        for cell in cell_names
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
    return World(graph, profile, draw(plans(graph, profile)))


@st.composite
def plans(draw: st.DrawFn, graph: TaskGraph, profile: Profile, favoured: int = 0) -> Plan:
    """Return a legal plan; the last device gets launches `favoured` times as often, and once."""
    names = (*profile.cluster.names, *(profile.cluster.names[-1:] * favoured))
    launches: list[Launch] = []
    for task in draw(topological_orders(graph)):
        last = launches[-1] if launches else None
        if last and draw(st.booleans()) and may_join(graph, last, task):
            launches[-1] = Launch(last.device, (*last.tasks, task))
        else:
            launches.append(Launch(draw(st.sampled_from(names)), (task,)))
    return Plan(tuple(launches))


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


# Features that a world has or has not


@st.composite
def rich_worlds(draw: st.DrawFn, max_tasks: int = 8) -> World:
    """Return a world with each feature switched on or off."""
    weights = draw(st.sampled_from([True, True, True, False]))
    requests, absent, noise, slow = (draw(st.booleans()) for _ in range(4))
    graph = draw(graphs(max_tasks, draw(kinds(weights=weights, requests=requests))))
    profile = draw(profiles("abc"))
    favoured = draw(st.integers(0, 3)) if weights else 0
    plan = draw(plans(graph, profile, favoured))
    world = World(graph, profile, plan, draw(conditions(profile.cluster.names, slow=slow)))
    if absent:
        world = without_links(world, draw(st.lists(st.booleans(), min_size=6, max_size=6)))
    if noise:
        world = replace(world, profile=replace(world.profile, noise=draw(noises())))
    return draw(tight_memory(world)) if weights else world


@st.composite
def kinds(draw: st.DrawFn, *, weights: bool, requests: bool) -> Kind:
    names = draw(st.permutations("abc")) if weights else "ab"
    sizes = st.sampled_from([3, 2, 3, 1, 2, 0]) if weights else st.just(0)
    later = st.sampled_from([0, 3, 8, 15])
    return Kind(
        tuple(Cell(name, draw(sizes)) for name in names),
        (0, *draw(st.lists(later, min_size=1, max_size=2))) if requests else (0,),
        draw(st.booleans()),
        draw(st.sampled_from([0, 0, 7])),
        draw(st.sampled_from([4, 1, 6])) if weights else 1,
        draw(st.booleans()) or not weights,  # what may yet be read is never freed
    )


@st.composite
def conditions(draw: st.DrawFn, names: tuple[str, ...], *, slow: bool) -> Conditions:
    incident = st.builds(
        Slowdown,
        st.sampled_from(names),
        st.integers(0, 20),
        st.sampled_from([0.3, 0.5, 0.5, 1.0, 2.0, 3.7]),
    )
    slowdowns = st.lists(
        incident,
        min_size=1,
        max_size=4,
        unique_by=lambda slowdown: (slowdown.device, slowdown.at_ns),
    )
    return Conditions(
        seed=draw(st.integers(0, 3)),
        luck=draw(st.sampled_from([None, None, "key"])),
        slowdowns=tuple(draw(slowdowns)) if slow else (),
    )


def noises() -> st.SearchStrategy[Noise]:
    sigma = st.sampled_from([((1, 0.0),), ((1, 0.1),), ((1, 0.5),), ((2, 0.6), (8, 0.1))])
    return st.builds(
        Noise,
        sigma=sigma,
        stall_probability=st.sampled_from([0.0, 0.3, 1.0]),
        stall_ns=st.integers(0, 4),
    )


def without_links(world: World, chosen: list[bool]) -> World:
    """Leave out those of the `chosen` links over which no output or input has to travel."""
    cluster = world.profile.cluster
    needed = links_needed(world)
    links = tuple(
        link
        for link, absent in zip(cluster.links, chosen, strict=False)
        if not absent or (link.src, link.dst) in needed
    )
    return replace(world, profile=replace(world.profile, cluster=replace(cluster, links=links)))


def links_needed(world: World) -> set[tuple[str, str]]:
    graph, host, place = world.graph, world.profile.cluster.host, world.plan.placement()
    needed = {
        (place[source], place[task])
        for task in range(len(graph))
        for source in graph.input_lists[task]
    }
    needed |= {(host, place[task]) for task in range(len(graph)) if graph.host_bytes[task]}
    answers = [task for task in range(len(graph)) if graph.returns[task]]
    return needed | {(place[task], host) for task in [*answers, *graph.revealers]}


@st.composite
def tight_memory(draw: st.DrawFn, world: World) -> World:
    """Give most devices little more memory than their largest launch needs at once."""
    cluster, devices = world.profile.cluster, []
    for device in cluster.devices:
        least, slack = most_at_once(world, device.name), draw(st.sampled_from(SLACK_BYTES))
        limit = max(1, least + slack) if draw(st.integers(0, 3)) else None
        cells = draw(st.permutations([*world.graph.cell_names, "unknown"]))
        listed = cells[: draw(st.sampled_from([2, 1, 0, 3, 4]))]
        device = replace(device, memory_bytes=limit)
        if draw(st.booleans()):
            device = replace(device, resident=those_that_fit(world.graph, listed, limit))
        devices.append(device)
    cluster = replace(cluster, devices=tuple(devices))
    return replace(world, profile=replace(world.profile, cluster=cluster))


SLACK_BYTES = (2, 3, 1, 4, 2, 0, 5, 3, 1, 6, 8, -1)


def most_at_once(world: World, device: str) -> int:
    """Return the bytes of weights, inputs and outputs of the largest launch on `device`."""
    graph, most = world.graph, 0
    for launch in world.plan.launches:
        if launch.device == device:
            sources = {source for task in launch.tasks for source in graph.input_lists[task]}
            outputs = sum(int(graph.output_bytes[task]) for task in {*sources, *launch.tasks})
            host_bytes = sum(int(graph.host_bytes[task]) for task in launch.tasks)
            weights = graph.cells[int(graph.cell_of[launch.tasks[0]])].param_bytes
            most = max(most, weights + outputs + host_bytes)
    return most


def those_that_fit(graph: TaskGraph, listed: list[str], limit: int | None) -> tuple[str, ...]:
    size = {cell.name: cell.param_bytes for cell in graph.cells}
    fitting: list[str] = []
    for cell in listed:
        if limit is None or sum(size.get(c, 0) for c in [*fitting, cell]) <= limit:
            fitting.append(cell)
    return tuple(fitting)
