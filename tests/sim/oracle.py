"""A second simulator, written from the specification alone, to find errors in the first.

It advances time by one nanosecond and, within each, repeats rounds (completions; loads; transfers;
host dispatches; launches) until nothing changes. Slow and naive on purpose: no event queue, no
lowered program, no tables. `seen` counts what a world exercised. Lost devices are left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from dynpartition import Plan, PricedGraph, Profile, TaskGraph
from dynpartition.conditions import Conditions
from dynpartition.costs import transfer_ns
from dynpartition.luck import Luck
from dynpartition.trace import DispatchSpan, LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan
from tests.sim.oracle_memory import Memory

LAST_NS = 2000
"""A world that is not over by then has deadlocked."""

OUTPUT, HOST_INPUT, LOAD = range(3)
"""What travels, in the order in which equal queue keys go."""


@dataclass(frozen=True)
class Push:
    """What one launch sends to one destination under one condition."""

    src: int
    dst: int
    position: int
    """Plan position of the launch whose key it queues under."""
    tasks: tuple[int, ...]
    bytes: int
    needs: frozenset[int] = frozenset()
    """Revealers that must be known besides the end of the producer."""
    arrives_ns: int = 0
    """Arrival of the reader that it waits for besides the end of the producer."""
    first_reader: int = -1
    """Plan position of the launch that needs it first; -1: not late."""
    kind: int = OUTPUT
    cell: str = ""
    """Whose weights a load carries."""

    @property
    def late(self) -> bool:
        return self.first_reader >= 0


@dataclass
class Copy:
    """One transfer, from its push on."""

    push: Push
    ready_ns: int
    start_ns: int = -1
    end_ns: int = -1
    done: bool = False

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.ready_ns, self.push.position, self.push.dst, self.push.kind


@dataclass
class Walk:
    """A host thread that dispatches launches in plan order."""

    launches: list[int]
    at: int = 0
    until_ns: int = -1
    """End of what it does now; -1: nothing."""
    after: bool = False
    """Whether it still has to pay for the transfers of the CPU launch that just ended."""
    ready_ns: int = -1
    """Since when it waits for the lock; -1: it does not."""

    @property
    def next(self) -> int:
        return self.launches[self.at] if self.at < len(self.launches) else -1


@dataclass
class Oracle:
    """One run of one plan."""

    graph: TaskGraph
    profile: Profile
    plan: Plan
    conditions: Conditions = field(default_factory=Conditions)
    now: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.cluster = self.profile.cluster
        self.mode = self.profile.dispatch.host_mode
        self.host = self.cluster.host_index
        self.size = [int(b) for b in self.graph.output_bytes]
        self.tasks = [launch.tasks for launch in self.plan.launches]
        self.device = [self.cluster.index(launch.device) for launch in self.plan.launches]
        self.is_cuda = [self.cluster.devices[d].kind == "cuda" for d in self.device]
        self.position = {task: p for p, tasks in enumerate(self.tasks) for task in tasks}
        self.count = len(self.tasks)
        self.gates = [frozenset(g for t in ts for g in self.graph.gates[t]) for ts in self.tasks]
        self.arrival = [max(self.arrives(t) for t in ts) for ts in self.tasks]
        self.inputs = [self.host_input(p) for p in range(self.count)]
        self.pushes = [self.outgoing(p) for p in range(self.count)]
        self.lasts = self.durations()
        self.start: dict[int, int] = {}
        self.end: dict[int, int] = {}
        self.finished: set[int] = set()
        self.dispatched: set[int] = set()
        self.copies: list[Copy] = []
        self.pushed: set[tuple[int, int, int]] = set()
        self.inputs_pushed: set[int] = set()
        self.known: dict[int, int] = {}
        self.spans: list[DispatchSpan] = []
        self.lock_until = -1
        self.asking: dict[int, int] = {}  # CPU launch -> since when it could start but for the lock
        self.walks = self.make_walks()
        self.replay_until: dict[int, int] = {}
        self.memory = Memory(self)
        self.note_features()

    def note_features(self) -> None:
        graph, late = self.graph, [p for pushes in self.pushes for p in pushes if p.late]
        self.seen["batch"] += any(len(tasks) > 1 for tasks in self.tasks)
        self.seen["hidden task"] += len(graph.revealers)
        self.seen["later arrival"] += max(self.arrival) > min(self.arrival)
        self.seen["late by arrival"] += any(push.arrives_ns for push in late)
        self.seen["late by arrival and reveal"] += any(p.arrives_ns and p.needs for p in late)
        self.seen["requests"] += len(set(graph.request.tolist())) > 1
        self.seen["host input"] += any(self.inputs[p] for p in range(self.count))
        self.seen["answer"] += sum(
            bool(graph.returns[task]) and self.device[p] != self.host
            for task, p in self.position.items()
        )
        self.seen["host pays for a late transfer"] += (
            len(late) * self.profile.dispatch.h_copy if self.walks else 0
        )

    # What the plan means

    def arrives(self, task: int) -> int:
        """Return when `task` and all that must come before it have arrived."""
        before = [*self.graph.input_lists[task], int(self.graph.revealed_by[task])]
        own = int(self.graph.arrival_ns[task])
        return max([own, *(self.arrives(source) for source in before if source >= 0)])

    def known_with(self, reader: int, p: int) -> bool:
        """Return whether launch `reader` is known, and has arrived, whenever launch `p` has."""
        return self.gates[reader] <= self.gates[p] and self.arrival[reader] <= self.arrival[p]

    def readers_at(self, task: int, dst: int) -> list[int]:
        """Plan positions of the launches on `dst` that read `task`, ascending."""
        found = {self.position[reader] for reader in self.graph.reader_lists[task]}
        return sorted(p for p in found if self.device[p] == dst)

    def goes_to_host(self, task: int) -> bool:
        return bool(self.graph.returns[task]) or task in self.graph.revealers

    def outgoing(self, p: int) -> list[Push]:
        """Return what launch `p` sends: one push per destination and condition."""
        groups: dict[tuple[int, frozenset[int], int], list[tuple[int, int]]] = {}
        for task in self.tasks[p]:
            for dst in range(len(self.cluster.devices)):
                readers = self.readers_at(task, dst)
                answers = dst == self.host and self.goes_to_host(task)
                if dst == self.device[p] or not (readers or answers):
                    continue
                asking = -1 if answers else self.soonest(readers, p)
                needs, arrives_ns, first = self.condition(p, asking)
                if first >= 0:
                    first = readers[0]  # who pays
                groups.setdefault((dst, needs, arrives_ns), []).append((task, first))
        return [
            Push(
                self.device[p],
                dst,
                p,
                tuple(task for task, _ in members),
                sum(self.size[task] for task, _ in members),
                needs,
                arrives_ns,
                min(first for _, first in members),
            )
            for (dst, needs, arrives_ns), members in groups.items()
        ]

    def soonest(self, readers: list[int], p: int) -> int:
        """Return the first reader of `p`, or a later one if that is known no later for sure."""
        chosen = readers[0]
        for reader in readers[1:]:
            gates, arrives_ns, _ = self.condition(p, reader)
            other_gates, other_ns, _ = self.condition(p, chosen)
            if gates <= other_gates and arrives_ns <= other_ns:
                chosen = reader
        return chosen

    def condition(self, p: int, reader: int) -> tuple[frozenset[int], int, int]:
        """Return what an output of `p` waits for besides its end: reveals, arrival, for whom."""
        if reader < 0 or self.known_with(reader, p):
            return frozenset(), 0, -1
        later = self.arrival[reader] > self.arrival[p]
        return self.gates[reader] - self.gates[p], self.arrival[reader] if later else 0, reader

    def host_input(self, p: int) -> Push | None:
        """Return the transfer of the host bytes of launch `p`, if it needs one."""
        tasks = tuple(t for t in self.tasks[p] if self.graph.host_bytes[t] > 0)
        if not tasks or self.device[p] == self.host:
            return None
        total = sum(int(self.graph.host_bytes[t]) for t in tasks)
        return Push(self.host, self.device[p], p, tasks, total, kind=HOST_INPUT)

    def durations(self) -> list[int]:
        priced = PricedGraph(self.graph, self.profile)
        expected = [
            priced.compute_ns(self.tasks[p], self.device[p]) + self.overhead(p)
            for p in range(self.count)
        ]
        return [self.with_noise(p, ns) for p, ns in enumerate(expected)]

    def with_noise(self, p: int, expected_ns: int) -> int:
        if self.profile.noise is None:
            return expected_ns
        key = self.graph.digest if self.conditions.luck is None else self.conditions.luck
        luck = Luck(self.profile.noise, seed=self.conditions.seed, graph_key=key)
        smallest = min(int(self.graph.ids[task]) for task in self.tasks[p])
        device = self.plan.launches[p].device
        drawn = luck.duration_ns(expected_ns, device=device, task_id=smallest)
        self.seen["noise"] += drawn != expected_ns
        return drawn

    def slowed(self, p: int, lasts_ns: int) -> int:
        """Return how long launch `p` lasts if it starts now."""
        begun = [
            (slowdown.at_ns, number, slowdown.speed)  # at the same time, the one listed last
            for number, slowdown in enumerate(self.conditions.slowdowns)
            if slowdown.device == self.plan.launches[p].device and slowdown.at_ns <= self.now
        ]
        if not begun:
            return lasts_ns
        self.seen["slowdown"] += 1
        self.seen["second slowdown"] += len(begun) > 1
        self.seen["slowdown at the start of a launch"] += max(begun)[0] == self.now > 0
        return ceil(lasts_ns / Fraction(str(max(begun)[2])))

    def overhead(self, p: int) -> int:
        dispatch = self.profile.dispatch
        name = self.plan.launches[p].device
        total = len(self.tasks[p]) * dispatch.bookkeeping_on(name)
        if name in dispatch.copy_in:
            for task in self.tasks[p]:
                for source in self.graph.input_lists[task]:
                    if self.device[self.position[source]] != self.device[p]:
                        total += transfer_ns(dispatch.copy_in[name], self.size[source])
                if self.graph.host_bytes[task] and self.host != self.device[p]:
                    total += transfer_ns(dispatch.copy_in[name], int(self.graph.host_bytes[task]))
        if name in dispatch.copy_out:
            for task in self.tasks[p]:
                if self.has_remote_reader(task):
                    total += transfer_ns(dispatch.copy_out[name], self.size[task])
        return total

    def has_remote_reader(self, task: int) -> bool:
        """Return whether a launch known with the producer's reads it where it is sent on time."""
        p = self.position[task]
        on_time = {push.dst for push in self.pushes[p] if task in push.tasks and not push.late}
        readers = [self.position[reader] for reader in self.graph.reader_lists[task]]
        return any(self.device[r] in on_time and self.known_with(r, p) for r in readers)

    def copy_count(self, p: int) -> int:
        """Return the transfers whose host time the dispatch of launch `p` pays."""
        on_time = sum(not push.late for push in self.pushes[p])
        late = sum(push.first_reader == p for pushes in self.pushes for push in pushes)
        return on_time + late + (self.inputs[p] is not None)

    def copies_ns(self, p: int) -> int:
        return self.profile.dispatch.h_copy * self.copy_count(p)

    def h_ns(self, p: int) -> int:
        cell = self.graph.cell_name(self.tasks[p][0])
        return self.profile.dispatch.h_ns(cell, self.cluster.devices[self.device[p]])

    def make_walks(self) -> list[Walk]:
        if self.mode == "single":
            return [Walk(list(range(self.count)))]
        if self.mode in ("threads", "processes"):
            devices = range(len(self.cluster.devices))
            return [Walk([p for p in range(self.count) if self.device[p] == d]) for d in devices]
        return []

    # What is true now

    def released(self, p: int) -> bool:
        return self.arrival[p] <= self.now and self.all_known(self.gates[p])

    def all_known(self, revealers: frozenset[int]) -> bool:
        return all(r in self.known and self.known[r] <= self.now for r in revealers)

    def running_on(self, device: int) -> bool:
        return any(self.device[p] == device for p in self.start if p not in self.finished)

    def blocked(self, copy: Copy) -> set[int]:
        link = self.cluster.links[self.cluster.link_index(copy.push.src, copy.push.dst)]
        return {self.cluster.index(name) for name in link.blocked_devices}

    def needed(self, copy: Copy) -> set[str]:
        link = self.cluster.links[self.cluster.link_index(copy.push.src, copy.push.dst)]
        return set(link.held) | {f"device {d}" for d in self.blocked(copy)}

    def in_flight(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.start_ns >= 0 and not copy.done]

    def waiting(self) -> list[Copy]:
        return sorted((c for c in self.copies if c.start_ns < 0), key=lambda copy: copy.key)

    def idle(self, device: int) -> bool:
        blocking = any(device in self.blocked(copy) for copy in self.in_flight())
        self.seen["launch waits for blocking copy"] += blocking
        return not self.running_on(device) and not blocking

    def is_next(self, p: int) -> bool:
        return p not in self.start and all(
            q in self.finished for q in range(p) if self.device[q] == self.device[p]
        )

    def inputs_there(self, p: int) -> bool:
        push = self.inputs[p]
        if push and not any(copy.done and copy.push == push for copy in self.copies):
            return False
        sources = {source for task in self.tasks[p] for source in self.graph.input_lists[task]}
        return all(self.visible(source, p) for source in sources)

    def visible(self, source: int, p: int) -> bool:
        if self.device[self.position[source]] == self.device[p]:
            return self.position[source] in self.finished
        self.seen["handoff"] += self.mode == "processes" and self.profile.dispatch.handoff_ns > 0
        handoff = self.profile.dispatch.handoff_ns if self.mode == "processes" else 0
        return any(
            copy.done and copy.end_ns + handoff <= self.now
            for copy in self.copies
            if copy.push.kind == OUTPUT
            and copy.push.dst == self.device[p]
            and source in copy.push.tasks
        )

    def could_start(self, p: int) -> bool:
        """Return whether everything but the host is ready for launch `p`."""
        fed = self.is_next(p) and self.released(p) and self.inputs_there(p)
        return fed and self.memory.has_weights(p) and self.idle(self.device[p])

    # One phase after the other

    def run(self) -> Trace:
        self.memory.check()
        while not self.is_over():
            assert self.now <= LAST_NS, "the oracle stands still"
            while self.round():
                pass
            self.now += 1
        return self.trace()

    def is_over(self) -> bool:
        hosts_done = all(walk.next < 0 and walk.until_ns < 0 for walk in self.walks)
        return (
            len(self.finished) == self.count
            and hosts_done
            and all(copy.done for copy in self.copies)
            and set(self.known) == set(self.graph.revealers)
            and all(ns <= self.now for ns in self.known.values())
            and len(self.pushed) == sum(len(pushes) for pushes in self.pushes)
            and self.lock_until < 0
        )

    def round(self) -> bool:
        changed = self.complete()
        changed |= self.begin_loads()
        changed |= self.start_copies()
        changed |= self.dispatch()
        changed |= self.start_launches()
        if self.mode == "threads":
            changed |= self.grant()
        return changed

    def complete(self) -> bool:
        changed = False
        for p in [p for p in self.start if p not in self.finished and self.end[p] <= self.now]:
            self.finished.add(p)
            self.memory.use(self.device[p], self.graph.cell_name(self.tasks[p][0]))
            changed = True
        for copy in self.in_flight():
            if copy.end_ns <= self.now:
                copy.done = changed = True
                if copy.push.kind == LOAD:
                    self.memory.loaded(copy.push.dst, copy.push.cell)
        for walk in self.walks:
            changed |= self.complete_walk(walk)
        for device, until in list(self.replay_until.items()):
            if until <= self.now:
                first = [p for p in range(self.count) if self.device[p] == device]
                if first[0] not in self.dispatched:
                    self.dispatched |= set(first)
                    changed = True
        if 0 <= self.lock_until <= self.now:
            self.lock_until = -1
            changed = True
        changed |= self.reveal()
        changed |= self.push()
        return changed

    def complete_walk(self, walk: Walk) -> bool:
        p = walk.next
        if 0 <= walk.until_ns <= self.now:
            walk.until_ns = -1
            walk.after = False
            walk.ready_ns = -1
            self.dispatched.add(p)
            walk.at += 1
            return True
        if p >= 0 and not self.is_cuda[p] and p in self.finished and not walk.after:
            walk.after = True
            if self.copies_ns(p) == 0:
                walk.after = False
                walk.at += 1
            return True
        return False

    def reveal(self) -> bool:
        changed = False
        for r in self.graph.revealers:
            if r in self.known or self.position[r] not in self.finished:
                continue
            at = self.at_host(r)
            if at is not None:
                dispatch = self.profile.dispatch
                self.known[r] = at + dispatch.sync_ns + dispatch.decision_ns
                changed = True
        return changed

    def at_host(self, task: int) -> int | None:
        p = self.position[task]
        if self.device[p] == self.host:
            return self.end[p]
        for copy in self.copies:
            push = copy.push
            if copy.done and push.kind == OUTPUT and push.dst == self.host and task in push.tasks:
                return copy.end_ns
        return None

    def push(self) -> bool:
        """Queue what became due: host inputs of released launches, outputs of ended ones."""
        changed = False
        due: list[Push] = []
        for p in range(self.count):
            host_input = self.inputs[p]
            if host_input and p not in self.inputs_pushed and self.released(p):
                self.inputs_pushed.add(p)
                self.copies.append(Copy(host_input, self.now))
                changed = True
            for number, push in enumerate(self.pushes[p]):
                mark = (p, push.dst, number)
                due_now = self.all_known(push.needs) and push.arrives_ns <= self.now
                if p in self.finished and due_now and mark not in self.pushed:
                    self.pushed.add(mark)
                    due.append(push)
        merged: dict[tuple[int, int], list[Push]] = {}
        for push in due:
            merged.setdefault((push.position, push.dst), []).append(push)
        for pushes in merged.values():
            self.copies.append(Copy(self.joined(pushes), self.now))
        return changed or bool(due)

    def joined(self, pushes: list[Push]) -> Push:
        """One launch, one destination, one instant: one transfer."""
        first = pushes[0]
        self.seen["late transfer"] += any(push.late for push in pushes)
        self.seen["late push joins"] += len(pushes) > 1
        tasks = tuple(task for push in pushes for task in push.tasks)
        size = sum(push.bytes for push in pushes)
        return Push(first.src, first.dst, first.position, tasks, size)

    def begin_loads(self) -> bool:
        changed = False
        for device in range(len(self.cluster.devices)):
            for p in [p for p in range(self.count) if self.device[p] == device and self.is_next(p)]:
                if self.released(p) and self.memory.must_load(p) and self.idle(device):
                    self.begin_load(p)
                    changed = True
        return changed

    def begin_load(self, p: int) -> None:
        cell = self.graph.cell_name(self.tasks[p][0])
        size = self.memory.size[cell]
        self.memory.reserve(self.device[p], size, p, "load")
        self.memory.begin_load(self.device[p], cell)
        load = Push(self.host, self.device[p], p, (), size, kind=LOAD, cell=cell)
        self.copies.append(Copy(load, self.now))
        self.seen["load before its inputs"] += not self.inputs_there(p)

    def start_copies(self) -> bool:
        changed = False
        for copy in self.waiting():
            need = self.needed(copy)
            earlier = [c for c in self.waiting() if c.key < copy.key and self.needed(c) & need]
            busy = any(self.needed(c) & need for c in self.in_flight())
            running = any(self.running_on(d) for d in self.blocked(copy))
            if earlier or busy or running:
                self.seen["transfer waits for transfer"] += bool(earlier or busy)
                self.seen["transfer waits for blocked device"] += running
                self.seen["tie in a queue"] += any(c.ready_ns == copy.ready_ns for c in earlier)
                self.seen["load waits for its link"] += copy.push.kind == LOAD
                self.seen["load ties with a host input"] += copy.push.kind == LOAD and any(
                    c.key[:3] == copy.key[:3] for c in earlier
                )
                continue
            if copy.push.kind != LOAD:
                self.memory.reserve(copy.push.dst, copy.push.bytes, copy.push.position, "transfer")
            self.seen["blocking load"] += copy.push.kind == LOAD and bool(self.blocked(copy))
            link = self.cluster.link_index(copy.push.src, copy.push.dst)
            copy.start_ns = self.now
            copy.end_ns = self.now + transfer_ns(self.cluster.links[link].cost, copy.push.bytes)
            changed = True
        return changed

    def dispatch(self) -> bool:
        if self.mode == "replay":
            return self.dispatch_replay()
        changed = False
        for walk in self.walks:
            p = walk.next
            if p < 0 or walk.until_ns >= 0:
                continue
            ready = walk.after if not self.is_cuda[p] else self.released(p) and self.has_room(p)
            if not ready:
                continue
            if self.mode == "threads":
                if walk.ready_ns < 0:
                    walk.ready_ns = self.now
                    changed = True
            else:
                self.occupy(walk)
                changed = True
        return changed

    def host_ns(self, p: int) -> int:
        return self.copies_ns(p) + (self.h_ns(p) if self.is_cuda[p] else 0)

    def occupy(self, walk: Walk) -> None:
        p = walk.next
        walk.until_ns = self.now + self.host_ns(p)
        if walk.until_ns > self.now:
            self.record(p, walk.until_ns)

    def record(self, p: int, until: int) -> None:
        launch = self.plan.launches[p]
        self.spans.append(DispatchSpan(launch.device, launch.tasks, self.now, until))

    def has_room(self, p: int) -> bool:
        depth = self.profile.dispatch.queue_depth
        here = [q for q in self.dispatched if self.device[q] == self.device[p]]
        room = depth is None or len([q for q in here if q not in self.finished]) < depth
        self.seen["queue full"] += not room
        return room

    def dispatch_replay(self) -> bool:
        changed = False
        for device in set(self.device):
            first = self.device.index(device)
            if self.is_cuda[first] and device not in self.replay_until and self.released(first):
                self.replay_until[device] = self.now + self.h_ns(first)
                if self.h_ns(first):
                    self.seen["replay starts"] += 1
                    self.record(first, self.now + self.h_ns(first))
                changed = True
        return changed

    def host_allows(self, p: int) -> bool:
        if self.mode == "none" or (self.mode == "replay" and not self.is_cuda[p]):
            return True
        if self.is_cuda[p] or self.mode == "replay":
            return p in self.dispatched
        return any(walk.next == p and not walk.after for walk in self.walks)

    def start_launches(self) -> bool:
        changed = False
        asking: dict[int, int] = {}
        for p in range(self.count):
            if not (self.host_allows(p) and self.could_start(p)):
                continue
            self.seen["tie of launches"] += self.now in self.start.values()
            if self.needs_lock(p):
                asking[p] = self.asking.get(p, self.now)
            else:
                self.start_launch(p)
                changed = True
        changed |= asking.keys() != self.asking.keys()
        self.asking = asking
        return changed

    def needs_lock(self, p: int) -> bool:
        shares = self.profile.dispatch.lock > 0
        return self.mode == "threads" and not self.is_cuda[p] and shares

    def start_launch(self, p: int) -> None:
        size = sum(self.size[task] for task in self.tasks[p])
        self.memory.reserve(self.device[p], size, p, "launch")
        self.start[p] = self.now
        self.end[p] = self.now + self.slowed(p, self.lasts[p])

    def grant(self) -> bool:
        """Give the lock, if it is free, to the request that waits longest."""
        asks: list[tuple[int, int, Walk | None]] = [
            (walk.ready_ns, walk.next, walk)
            for walk in self.walks
            if walk.ready_ns >= 0 and walk.until_ns < 0
        ]
        asks += [(ready_ns, p, None) for p, ready_ns in self.asking.items()]
        if not asks:
            return False
        if self.lock_until >= 0:
            self.seen["lock wait"] += 1
            return False
        since, p, walk = min(asks, key=lambda ask: ask[:2])
        self.seen["lock tie"] += sum(ask[0] == since for ask in asks) > 1
        if walk:
            self.occupy(walk)
            self.lock_until = walk.until_ns
        else:
            del self.asking[p]
            self.start_launch(p)
            self.lock_until = self.now + self.share_of(p)
        return True

    def share_of(self, p: int) -> int:
        return ceil((self.end[p] - self.start[p]) * Fraction(str(self.profile.dispatch.lock)))

    def trace(self) -> Trace:
        launches = tuple(
            LaunchSpan(launch.device, launch.tasks, self.start[p], self.end[p])
            for p, launch in enumerate(self.plan.launches)
        )
        answers = [
            copy.end_ns
            for copy in self.copies
            if copy.push.dst == self.host
            and copy.push.kind == OUTPUT
            and any(self.graph.returns[t] for t in copy.push.tasks)
        ]
        last = max([*answers, *self.end.values()])
        reveals = tuple(
            Reveal(r, self.end[self.position[r]], known) for r, known in self.known.items()
        )
        makespan = last - min(int(ns) for ns in self.graph.arrival_ns)
        transfers, dispatches = self.transfer_spans(), tuple(self.spans)
        return Trace(makespan, launches, transfers, dispatches, reveals, self.load_spans())

    def transfer_spans(self) -> tuple[TransferSpan, ...]:
        names = self.cluster.names
        return tuple(
            TransferSpan(
                names[copy.push.src],
                names[copy.push.dst],
                copy.push.tasks,
                copy.push.bytes,
                copy.start_ns,
                copy.end_ns,
                copy.push.kind == HOST_INPUT,
            )
            for copy in self.copies
            if copy.push.kind != LOAD
        )

    def load_spans(self) -> tuple[LoadSpan, ...]:
        names, loads = self.cluster.names, [c for c in self.copies if c.push.kind == LOAD]
        loads.sort(key=lambda load: (load.start_ns, load.push.dst))
        return tuple(
            LoadSpan(names[c.push.dst], c.push.cell, c.push.bytes, c.start_ns, c.end_ns)
            for c in loads
        )
