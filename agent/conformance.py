"""A conformance test for schedulers: small worlds, and a check of every plan made for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynpartition.agent.synthetic import synthetic_workloads
from dynpartition.cluster import AffineCost, Cluster, Device, Link
from dynpartition.contract import Backend, GraphWorkload, Scheduler
from dynpartition.errors import DynPartitionError, PlanError, SchedulerError
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Curve, Profile
from dynpartition.program import lower


@dataclass(frozen=True)
class World:
    """A graph and a profile. `easy`: one device can do it all, so nobody may refuse."""

    name: str
    graph: TaskGraph
    profile: Profile
    easy: bool = True


def check_scheduler(scheduler: Scheduler) -> int:
    """Run `scheduler` on every small world and return how many it served.

    Raises SchedulerError naming the world when it crashes, refuses an easy world, leaves a revealed
    task out, makes an illegal plan, uses an absent link or a device that cannot run a cell, or
    decides differently when asked again.
    """
    return sum(_serves(scheduler, world) for world in small_worlds())


def _serves(scheduler: Scheduler, world: World) -> bool:
    from dynpartition.sim.backend import SimBackend  # schedulers themselves need no simulator

    place = f"scheduler {scheduler.name} on the world {world.name!r}"
    try:
        plans = [_run(SimBackend(world.profile), world.graph, scheduler) for _ in range(2)]
    except SchedulerError as error:
        if world.easy:
            raise SchedulerError(f"{place} refuses: {error}") from error
        return False
    except DynPartitionError as error:
        raise SchedulerError(f"{place}: {error}") from error
    if plans[0] != plans[1]:
        raise SchedulerError(f"{place} gives another plan when asked again; derive all from seed")
    return True


def _run(backend: Backend, graph: TaskGraph, scheduler: Scheduler) -> Plan:
    with backend.open(GraphWorkload(graph)) as session:
        more = True
        while more:
            planned = session.plan
            launches = scheduler.schedule(session.graph, backend.profile, planned)
            _check(session.graph, backend.profile, planned, launches)
            more = session.advance(launches)
        return session.plan


def _check(graph: TaskGraph, profile: Profile, planned: Plan, launches: Sequence[Launch]) -> None:
    """Check one answer: legal, complete for what is revealed, every link and cost there."""
    lower(graph, profile.cluster, planned + launches)
    for launch in launches:
        for task in launch.tasks:
            own = graph.durations.get(launch.device)
            has_own = own is not None and own[task] >= 0
            if not has_own and launch.device not in profile.cells.get(graph.cell_name(task), {}):
                raise PlanError(f"{graph.label(task)} has no cost on {launch.device}")


def small_worlds() -> list[World]:
    """Return the worlds that `check_scheduler` uses."""
    two = _profile(("cpu:0", "cpu:1"), _CLIQUE)
    star = _profile(("cpu:0", "cuda:0", "cuda:1"), [(0, 1), (1, 0), (0, 2), (2, 0)])
    one_way = _profile(("cpu:0", "cuda:0"), [(0, 1)])
    loose = _profile(("cpu:0", "cuda:0"), [])
    disjoint = _profile(
        ("cpu:0", "cuda:0"), _CLIQUE, cells={"leaf": ("cpu:0",), "join": ("cuda:0",)}
    )
    random_graphs = [workload.graph for workload in synthetic_workloads(two, 4, 7)]
    return [
        World("one task", _graph([()]), two),
        World("one device", _graph([(), (0,), (1,)]), _profile(("cpu:0",), [])),
        World("diamond", _graph([(), (0,), (0,), (1, 2)]), two),
        *(World(f"random {n}", graph, two) for n, graph in enumerate(random_graphs)),
        *(World(f"random {n}, star", graph, star) for n, graph in enumerate(random_graphs)),
        World("no way back", _graph(_TREE, returns=True), one_way),
        World("no links", _graph(_TREE), loose),
        World("host inputs", _graph(_TREE, host_bytes=100, returns=True), star),
        World("no device runs both cells", _graph(_TREE), disjoint, easy=False),
        World("router", _graph(_ROUTER, reveals={1: 0, 2: 0}), two),
        World("early exit, star", _graph(_EXIT, reveals={1: 0, 2: 1, 3: 1, 4: 3}), star),
        World("hidden, one way", _graph(_ROUTER, reveals={1: 0, 2: 0}), one_way),
        World("two revealers", _graph(_TREE, reveals={2: 0, 5: 3}), star),
    ]


_CLIQUE = [(0, 1), (1, 0)]
_TREE: list[tuple[int, ...]] = [(), (), (0, 1), (), (), (3, 4), (2, 5)]
_ROUTER: list[tuple[int, ...]] = [(), (0,), (0,), (1, 2)]
_EXIT: list[tuple[int, ...]] = [(), (0,), (1,), (1,), (2, 3)]


def _profile(
    names: Sequence[str],
    links: Sequence[tuple[int, int]],
    cells: dict[str, tuple[str, ...]] | None = None,
) -> Profile:
    devices = [Device(name, "cpu" if name.startswith("cpu") else "cuda") for name in names]
    return Profile(
        Cluster(
            tuple(devices),
            tuple(Link(names[a], names[b], AffineCost(2_000, 10**9)) for a, b in links),
        ),
        {
            cell: {name: Curve((1,), (10_000 * (1 + n),)) for n, name in enumerate(on)}
            for cell, on in (cells or {"leaf": tuple(names), "join": tuple(names)}).items()
        },
    )


def _graph(
    inputs: Sequence[tuple[int, ...]],
    *,
    reveals: dict[int, int] | None = None,
    host_bytes: int = 0,
    returns: bool = False,
) -> TaskGraph:
    """Return a graph: sources are leaves; the last task returns; `reveals`: task → revealer."""
    tasks = [
        Task(
            id=number,
            cell="join" if row else "leaf",
            inputs=row,
            output_bytes=1000,
            revealed_by=(reveals or {}).get(number),
            host_bytes=0 if row else host_bytes,
            returns=returns and number == len(inputs) - 1,
        )
        for number, row in enumerate(inputs)
    ]
    return TaskGraph.from_tasks("conformance", [Cell("leaf"), Cell("join")], tasks)
