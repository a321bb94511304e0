"""How random worlds are made: graph, costs and plan first, then a machine where it is legal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from dynpartition.cluster import (
    AffineCost,
    Blocks,
    Cluster,
    Device,
    DeviceKind,
    Link,
    TableCost,
    TransferCost,
)
from dynpartition.conditions import GOOD_DAY, Conditions, Slowdown
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Curve, Dispatch, HostMode, Noise, PerCellAndDevice, Profile
from dynpartition.sim.world_shapes import SHAPES, Dice


@dataclass(frozen=True, slots=True)
class World:
    """Everything that an engine needs for one run."""

    graph: TaskGraph
    profile: Profile
    plan: Plan
    conditions: Conditions = GOOD_DAY


def random_world(
    seed: int, *, tasks_max: int = 9, devices_max: int = 4, without: Collection[str] = ()
) -> World:
    """Return world number `seed`: the same one on every machine.

    At most `tasks_max` tasks on 1 to `devices_max` devices. `without` names switches that stay off.
    """
    return _Maker(seed, tasks_max, devices_max, without).world()


SWITCHES = {
    "absent links": 0.4,
    "answers": 0.4,
    "arrivals": 0.3,
    "batches": 0.5,
    "blocking copies": 0.3,
    "bookkeeping": 0.25,
    "copy costs": 0.3,
    "equal costs": 0.4,
    "host inputs": 0.4,
    "host modes": 0.85,
    "huge numbers": 0.04,
    "joined requests": 0.5,
    "link tables": 0.15,
    "memory": 0.45,
    "missing costs": 0.25,
    "noise": 0.12,
    "own durations": 0.2,
    "requests": 0.35,
    "resident lists": 0.35,
    "reveals": 0.35,
    "shuffled ids": 0.5,
    "slowdowns": 0.15,
    "weights": 0.6,
    "zero times": 0.3,
}
"""Feature → in which share of the worlds it is switched on."""

PLAIN = ("arrivals", "host modes", "memory", "resident lists", "reveals", "slowdowns")
"""Switches that are off in worlds for the fastest engines."""

HOST_MODES: tuple[HostMode, ...] = ("single", "threads", "processes", "replay", "threads")
"""Threads twice: the mode with most to go wrong."""


class _Maker:
    """Draws one world: graph, costs, plan, and then a machine on which the plan is legal."""

    def __init__(
        self, seed: int, tasks_max: int, devices_max: int, without: Collection[str]
    ) -> None:
        self.dice = dice = Dice(seed)
        self.on = {name for name, odds in SWITCHES.items() if dice.chance(odds)} - {*without}
        self.scale = 10 ** (3 + dice.below(10)) if "huge numbers" in self.on else 1
        self.same = dice.below(4) if "equal costs" in self.on else -1
        count = dice.pick((1, 2, 2, 3, 3, 3, 4, 4))
        kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
        self.kinds = [dice.pick(kinds) for _ in range(min(count, devices_max))]
        self.names = [f"{kind}:{number}" for number, kind in enumerate(self.kinds)]
        self.host = dice.pick(("", *self.names))
        named = [d for d, name in enumerate(self.names) if name == self.host]
        self.host_index = [*named, *(d for d, k in enumerate(self.kinds) if k == "cpu"), 0][0]
        self.cells = [
            Cell(name, self.size(4) if "weights" in self.on else 0)
            for name in dice.shuffled("abcd"[: 1 + dice.below(4)])  # names not in cell order
        ]
        self.curves = self.draw_curves()
        n_tasks = 1 + max(dice.below(tasks_max), dice.below(tasks_max))
        self.tasks = self.draw_tasks(n_tasks)
        self.placed: list[tuple[int, list[int]]] = []
        """Launches: (device, tasks)."""

    def world(self) -> World:
        graph = TaskGraph.from_tasks("world", self.cells, self.tasks)
        self.place(graph)
        devices = [self.device(number) for number in range(len(self.names))]
        cluster = Cluster(tuple(devices), tuple(self.links(devices)), self.host)
        curves = {cell.name: row for cell, row in zip(self.cells, self.curves, strict=True)}
        noise = self.noise() if "noise" in self.on else None
        profile = Profile(cluster, curves, self.dispatch(), noise=noise)
        plan = Plan(tuple(Launch(self.names[d], tuple(tasks)) for d, tasks in self.placed))
        return World(graph, profile, plan, self.conditions())

    # Numbers

    def time(self, top: int) -> int:
        """Return a duration of at most `top` units."""
        if "zero times" in self.on and self.dice.chance(0.4):
            return 0
        units = self.same if self.same >= 0 else self.dice.below(top + 1)
        return units * self.scale

    def size(self, top: int) -> int:
        """Return a number of bytes, at most `top` units."""
        return self.dice.below(top + 1) * self.scale

    # Graph

    def draw_curves(self) -> list[dict[str, Curve]]:
        rows: list[dict[str, Curve]] = []
        for _ in self.cells:
            known = [
                name
                for name in self.names
                if "missing costs" not in self.on or self.dice.chance(0.7)
            ]
            rows.append({name: self.curve() for name in known or [self.dice.pick(self.names)]})
        return rows

    def curve(self) -> Curve:
        batch = self.dice.pick(((1,), (1,), (1, 3), (1, 2, 4), (2,), (2, 3)))
        duration_ns = [self.time(6)]
        while len(duration_ns) < len(batch):
            duration_ns.append(duration_ns[-1] + self.time(4))
        if len(batch) == 3 and self.dice.chance(0.3):
            duration_ns[1:] = duration_ns[:0:-1]  # falls: the last slope is negative
        return Curve(batch, tuple(duration_ns))

    def draw_tasks(self, n: int) -> list[Task]:
        dice, on = self.dice, self.on
        number = dice.shuffled(range(n)) if "shuffled ids" in on else list(range(n))
        step = dice.pick((1, 1, 1, 7))
        ids = [step * (place + (step > 1)) for place in number]
        request = [dice.below(3) for _ in range(n)] if "requests" in on else [0] * n
        arrival_ns = [self.arrival_ns() for _ in range(3)] if "arrivals" in on else [0] * 3
        if "arrivals" in on and dice.chance(0.7):
            request = [dice.below(2) for _ in range(n)]
        strangers = on >= {"requests", "arrivals"} and dice.chance(0.2)  # arrive task by task
        tasks = []
        for i, inputs in enumerate(dice.pick(SHAPES)(dice, n)):
            kept = [j for j in inputs if self.joined(request[i], request[j])]
            cell = dice.pick(self.cells)
            tasks.append(
                Task(
                    id=ids[i],
                    cell=cell.name,
                    inputs=tuple([ids[j] for j in kept]),
                    output_bytes=self.size(3),
                    duration_ns=self.own_durations() if "own durations" in on else {},
                    revealed_by=self.revealer(i, ids, request) if "reveals" in on else None,
                    arrival_ns=self.arrival_ns() if strangers else arrival_ns[request[i]],
                    request=request[i],
                    host_bytes=self.size(3) if "host inputs" in on and dice.chance(0.5) else 0,
                    returns="answers" in on and dice.chance(0.4),
                )
            )
        return tasks

    def joined(self, one: int, other: int) -> bool:
        return one == other or "joined requests" in self.on

    def arrival_ns(self) -> int:
        return self.dice.pick((0, 0, 1, 2, 3, 5, 8, 13)) * self.scale

    def revealer(self, i: int, ids: list[int], request: list[int]) -> int | None:
        if not i or self.dice.chance(0.6):
            return None
        j = self.dice.below(i)
        return ids[j] if self.joined(request[i], request[j]) else None

    def own_durations(self) -> dict[str, int]:
        return {name: self.time(6) for name in self.names if self.dice.chance(0.3)}

    # Plan

    def place(self, graph: TaskGraph) -> None:
        """Draw a topological order, and a device or an earlier launch for each task."""
        self.graph, self.cell_of = graph, graph.cell_of.tolist()
        self.output_bytes, self.host_bytes = graph.output_bytes.tolist(), graph.host_bytes.tolist()
        dice, needs = self.dice, _needs(graph)
        readers: list[list[int]] = [[] for _ in needs]
        for task, row in enumerate(needs):
            for source in row:
                readers[source].append(task)
        missing = [len(row) for row in needs]
        ready = [task for task, count in enumerate(missing) if not count]
        self.position = position = [0] * len(needs)  # of the launch of a task
        while ready:
            task = ready.pop(dice.below(len(ready)))
            earliest = max([position[source] + 1 for source in needs[task]], default=0)
            position[task] = self.launch(task, earliest)
            for reader in readers[task]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready.append(reader)

    def launch(self, task: int, earliest: int) -> int:
        """Add `task` to a launch at or after position `earliest`; return its position."""
        cell = self.cell_of[task]
        able = [d for d, name in enumerate(self.names) if self.can_run(task, cell, name)]
        if "batches" in self.on and self.dice.chance(0.6):
            for number in range(len(self.placed) - 1, earliest - 1, -1):
                device, tasks = self.placed[number]
                if self.cell_of[tasks[0]] == cell and device in able:
                    tasks.append(task)
                    return number
        self.placed.append((self.dice.pick(able), [task]))
        return len(self.placed) - 1

    def can_run(self, task: int, cell: int, name: str) -> bool:
        own = self.graph.durations
        return name in self.curves[cell] or (name in own and bool(own[name][task] >= 0))

    # Machine

    def device(self, number: int) -> Device:
        """Draw what a device holds: enough for each launch alone, seldom for everything."""
        kind, name = self.kinds[number], self.names[number]
        limited = "memory" in self.on and self.dice.chance(0.7)
        memory = self.capacity(number) if limited else None
        listed = "resident lists" in self.on and self.dice.chance(0.6)
        resident = self.resident(number, memory) if listed else None
        return Device(name, kind, memory, resident=resident)

    def capacity(self, number: int) -> int:
        alone, total, away = [0], 0, number != self.host_index
        for device, tasks in self.placed:
            if device == number:
                sources = {source for task in tasks for source in self.graph.input_lists[task]}
                moved = sum([self.output_bytes[task] for task in (*sources, *tasks)])
                moved += sum([self.host_bytes[task] for task in tasks]) * away
                alone.append(moved + self.cells[self.cell_of[tasks[0]]].param_bytes * away)
                total += moved
        if self.dice.chance(0.07):  # may be too small: that is an error before the run begins
            return max(0, max(alone) - self.scale)
        return max(alone) + self.dice.pick((0, 0, 1, 1, 2, 3)) * total // 2

    def resident(self, number: int, memory: int | None) -> tuple[str, ...]:
        free = memory if memory is not None else self.dice.below(30) * self.scale
        chosen = []
        for cell in self.dice.shuffled(self.cells):
            if cell.param_bytes <= free and self.dice.chance(0.6):
                chosen.append(cell.name)
                free -= cell.param_bytes
        return (*chosen, "elsewhere") if self.dice.chance(0.2) else tuple(chosen)

    def links(self, devices: list[Device]) -> Iterator[Link]:
        """Draw every link that the plan needs, and others."""
        needed = self.needed_links(devices)
        wiring = self.dice.below(5)
        count = len(devices)
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        for src, dst in self.dice.shuffled(pairs):
            if (src, dst) in needed or "absent links" not in self.on or self.dice.chance(0.3):
                blocks: tuple[Blocks | None, ...] = (None, None, "src", "dst", "both")
                yield Link(
                    self.names[src],
                    self.names[dst],
                    self.transfer_cost(),
                    self.resources(wiring, src, dst),
                    self.dice.pick(blocks) if "blocking copies" in self.on else None,
                )

    def needed_links(self, devices: list[Device]) -> set[tuple[int, int]]:
        host, graph, placed = self.host_index, self.graph, self.placed
        home = [placed[number][0] for number in self.position]
        needed = {
            (home[source], home[task])
            for task in range(len(home))
            for source in graph.input_lists[task]
        }
        needed |= {(host, home[task]) for task, size in enumerate(self.host_bytes) if size}
        sent = [task for task, returns in enumerate(graph.returns.tolist()) if returns]
        needed |= {(home[task], host) for task in (*sent, *graph.revealers)}
        held = [initial_weights(device, self.cells) for device in devices]
        cells = [(device, self.cell_of[tasks[0]]) for device, tasks in placed]
        return needed | {(host, device) for device, cell in cells if cell not in held[device]}

    def resources(self, wiring: int, src: int, dst: int) -> tuple[str, ...]:
        """Return a link's resources: its own, one bus, egress or both limits, or a mixture."""
        ports = (f"out{src}", f"in{dst}")
        if wiring < 4:
            return ((), ("bus",), ports[:1], ports)[wiring]
        return tuple(self.dice.shuffled(("bus", "port", *ports))[: self.dice.below(4)])

    def transfer_cost(self) -> TransferCost:
        latency_ns = self.time(2)
        if "link tables" in self.on and self.dice.chance(0.6):
            first, unit = self.scale + latency_ns, self.scale
            sizes = (unit, 2 * unit, 4 * unit)
            times_ns = (first, first + 1 + self.time(2), first + 2 + self.time(6))
            points = tuple(zip(sizes, times_ns, strict=True))
            return TableCost(points[: 1 + self.dice.below(3)])
        slow = 1 + self.dice.below(2) + (self.scale > 1 and self.dice.below(3))
        return AffineCost(latency_ns, 10**9 // slow)

    def dispatch(self) -> Dispatch:
        dice, on = self.dice, self.on
        copies = {name: AffineCost(dice.below(2), 10**9) for name in self.names if dice.chance(0.8)}
        copy_sides = dice.below(3) if "copy costs" in on else 3
        own = {name: self.time(2) for name in self.names if dice.chance(0.7)}
        return Dispatch(
            host_mode=dice.pick(HOST_MODES) if "host modes" in on else "none",
            h=self.host_time(own),
            h_copy=self.time(2) if dice.chance(0.6) else 0,
            lock=dice.pick((0.0, 0.3, 0.5, 1.0)),
            handoff_ns=self.time(2),
            queue_depth=dice.pick((None, None, 1, 1, 2, 3)),
            bookkeeping_ns=self.bookkeeping_ns(own) if "bookkeeping" in on else 0,
            copy_in=copies if copy_sides in (0, 2) else {},
            copy_out=copies if copy_sides in (1, 2) else {},
            sync_ns=self.time(1),
            decision_ns=self.time(1),
        )

    def host_time(self, own: dict[str, int]) -> PerCellAndDevice:
        form = self.dice.below(4)
        if form < 2:
            return self.time(3)
        return (
            own if form == 2 else {cell.name: own for cell in self.cells if self.dice.chance(0.7)}
        )

    def bookkeeping_ns(self, own: dict[str, int]) -> int | dict[str, int]:
        return own if self.dice.chance(0.5) else 1

    def noise(self) -> Noise:
        sigma = self.dice.pick((((1, 0.3),), ((1, 0.0),), ((1, 0.8), (4, 0.1))))
        stall = self.dice.pick((0.0, 0.3))
        return Noise(sigma=sigma, stall_probability=stall, stall_ns=self.time(5))

    def conditions(self) -> Conditions:
        count = 1 + self.dice.below(3) if "slowdowns" in self.on else 0
        slowdowns = [
            Slowdown(
                self.dice.pick(self.names), self.arrival_ns(), self.dice.pick((0.5, 0.3, 1, 2))
            )
            for _ in range(count)
        ]
        return replace(GOOD_DAY, seed=self.dice.below(1000), slowdowns=tuple(slowdowns))


def initial_weights(device: Device, cells: Sequence[Cell]) -> set[int]:
    """Return the cells (indices) whose weights are on `device` at time 0, if it is not the host."""
    if device.resident is not None:
        return {number for number, cell in enumerate(cells) if cell.name in device.resident}
    free = 1 << 62 if device.memory_bytes is None else device.memory_bytes
    chosen = set()
    for number, cell in enumerate(cells):
        if cell.param_bytes <= free:
            chosen.add(number)
            free -= cell.param_bytes
    return chosen


def _needs(graph: TaskGraph) -> list[set[int]]:
    """Return for each task the tasks that must be launched before it."""
    revealed_by = graph.revealed_by.tolist()
    return [
        {*inputs, own} if own >= 0 else set(inputs)
        for inputs, own in zip(graph.input_lists, revealed_by, strict=True)
    ]
