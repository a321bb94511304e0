"""Worlds of the speed benchmarks, and the plain ones as flat tables for other engines.

Plain: shared links, no host modes, memory, reveals, arrivals or blocking copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    DynPartitionError,
    Launch,
    Link,
    Plan,
    PricedGraph,
    Profile,
    Program,
    Task,
    TaskGraph,
    lower,
)
from dynpartition.pricing import ProgramPrices, price
from dynpartition.profile import HostMode
from dynpartition.sim import simulate
from dynpartition.sim.worlds import World

CELLS = ("leaf", "left", "right", "root")
WIRINGS = ("bus", "ports")
WALKING_MODES: tuple[HostMode, ...] = ("single", "threads", "processes", "replay")


@dataclass(frozen=True)
class Lowered:
    """A world, lowered and priced: where the clock of every engine starts."""

    world: World
    priced: PricedGraph
    program: Program
    prices: ProgramPrices

    @staticmethod
    def of(world: World) -> Lowered:
        """Lower and price a world."""
        priced = PricedGraph(world.graph, world.profile)
        program = lower(world.graph, world.profile.cluster, world.plan)
        return Lowered(world, priced, program, price(program, priced, world.conditions))

    @property
    def parts(self) -> tuple[PricedGraph, Program, ProgramPrices]:
        """What an engine needs."""
        return self.priced, self.program, self.prices


def speed_worlds(count: int, *, n_tasks: int = 100, n_devices: int = 4) -> list[World]:
    """Return in-trees and layered graphs on two machines, in turn: one bus, and ports."""
    profiles = [machine(_rng(wiring), n_devices, WIRINGS[wiring]) for wiring in range(2)]
    worlds = []
    for number in range(count):
        rng = _rng(2 + number)
        inputs = (in_tree if number % 2 else layered)(rng, n_tasks)
        profile = profiles[number // 2 % 2]
        worlds.append(random_plan(rng, graph_of(rng, inputs), profile, together=0.5))
    return worlds


def _rng(number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([2026, number]))


def in_tree(rng: np.random.Generator, n: int) -> list[list[int]]:
    """A binary tree over n // 2 + 1 leaves: two neighbours join until one is left."""
    rows: list[list[int]] = [[] for _ in range((n + 1) // 2)]
    open_nodes = list(range(len(rows)))
    while len(open_nodes) > 1 and len(rows) < n:
        place = int(rng.integers(len(open_nodes) - 1))
        rows.append(open_nodes[place : place + 2])
        open_nodes[place : place + 2] = [len(rows) - 1]
    if len(rows) < n:
        rows.append([len(rows) - 1])
    return rows


def layered(rng: np.random.Generator, n: int, width: int = 10) -> list[list[int]]:
    """Layers of `width` tasks that each read one to three of the layer before."""
    rows: list[list[int]] = []
    for number in range(n):
        first = (number // width - 1) * width
        count = int(rng.integers(1, 4))
        rows.append(sorted({first + int(rng.integers(width)) for _ in range(count)}))
    return [row if number >= width else [] for number, row in enumerate(rows)]


def graph_of(rng: np.random.Generator, inputs: list[list[int]]) -> TaskGraph:
    last = len(inputs) - 1
    tasks = [
        Task(
            id=number,
            cell=CELLS[int(rng.integers(1, 3))] if row else CELLS[0],
            inputs=tuple(row),
            output_bytes=int(rng.integers(1_000, 60_000)),
            returns=number == last,
        )
        for number, row in enumerate(inputs)
    ]
    return TaskGraph.from_tasks("speed", [Cell(name) for name in CELLS], tasks)


def machine(rng: np.random.Generator, count: int, wiring: str) -> Profile:
    """Return one CPU and `count` − 1 GPUs whose links share one bus or the ports of devices."""
    kinds = ["cpu", *["cuda"] * (count - 1)]
    names = [f"{kind}:{number}" for number, kind in enumerate(kinds)]
    links = [
        Link(
            a,
            b,
            AffineCost(int(rng.integers(2_000, 9_000)), int(rng.integers(5, 30)) * 10**8),
            ("bus",) if wiring == "bus" else (f"out {a}", f"in {b}"),
        )
        for a in names
        for b in names
        if a != b
    ]
    curves = {
        cell: {
            name: Curve((1, 4), (first, 2 * first))
            for name, first in zip(names, rng.integers(10_000, 90_000, count).tolist(), strict=True)
        }
        for cell in CELLS
    }
    devices = tuple(Device(name, kind) for name, kind in zip(names, kinds, strict=True))
    return Profile(Cluster(devices, tuple(links)), curves)


def random_plan(
    rng: np.random.Generator, graph: TaskGraph, profile: Profile, *, together: float
) -> World:
    """Place tasks in index order: with its first input, with probability `together`."""
    names = profile.cluster.names
    homes: list[int] = []
    for inputs in graph.input_lists:
        follows = bool(inputs) and rng.random() < together
        homes.append(homes[inputs[0]] if follows else int(rng.integers(len(names))))
    launches = [Launch(names[home], (task,)) for task, home in enumerate(homes)]
    return World(graph, profile, Plan(tuple(launches)))


def with_everything_on(world: World, number: int) -> World:
    """Return the world with batches, a host mode, weights and little memory."""
    graph, profile = world.graph, world.profile
    cells = tuple(Cell(name, 40_000 * (1 + place)) for place, name in enumerate(CELLS))
    dispatch = Dispatch(
        host_mode=WALKING_MODES[number % len(WALKING_MODES)],
        h=4_000,
        h_copy=1_500,
        lock=0.4,
        handoff_ns=3_000,
        queue_depth=8,
        bookkeeping_ns=500,
    )
    graph = replace(graph, cells=cells)
    plan = batched(graph, world.plan)
    for memory_bytes in (400_000, 800_000, 1_600_000, 3_200_000, 10**9):
        devices = tuple(
            replace(device, memory_bytes=memory_bytes) for device in profile.cluster.devices
        )
        cluster = replace(profile.cluster, devices=devices)
        full = World(graph, replace(profile, cluster=cluster, dispatch=dispatch), plan)
        try:
            simulate(full.graph, full.profile, full.plan)
        except DynPartitionError:
            continue
        return full
    raise AssertionError("no memory is enough")


def batched(graph: TaskGraph, plan: Plan) -> Plan:
    """Join each task to the last launch of its device, if that has its cell and feeds it not."""
    launches: list[Launch] = []
    position: dict[int, int] = {}
    last: dict[str, int] = {}
    for launch in plan.launches:
        task, place = launch.tasks[0], last.get(launch.device, -1)
        earliest = max((position[source] + 1 for source in graph.input_lists[task]), default=0)
        joins = place >= earliest and len(launches[place].tasks) < 8
        if joins and graph.cell_of[launches[place].tasks[0]] == graph.cell_of[task]:
            launches[place] = Launch(launch.device, (*launches[place].tasks, task))
        else:
            place = last[launch.device] = len(launches)
            launches.append(launch)
        position[task] = place
    return Plan(tuple(launches))


@dataclass(frozen=True)
class Tables:
    """A plain world as flat lists; transfers stand in the order in which ties are settled."""

    n_devices: int
    n_resources: int
    device: list[int]
    """Of each launch."""
    duration_ns: list[int]
    follower: list[int]
    """The next launch on the same device, or -1."""
    first: list[int]
    """Each device's first launch, or -1."""
    waits: list[tuple[int, ...]]
    """Transfers that each launch needs."""
    sends: list[tuple[int, ...]]
    copy_ns: list[int]
    copy_dst: list[int]
    copy_resources: list[tuple[int, ...]]
    readers: list[tuple[int, ...]]
    """Launches that need each transfer."""
    inputs: list[int]
    """Transfers that are ready at 0."""
    answers: list[int]
    """Transfers whose end counts."""
    key: list[tuple[int, int, bool]]
    """(launch, destination, whether a host input) of each transfer."""


def tables_of(lowered: Lowered) -> Tables:
    """Return a plain world as tables."""
    priced, program, prices = lowered.parts
    cluster = priced.cluster
    names = dict.fromkeys(name for link in cluster.links for name in link.held)
    number = {name: place for place, name in enumerate(names)}
    copies = [
        (int(program.copy_launch[c]), int(program.copy_dst[c]), bool(program.copy_is_input[c]), c)
        for c in range(program.n_copies)
    ]
    copies.sort()
    rank = {copy: place for place, (*_, copy) in enumerate(copies)}
    device = program.launch_device.tolist()
    order = [[c for c, d in enumerate(device) if d == own] for own in range(len(cluster.devices))]
    follower = [-1] * len(device)
    for row in order:
        for one, other in pairwise(row):
            follower[one] = other
    waits = [tuple(rank[c] for c in row) for row in program.launch_waits.rows]
    readers: list[list[int]] = [[] for _ in copies]
    for launch, row in enumerate(waits):
        for copy in row:
            readers[copy].append(launch)
    links = [int(program.copy_link[c]) for *_, c in copies]
    sizes = [int(program.copy_bytes[c]) for *_, c in copies]
    returns = priced.graph.returns
    return Tables(
        n_devices=len(cluster.devices),
        n_resources=len(names),
        device=device,
        duration_ns=list(prices.launch_ns),
        follower=follower,
        first=[row[0] if row else -1 for row in order],
        waits=waits,
        sends=[tuple(sorted(rank[c] for c in row)) for row in program.launch_copies.rows],
        copy_ns=[priced.transfer_ns(*pair) for pair in zip(links, sizes, strict=True)],
        copy_dst=[dst for _, dst, _, _ in copies],
        copy_resources=[tuple(number[n] for n in cluster.links[link].held) for link in links],
        readers=[tuple(row) for row in readers],
        inputs=[place for place, (_, _, is_input, _) in enumerate(copies) if is_input],
        answers=[
            place
            for place, (_, dst, is_input, c) in enumerate(copies)
            if not is_input
            and dst == cluster.host_index
            and returns[list(program.copy_tasks.rows[c])].any()
        ],
        key=[(launch, dst, is_input) for launch, dst, is_input, _ in copies],
    )


@dataclass(frozen=True)
class Times:
    """What an engine says: start and end of every launch and transfer of a plain world."""

    launch_start: list[int]
    launch_end: list[int]
    copy_start: list[int]
    copy_end: list[int]

    def makespan_ns(self, tables: Tables) -> int:
        """Return the latest end of a launch or an answer."""
        return max([*self.launch_end, *(self.copy_end[copy] for copy in tables.answers)])
