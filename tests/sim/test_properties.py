"""What must hold in every world, whatever its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    FixedPlan,
    GraphWorkload,
    Launch,
    Link,
    Plan,
    PricedGraph,
    Profile,
    Scheduler,
    Task,
    TaskGraph,
    drive,
    run,
)
from dynpartition.sim import SimBackend, simulate
from dynpartition.types import frozen
from dynpartition.validator import find_violations
from tests.sim.random_worlds import World, graphs, profiles, worlds

many = settings(max_examples=300, deadline=None)


@many
@given(worlds())
def test_the_independent_validator_accepts_every_trace(world: World) -> None:
    trace = simulate(world.graph, world.profile, world.plan)
    found = find_violations(world.graph, world.profile, world.plan, trace, exact_durations=True)
    assert found == []


@many
@given(worlds(), st.integers(1, 30))
def test_scaling_every_cost_by_a_power_of_two_scales_the_trace(world: World, power: int) -> None:
    factor = 2**power
    small = simulate(world.graph, scaled(world.profile, 1), world.plan)
    large = simulate(scaled_graph(world.graph, factor), scaled(world.profile, factor), world.plan)
    assert large.makespan_ns == factor * small.makespan_ns
    assert [s.start_ns for s in large.launches] == [factor * s.start_ns for s in small.launches]
    assert [s.end_ns for s in large.transfers] == [factor * s.end_ns for s in small.transfers]


def scaled(profile: Profile, factor: int) -> Profile:
    """Multiply every time; curves get a point for each batch used, so that nothing is rounded."""
    cells = {
        cell: {
            device: Curve((1, 2, 3), tuple(factor * curve.at(k) for k in (1, 2, 3)))
            for device, curve in curves.items()
        }
        for cell, curves in profile.cells.items()
    }
    links = tuple(
        replace(link, cost=scaled_cost(link.cost, factor)) for link in profile.cluster.links
    )
    d = profile.dispatch
    dispatch = replace(
        d,
        h=factor * d.h,
        h_copy=factor * d.h_copy,
        lock=float(round(d.lock)),
        handoff_ns=factor * d.handoff_ns,
        bookkeeping_ns=factor * d.bookkeeping_ns,
        copy_in={name: scaled_cost(cost, factor) for name, cost in d.copy_in.items()},
        copy_out={name: scaled_cost(cost, factor) for name, cost in d.copy_out.items()},
        sync_ns=factor * d.sync_ns,
        decision_ns=factor * d.decision_ns,
    )
    return Profile(replace(profile.cluster, links=links), cells, dispatch)


def scaled_cost(cost: AffineCost, factor: int) -> AffineCost:
    return replace(cost, latency_ns=factor * cost.latency_ns)


def scaled_graph(graph: TaskGraph, factor: int) -> TaskGraph:
    return replace(
        graph,
        output_bytes=frozen(factor * graph.output_bytes),
        host_bytes=frozen(factor * graph.host_bytes),
        arrival_ns=frozen(factor * graph.arrival_ns),
    )


@many
@given(worlds())
def test_bounds(world: World) -> None:
    """No run beats its critical path or the load of its busiest device."""
    trace = simulate(world.graph, world.profile, world.plan)
    priced = PricedGraph(world.graph, world.profile)
    first_ns = int(world.graph.arrival_ns.min())
    finish: dict[int, int] = {}
    for launch in world.plan.launches:
        device = world.profile.cluster.index(launch.device)
        sources = [s for task in launch.tasks for s in world.graph.input_lists[task]]
        start_ns = max((finish[s] for s in sources), default=0)
        end_ns = start_ns + priced.compute_ns(launch.tasks, device)
        finish.update(dict.fromkeys(launch.tasks, end_ns))
    assert trace.makespan_ns >= max(finish.values()) - first_ns
    for device in world.profile.cluster.names:
        assert trace.makespan_ns + first_ns >= trace.busy_ns(device)


@many
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_links_in_the_profile_does_not_matter(world: World, random: object) -> None:
    links = list(world.profile.cluster.links)
    random.shuffle(links)  # type: ignore[attr-defined]
    shuffled = replace(world.profile, cluster=replace(world.profile.cluster, links=tuple(links)))
    assert simulate(world.graph, shuffled, world.plan) == simulate(
        world.graph, world.profile, world.plan
    )


class Alternating(Scheduler):
    """Places the n-th launch on the n-th device, round and round, and remembers what it saw."""

    name = "alternating"

    def __init__(self) -> None:
        self.seen: list[tuple[str, Plan]] = []

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        self.seen.append((graph.digest, planned))
        placed = planned.placement()
        fresh = [task for task in graph.topological_order if task not in placed]
        names = profile.cluster.names
        return [Launch(names[task % len(names)], (task,)) for task in fresh]


@many
@given(graphs(), profiles())
def test_a_session_gives_the_trace_of_its_complete_plan(graph: TaskGraph, profile: Profile) -> None:
    """Revealing step by step, and simulating the plan known afterwards, are the same run."""
    session = SimBackend(profile).open(GraphWorkload(graph))
    outcome = drive(session, Alternating(), profile)
    complete = simulate(graph, profile, session.complete_plan)
    assert outcome.trace.makespan_ns == complete.makespan_ns
    assert [(s.start_ns, s.end_ns) for s in outcome.trace.launches] == [
        (s.start_ns, s.end_ns) for s in complete.launches
    ]
    assert len(outcome.trace.transfers) == len(complete.transfers)
    assert len(outcome.graph) == len(graph)


@many
@given(graphs(), profiles())
def test_replaying_a_plan_gives_the_same_trace(graph: TaskGraph, profile: Profile) -> None:
    backend = SimBackend(profile)
    first = run(backend, GraphWorkload(graph), Alternating())
    assert run(backend, GraphWorkload(graph), FixedPlan(first.plan)).trace == first.trace


@many
@given(graphs(), profiles(), st.integers(0, 7))
def test_nothing_hidden_can_be_seen(graph: TaskGraph, profile: Profile, number: int) -> None:
    """Change what one revealer hides: all that was shown and decided before stays the same."""
    if not graph.revealers:
        return
    revealer = graph.revealers[number % len(graph.revealers)]
    shown = [seen_before(each, profile, revealer) for each in (graph, swapped(graph, revealer))]
    # A task behind two revealers shows later than one behind the first alone: the shorter list
    # ends when the first result becomes visible.
    common = min(map(len, shown))
    assert common > 0
    assert shown[0][:common] == shown[1][:common]


def swapped(graph: TaskGraph, revealer: int) -> TaskGraph:
    """Give the tasks behind `revealer` other costs and outputs, and add one more."""
    tasks = [
        replace(task, output_bytes=task.output_bytes + 3, cell="a" if task.cell == "b" else "b")
        if revealer in graph.gates[number]
        else task
        for number, task in enumerate(graph.tasks())
    ]
    extra = Task(id=len(graph), cell="a", inputs=(revealer,), revealed_by=revealer)
    return TaskGraph.from_tasks("swapped", graph.cells, [*tasks, extra])


def seen_before(graph: TaskGraph, profile: Profile, revealer: int) -> list[tuple[str, Plan]]:
    """Return what the scheduler was shown before the result of `revealer` was known."""
    scheduler = Alternating()
    session = SimBackend(profile).open(GraphWorkload(graph))
    more = True
    while more and not any(revealer in graph.gates[task] for task in session.task_order):
        more = session.advance(scheduler.schedule(session.graph, profile, session.plan))
    return scheduler.seen


def test_fork_join_and_chain_have_their_known_makespans() -> None:
    """n equal tasks on m devices take ⌈n/m⌉ rounds; a chain takes the sum, wherever it runs."""
    cells = [Cell("a")]
    free = AffineCost(0, 10**9)
    for devices, n in ((1, 5), (2, 5), (3, 7), (4, 4)):
        cluster = cluster_of(devices, free)
        profile = Profile(cluster, {"a": {name: Curve((1,), (10,)) for name in cluster.names}})
        fork = [Task(id=0, cell="a"), *(Task(id=i, cell="a", inputs=(0,)) for i in range(1, n + 1))]
        join = Task(id=n + 1, cell="a", inputs=tuple(range(1, n + 1)))
        graph = TaskGraph.from_tasks("fork-join", cells, [*fork, join])
        plan = Plan(
            tuple(Launch(cluster.names[task % devices], (task,)) for task in range(len(graph)))
        )
        assert simulate(graph, profile, plan).makespan_ns == 10 * (2 + -(-n // devices))
        chain = [Task(id=i, cell="a", inputs=(i - 1,) if i else ()) for i in range(n)]
        line = TaskGraph.from_tasks("chain", cells, chain)
        plan = Plan(tuple(Launch(cluster.names[i % devices], (i,)) for i in range(n)))
        assert simulate(line, profile, plan).makespan_ns == 10 * n


def cluster_of(count: int, cost: AffineCost) -> Cluster:
    names = [f"cpu:{number}" for number in range(count)]
    links = tuple(Link(a, b, cost) for a in names for b in names if a != b)
    return Cluster(tuple(Device(name, "cpu") for name in names), links)
