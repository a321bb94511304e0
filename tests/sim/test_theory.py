"""What theory says about a run, whatever the engine."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Conditions,
    Curve,
    Device,
    GraphWorkload,
    Launch,
    Link,
    Plan,
    PricedGraph,
    Profile,
    Slowdown,
    Task,
    TaskGraph,
    Trace,
    lower,
    single_task_plan,
)
from dynpartition.costs import transfer_ns
from dynpartition.pricing import price
from dynpartition.profile import Dispatch
from dynpartition.sim import SimBackend, simulate
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.worlds import Engine, World, outcome, random_world
from dynpartition.types import frozen

ENGINES: dict[str, Engine] = {"reference": simulate, "kernel": simulate_compiled}
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
seeds = st.integers(0, 2**40)
many = settings(max_examples=150)
LINE = AffineCost(latency_ns=7, bandwidth_bytes_per_s=500_000_000)
FREE = AffineCost(0, 10**9)
POINTS_MAX = 9
"""Largest batch in a random world."""


def run(engine: Engine, world: World) -> Trace:
    """Return the trace of a world in which nothing runs out."""
    trace = outcome(engine, world)
    assert isinstance(trace, Trace)
    return trace


def full_cluster(count: int, cost: AffineCost) -> Cluster:
    names = [f"cpu:{number}" for number in range(count)]
    links = tuple(Link(a, b, cost) for a in names for b in names if a != b)
    return Cluster(tuple(Device(name, "cpu") for name in names), links)


def own_cost(
    number: int, inputs: tuple[int, ...], duration_ns: int, names: tuple[str, ...]
) -> Task:
    costs = dict.fromkeys(names, duration_ns)
    return Task(id=number, cell="a", inputs=inputs, output_bytes=10, duration_ns=costs)


def world_of(cluster: Cluster, tasks: list[Task], places: list[int]) -> World:
    graph = TaskGraph.from_tasks("theory", [Cell("a")], tasks)
    plan = single_task_plan((task, cluster.names[place]) for task, place in enumerate(places))
    return World(graph, Profile(cluster, {}), plan)


steps = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), min_size=1, max_size=30)


@engines
@many
@given(steps=steps)
def test_a_chain_takes_the_sum_of_its_launches_and_transfers(
    engine: Engine, steps: list[tuple[int, int]]
) -> None:
    """0 → 1 → 2 → … on any devices: nothing can overlap."""
    cluster = full_cluster(4, LINE)
    tasks = [
        own_cost(i, (i - 1,) if i else (), duration_ns, cluster.names)
        for i, (duration_ns, _) in enumerate(steps)
    ]
    places = [place for _, place in steps]
    trace = run(engine, world_of(cluster, tasks, places))
    crossings = sum(a != b for a, b in pairwise(places))
    total_ns = sum(duration_ns for duration_ns, _ in steps)
    assert trace.makespan_ns == total_ns + crossings * transfer_ns(LINE, 10)


@engines
@many
@given(steps=steps)
def test_a_fork_and_join_takes_as_long_as_its_busiest_device(
    engine: Engine, steps: list[tuple[int, int]]
) -> None:
    """One task, then n independent ones over free links, then one that reads them all."""
    cluster = full_cluster(4, FREE)
    n = len(steps)
    middle = [
        own_cost(i, (0,), duration_ns, cluster.names) for i, (duration_ns, _) in enumerate(steps, 1)
    ]
    ends = [
        own_cost(0, (), 5, cluster.names),
        own_cost(n + 1, tuple(range(1, n + 1)), 5, cluster.names),
    ]
    tasks = [replace(task, output_bytes=0) for task in (*middle, *ends)]
    trace = run(engine, world_of(cluster, tasks, [0, *(place for _, place in steps), 0]))
    load_ns = [0] * 4
    for duration_ns, place in steps:
        load_ns[place] += duration_ns
    assert trace.makespan_ns == 10 + max(load_ns)


def without_memory(world: World) -> World:
    """Return the world on devices that hold everything."""
    devices = tuple(
        replace(device, memory_bytes=None, resident=None)
        for device in world.profile.cluster.devices
    )
    cluster = replace(world.profile.cluster, devices=devices)
    return replace(world, profile=replace(world.profile, cluster=cluster))


def on_a_calm_day(world: World) -> World:
    return replace(world, profile=replace(world.profile, noise=None), conditions=Conditions())


@engines
@many
@given(seed=seeds)
def test_no_run_beats_its_critical_path_or_a_busy_device_or_link(engine: Engine, seed: int) -> None:
    world = without_memory(on_a_calm_day(random_world(seed)))
    trace = run(engine, world)
    end_ns = trace.makespan_ns + int(world.graph.arrival_ns.min())
    assert max(critical_path_ns(world)) <= end_ns
    cluster = world.profile.cluster
    held_ns: dict[str, int] = {}
    for span in trace.transfers:
        link = cluster.links[cluster.link_index(cluster.index(span.src), cluster.index(span.dst))]
        for name in set(link.held):
            held_ns[name] = held_ns.get(name, 0) + span.end_ns - span.start_ns
    last_ns = max(span.end_ns for span in (*trace.launches, *trace.transfers))
    assert max(held_ns.values(), default=0) <= last_ns
    for device in cluster.names:
        assert trace.busy_ns(device) <= end_ns


def critical_path_ns(world: World) -> list[int]:
    """Return the earliest end of each launch if no link were shared and the host were idle."""
    program = lower(world.graph, world.profile.cluster, world.plan)
    priced = PricedGraph(world.graph, world.profile)
    launch_ns = price(program, priced).launch_ns
    ends: list[int] = []
    last = [0] * len(world.profile.cluster.names)
    for launch, device in enumerate(program.launch_device.tolist()):
        start_ns = max(int(program.launch_arrival_ns[launch]), last[device])
        for copy in program.launch_waits.rows[launch]:
            producer = int(program.copy_launch[copy])
            ready_ns = 0 if program.copy_is_input[copy] else ends[producer]
            size, link = int(program.copy_bytes[copy]), int(program.copy_link[copy])
            start_ns = max(start_ns, ready_ns + priced.transfer_ns(link, size))
        ends.append(start_ns + launch_ns[launch])
        last[device] = ends[-1]
    return ends


@engines
@pytest.mark.parametrize(("load", "seed"), [(0.3, 1), (0.5, 2), (0.7, 3)])
def test_waiting_times_are_those_of_an_m_d_1_queue(engine: Engine, load: float, seed: int) -> None:
    """Poisson arrivals, one server, service D: the mean wait is ρ·D / (2·(1 − ρ)).

    The mean over batches of 1,000 customers lies within its own 99.9 % interval (Student's t),
    and that interval is narrow enough to tell a wrong formula.
    """
    service_ns, customers, batches = 10_000, 24_000, 24
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    gaps_ns = rng.exponential(service_ns / load, customers)
    arrivals_ns = np.rint(np.cumsum(gaps_ns)).astype(np.int64).tolist()
    tasks = [
        Task(id=i, cell="a", duration_ns={"cpu:0": service_ns}, arrival_ns=at_ns, request=i)
        for i, at_ns in enumerate(arrivals_ns)
    ]
    trace = run(engine, world_of(full_cluster(1, FREE), tasks, [0] * customers))
    waits = np.array([span.start_ns for span in trace.launches]) - np.array(arrivals_ns)
    means = waits.reshape(batches, -1).mean(axis=1)
    expected_ns = load * service_ns / (2 * (1 - load))
    half_ns = stats.t.ppf(0.9995, batches - 1) * means.std(ddof=1) / batches**0.5
    assert abs(means.mean() - expected_ns) < half_ns < 0.25 * expected_ns


@engines
@many
@given(seed=seeds, power=st.integers(1, 20))
def test_scaling_all_times_and_bytes_scales_the_trace(
    engine: Engine, seed: int, power: int
) -> None:
    """Twice as slow everywhere is the same run in slow motion, to the ns."""
    world = scalable(random_world(seed, without=("huge numbers",)))
    ends = [outcome(engine, scaled(world, factor)) for factor in (1, 2**power)]
    if isinstance(ends[0], Trace):
        assert ends[1] == scaled_trace(ends[0], 2**power)
    else:
        assert isinstance(ends[1], str)


def scalable(world: World) -> World:
    """Return the world without what is rounded: odd shares and speeds, tables, noise."""
    profile = world.profile
    whole = [Slowdown(s.device, s.at_ns, 0.5) for s in world.conditions.slowdowns]
    links = tuple(
        replace(link, cost=AffineCost(number % 3, 10**9 // (1 + number % 2)))
        for number, link in enumerate(profile.cluster.links)
    )
    cells = {
        cell: {device: resampled(curve) for device, curve in curves.items()}
        for cell, curves in profile.cells.items()
    }
    lock = float(round(profile.dispatch.lock))
    return replace(
        world,
        profile=replace(
            profile,
            cluster=replace(profile.cluster, links=links),
            cells=cells,
            dispatch=replace(profile.dispatch, lock=lock),
            noise=None,
        ),
        conditions=Conditions(slowdowns=tuple(whole)),
    )


def resampled(curve: Curve) -> Curve:
    """Return the curve with a point for every batch, so that nothing is interpolated."""
    every = range(1, POINTS_MAX + 1)
    return Curve(tuple(every), tuple(curve.at(k) for k in every))


def scaled(world: World, factor: int) -> World:
    graph, profile = world.graph, world.profile
    cluster = replace(
        profile.cluster,
        devices=tuple(
            replace(device, memory_bytes=device.memory_bytes and factor * device.memory_bytes)
            for device in profile.cluster.devices
        ),
        links=tuple(
            replace(link, cost=scaled_cost(link.cost, factor)) for link in profile.cluster.links
        ),
    )
    cells = {
        cell: {
            device: Curve(curve.batch, tuple(factor * ns for ns in curve.duration_ns))
            for device, curve in curves.items()
        }
        for cell, curves in profile.cells.items()
    }
    dispatch = scaled_dispatch(profile.dispatch, factor)
    slowdowns = [replace(s, at_ns=factor * s.at_ns) for s in world.conditions.slowdowns]
    return replace(
        world,
        graph=scaled_graph(graph, factor),
        profile=replace(profile, cluster=cluster, cells=cells, dispatch=dispatch),
        conditions=Conditions(slowdowns=tuple(slowdowns)),
    )


def scaled_graph(graph: TaskGraph, factor: int) -> TaskGraph:
    return replace(
        graph,
        cells=tuple(Cell(cell.name, factor * cell.param_bytes) for cell in graph.cells),
        output_bytes=frozen(factor * graph.output_bytes),
        host_bytes=frozen(factor * graph.host_bytes),
        arrival_ns=frozen(factor * graph.arrival_ns),
        durations={
            device: frozen(np.where(row < 0, row, factor * row))
            for device, row in graph.durations.items()
        },
    )


def scaled_dispatch(dispatch: Dispatch, factor: int) -> Dispatch:
    return replace(
        dispatch,
        h=scaled_numbers(dispatch.h, factor),
        h_copy=factor * dispatch.h_copy,
        handoff_ns=factor * dispatch.handoff_ns,
        bookkeeping_ns=scaled_numbers(dispatch.bookkeeping_ns, factor),
        copy_in={name: scaled_cost(cost, factor) for name, cost in dispatch.copy_in.items()},
        copy_out={name: scaled_cost(cost, factor) for name, cost in dispatch.copy_out.items()},
        sync_ns=factor * dispatch.sync_ns,
        decision_ns=factor * dispatch.decision_ns,
    )


def scaled_numbers(numbers, factor: int):
    if isinstance(numbers, int):
        return factor * numbers
    return {key: scaled_numbers(value, factor) for key, value in numbers.items()}


def scaled_cost(cost, factor: int) -> AffineCost:
    return replace(cost, latency_ns=factor * cost.latency_ns)


def scaled_trace(trace: Trace, factor: int) -> Trace:
    def slower(spans):
        times = ("start_ns", "end_ns", "known_ns", "bytes")
        return tuple(
            replace(s, **{t: factor * getattr(s, t) for t in times if hasattr(s, t)}) for s in spans
        )

    return Trace(
        factor * trace.makespan_ns,
        slower(trace.launches),
        slower(trace.transfers),
        slower(trace.dispatches),
        slower(trace.reveals),
        slower(trace.loads),
    )


@engines
@many
@given(seed=seeds)
def test_names_and_ids_do_not_matter_as_long_as_their_order_stays(
    engine: Engine, seed: int
) -> None:
    world = on_a_calm_day(random_world(seed))
    ends = [outcome(engine, each) for each in (world, relabelled(world))]
    if isinstance(ends[0], Trace):
        assert ends[1] == relabelled_trace(ends[0])
    else:
        assert isinstance(ends[1], str)


def relabelled(world: World) -> World:
    """Put an x in front of each name of a cell and a device, and spread the ids."""
    graph, profile = world.graph, world.profile
    d = profile.dispatch
    dispatch = replace(
        d,
        h=renamed(d.h),
        bookkeeping_ns=renamed(d.bookkeeping_ns),
        copy_in=renamed(d.copy_in),
        copy_out=renamed(d.copy_out),
    )
    cluster = Cluster(
        tuple(
            replace(
                device,
                name=f"x{device.name}",
                resident=device.resident and tuple(f"x{cell}" for cell in device.resident),
            )
            for device in profile.cluster.devices
        ),
        tuple(
            replace(
                link,
                src=f"x{link.src}",
                dst=f"x{link.dst}",
                resources=tuple(f"x{name}" for name in link.resources),
            )
            for link in profile.cluster.links
        ),
        f"x{profile.cluster.host}",
    )
    launches = tuple(replace(each, device=f"x{each.device}") for each in world.plan.launches)
    return replace(
        world,
        graph=replace(
            graph,
            ids=frozen(3 * graph.ids + 5),
            cells=tuple(Cell(f"x{cell.name}", cell.param_bytes) for cell in graph.cells),
            durations=renamed(graph.durations),
        ),
        profile=replace(profile, cluster=cluster, cells=renamed(profile.cells), dispatch=dispatch),
        plan=Plan(launches),
    )


def renamed(numbers):
    if not isinstance(numbers, dict):
        return numbers
    return {f"x{key}": renamed(value) for key, value in numbers.items()}


def relabelled_trace(trace: Trace) -> Trace:
    def other(spans):
        names = ("src", "dst", "device", "cell")
        return tuple(
            replace(s, **{n: f"x{getattr(s, n)}" for n in names if hasattr(s, n)}) for s in spans
        )

    return Trace(
        trace.makespan_ns,
        other(trace.launches),
        other(trace.transfers),
        other(trace.dispatches),
        trace.reveals,
        other(trace.loads),
    )


@engines
@many
@given(sizes=st.lists(st.integers(1, 10**6), min_size=2, max_size=8), slow=st.integers(0, 6))
def test_halving_a_bandwidth_on_the_critical_path_costs_what_it_should(
    engine: Engine, sizes: list[int], slow: int
) -> None:
    """A chain that goes round the devices: only one link between each two neighbours."""
    count, slow = len(sizes), slow % (len(sizes) - 1)
    cluster = full_cluster(count, AffineCost(3, 10**9))
    tasks = [
        replace(own_cost(i, (i - 1,) if i else (), 20, cluster.names), output_bytes=size)
        for i, size in enumerate(sizes)
    ]
    world = world_of(cluster, tasks, list(range(count)))
    links = tuple(
        replace(link, cost=AffineCost(3, 5 * 10**8))
        if link.src == cluster.names[slow] and link.dst == cluster.names[slow + 1]
        else link
        for link in cluster.links
    )
    slower = replace(world, profile=Profile(replace(cluster, links=links), {}))
    change_ns = run(engine, slower).makespan_ns - run(engine, world).makespan_ns
    assert change_ns == sizes[slow]


# Nothing is seen before its time.


def before(trace: Trace, at_ns: int) -> list[tuple]:
    """Return everything that began before a time."""
    known = [("reveal", r.task, r.end_ns, r.known_ns) for r in trace.reveals if r.known_ns < at_ns]
    spans = [*trace.launches, *trace.transfers, *trace.dispatches, *trace.loads]
    began = [span for span in spans if span.start_ns < at_ns]
    return [*known, *sorted((type(span).__name__, repr(span)) for span in began)]


def on_the_same_luck(world: World) -> World:
    return replace(world, conditions=replace(world.conditions, luck="the same"))


def other_tasks(world: World, chosen: set[int], **changes: object) -> World:
    """Return the world with the chosen tasks otherwise: sizes and durations."""
    tasks = [
        replace(
            task,
            output_bytes=task.output_bytes + 5,
            host_bytes=3 * task.host_bytes,
            duration_ns=dict.fromkeys(world.profile.cluster.names, 9),
            **changes,
        )
        if number in chosen
        else task
        for number, task in enumerate(world.graph.tasks())
    ]
    return replace(world, graph=TaskGraph.from_tasks("other", world.graph.cells, tasks))


@engines
@many
@given(seed=seeds, number=st.integers(0, 9))
def test_nothing_hidden_can_be_seen_before_it_is_known(
    engine: Engine, seed: int, number: int
) -> None:
    world = on_the_same_luck(without_memory(random_world(seed)))
    if not world.graph.revealers or has_rival_readers(world):
        return
    revealer = world.graph.revealers[number % len(world.graph.revealers)]
    pair = [world, with_other_secret(world, revealer)]
    traces = [run(engine, each) for each in pair]
    known_ns = [r.known_ns for trace in traces for r in trace.reveals if r.task == revealer]
    assert known_ns[0] == known_ns[1]
    assert before(traces[0], known_ns[0]) == before(traces[1], known_ns[0])


def has_rival_readers(world: World) -> bool:
    """Whether two launches on one device read one output and wait for different things.

    Which of them will be known first nobody can tell; the plan file says who asks for the output.
    """
    graph, made, seen = world.graph, {}, {}
    for launch in world.plan.launches:
        gates = {gate for task in launch.tasks for gate in graph.gates[task]}
        arrival_ns = max(graph.available_ns[task] for task in launch.tasks)
        made |= dict.fromkeys(launch.tasks, (gates, arrival_ns))
        for source in {source for task in launch.tasks for source in graph.input_lists[task]}:
            before, before_ns = made[source]
            later_ns = arrival_ns if arrival_ns > before_ns else 0
            seen.setdefault((source, launch.device), []).append((gates - before, later_ns))
    return any(
        not ((a <= b and a_ns <= b_ns) or (b <= a and b_ns <= a_ns))
        for rows in seen.values()
        for a, a_ns in rows
        for b, b_ns in rows
    )


def with_other_secret(world: World, revealer: int) -> World:
    """Change what `revealer` hides; all tasks that reveal something still do."""
    graph = world.graph
    hidden = {task for task, gates in enumerate(graph.gates) if revealer in gates}
    cut = {task for task in hidden if graph.revealed_by[task] in (-1, revealer)}
    other = other_tasks(world, cut, inputs=(), revealed_by=int(graph.ids[revealer]))
    return other_tasks(other, hidden - cut)


@engines
@many
@given(seed=seeds)
def test_nothing_of_a_later_arrival_can_be_seen_before_it(engine: Engine, seed: int) -> None:
    world = on_the_same_luck(without_memory(random_world(seed)))
    for at_ns in sorted(set(world.graph.available_ns) - {0}):
        later = {t for t, when in enumerate(world.graph.available_ns) if when >= at_ns}
        gone = {t for t in later if not {*world.graph.gates[t]}.isdisjoint(later)}
        other = other_tasks(world, later - gone, arrival_ns=at_ns + 2)
        traces = [run(engine, each) for each in (world, other)]
        assert before(traces[0], at_ns) == before(traces[1], at_ns)


@many
@given(seed=seeds, number=st.integers(0, 9))
def test_a_session_cannot_see_what_is_hidden(seed: int, number: int) -> None:
    world = on_a_calm_day(without_memory(random_world(seed)))
    if not world.graph.revealers:
        return
    revealer = world.graph.revealers[number % len(world.graph.revealers)]
    ends = [in_a_session(each) for each in (world, with_other_secret(world, revealer))]
    known_ns = [at_ns for trace, order in ends for at_ns in known(trace, order, revealer)]
    assert known_ns[0] == known_ns[1]
    assert before(ends[0][0], known_ns[0]) == before(ends[1][0], known_ns[0])


def in_a_session(world: World) -> tuple[Trace, tuple[int, ...]]:
    """Place each task where the plan does, as it is shown; return the trace and that order."""
    home = world.plan.placement()
    with SimBackend(world.profile).open(GraphWorkload(world.graph)) as session:
        more = True
        while more:
            order, placed = session.task_order, session.plan.placement()
            fresh = [task for task in session.graph.topological_order if task not in placed]
            more = session.advance([Launch(home[order[task]], (task,)) for task in fresh])
        return session.trace, session.task_order


def known(trace: Trace, order: tuple[int, ...], revealer: int) -> list[int]:
    return [r.known_ns for r in trace.reveals if order[r.task] == revealer]
