"""The reference simulator: the readable definition of what a plan does on a profiled machine.

It interprets the same programs as every other engine. One instant settles in rounds; in each round
all completions come first, then loads, transfers, host dispatches and launches (see `clock`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.pricing import ProgramPrices, price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import COPY, RUN, WAIT, Program, lower
from dynpartition.sim.clock import Effect, InstantClock
from dynpartition.sim.host import HostWorld, NoHost, make_host
from dynpartition.sim.links import HOST_INPUT, LOAD, OUTPUT, Busy, Links, Transfer
from dynpartition.sim.memory import MemoryWorld, Unlimited, make_memory
from dynpartition.trace import LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan

NONE = -1
"""No launch."""


def simulate(
    graph: TaskGraph,
    profile: Profile,
    plan: Plan,
    *,
    complete: bool = True,
    conditions: Conditions = GOOD_DAY,
) -> Trace:
    """Return what running `plan` for `graph` on `profile` does, in exact ns.

    `graph` holds hidden tasks too; `plan` places all of them, or not, if `complete` is False: then
    the run stops where launches end. Raises PlanError for an illegal plan, ProfileError for a
    missing cost and OutOfDeviceMemory where something does not fit.
    """
    program = lower(graph, profile.cluster, plan, complete=complete)
    priced = PricedGraph(graph, profile)
    machine = Machine(priced, program, price(program, priced, conditions))
    machine.run()
    return machine.trace()


@dataclass(slots=True)
class _Engine:
    """One device's place in its program."""

    code: list[tuple[int, int]]
    launches: list[int]
    next: int = 0
    ended: int = 0
    turn: int = NONE
    """The launch that the program has come to: all its WAITs are behind."""

    @property
    def next_launch(self) -> int:
        """The first launch that has not ended, or NONE."""
        return self.launches[self.ended] if self.ended < len(self.launches) else NONE


@dataclass(slots=True)
class _Known:
    """Revelation so far: revealer → when its output was complete, and when it was known."""

    end_ns: dict[int, int] = field(default_factory=dict)
    known_ns: dict[int, int] = field(default_factory=dict)


class Machine:
    """A simulated machine that runs one program once."""

    def __init__(self, priced: PricedGraph, program: Program, prices: ProgramPrices) -> None:
        self.priced = priced
        self.program = program
        self.prices = prices
        self.start_ns = [NONE] * program.n_launches
        self.end_ns = [NONE] * program.n_launches
        self._device_of: list[int] = program.launch_device.tolist()
        self._copies = _CopyTable(program)
        self._engines = [
            _Engine([(a, b) for a, b in rows.tolist()], rows[rows[:, 0] == RUN, 1].tolist())
            for rows in program.code
        ]
        self._busy = Busy()
        self._arrived: set[int] = set()
        self._outbox: list[int] = []
        self._reveals = _Known()
        self._revealers = frozenset(priced.graph.revealers)
        self._arrival_ns: list[int] = program.launch_arrival_ns.tolist()
        self._carried = sorted(prices.carried)
        self._clock = InstantClock()
        self._links = Links(
            priced, self._clock, self._busy, self._transfer_started, self._transfer_ended
        )
        self._host = make_host(
            HostWorld(priced, program, prices, self._clock, self._released, self._start_launch)
        )
        self._memory = make_memory(
            MemoryWorld(
                *(priced, program, self._clock, self._busy),
                next_launch=lambda device: self._engines[device].next_launch,
                released=self._released,
                push=self._links.push,
            )
        )

    def run(self) -> None:
        """Run to the end; raises OutOfDeviceMemory."""
        self._run(None)
        stuck = [launch for launch, end_ns in enumerate(self.end_ns) if end_ns < 0]
        assert not stuck, f"launches {stuck} never ended: legal plans do not deadlock"

    def run_until(self, time_ns: int) -> None:
        """Run up to a time: what ends then has ended, nothing begins any more."""
        self._run(time_ns)

    def resident(self, device: int) -> tuple[int, ...] | None:
        """Return the cells whose weights are on a device now; None: all."""
        return self._memory.resident(device)

    def _run(self, until_ns: int | None) -> None:
        for arrival_ns in sorted(set(self.priced.graph.available_ns) - {0}):
            self._clock.after(arrival_ns, self._memory.something_arrived)
        for engine in self._engines:
            self._run_ahead(engine)
        self._clock.run(list(self._phases()), until_ns=until_ns)

    def _phases(self) -> Iterator[Effect]:
        """Yield one round of an instant, without what this world does not need."""
        if self._carried:
            yield self._resume
        yield self._push_due
        if not isinstance(self._memory, Unlimited):
            yield self._memory.begin_loads
        yield self._links.start_ready
        if not isinstance(self._host, NoHost):
            yield self._host.dispatch
        yield self._launch
        if not isinstance(self._host, NoHost):
            yield self._host.grant_lock

    def _resume(self) -> None:
        """Go on from a loss: what had been made is there, what was under way is so again."""
        if not self._carried or self._arrival_ns[self._carried[0]] > self._clock.now_ns:
            return
        for launch in self._carried:
            if self.prices.launch_ns[launch]:
                self._start_launch(launch)
            else:
                self._occupy(launch)
                self._launch_ended(launch, self._device_of[launch])
        self._carried.clear()

    def _push_due(self) -> None:
        """Turn copies whose readers are known into transfers: one per launch and destination."""
        if not self._outbox:
            return
        due: dict[tuple[int, int, bool], list[int]] = {}
        held_back: list[int] = []
        for copy in self._outbox:
            if self._copy_is_due(copy):
                due.setdefault(self._copies.key(copy), []).append(copy)
            else:
                held_back.append(copy)
        self._outbox = held_back
        for (launch, dst, is_input), copies in due.items():
            transfer = self._transfer(launch, dst, is_input, copies)
            if self.prices.there.issuperset(copies):
                self._keep(transfer)
            else:
                self._links.push(transfer)

    def _launch(self) -> None:
        for device, engine in enumerate(self._engines):
            launch = engine.turn
            if launch >= 0 and not self._busy.mask >> device & 1 and self._may_start(launch):
                self._start_launch(launch)

    def _may_start(self, launch: int) -> bool:
        host = self._host
        has_weights = self._memory.has_weights(launch)
        # Last, because asking for the lock is remembered.
        return has_weights and host.dispatched(launch) and host.may_start(launch)

    # Launches.

    def _run_ahead(self, engine: _Engine) -> None:
        """Execute what takes no time: stop at a launch or at a transfer that is not there."""
        code, arrived = engine.code, self._arrived
        while engine.next < len(code):
            opcode, operand = code[engine.next]
            if opcode == RUN:
                engine.turn = operand
                return
            if opcode == WAIT and operand not in arrived:
                return
            if opcode == COPY:
                self._outbox.append(operand)
            engine.next += 1

    def _start_launch(self, launch: int) -> None:
        self._occupy(launch)
        device = self._device_of[launch]
        duration_ns = self.prices.lasts_ns(launch, device, self._clock.now_ns)
        self._clock.after(duration_ns, lambda: self._launch_ended(launch, device))

    def _occupy(self, launch: int) -> None:
        device = self._device_of[launch]
        self._busy.mask |= 1 << device
        self.start_ns[launch] = self._clock.now_ns
        self._memory.launch_started(launch, device)

    def _launch_ended(self, launch: int, device: int) -> None:
        self.end_ns[launch] = now_ns = self._clock.now_ns
        self._busy.mask ^= 1 << device
        self._memory.launch_ended(launch, device)
        engine = self._engines[device]
        engine.turn = NONE
        engine.next += 1
        engine.ended += 1
        self._run_ahead(engine)
        self._host.launch_ended(launch)
        if self._revealers:
            for task in self._revealers.intersection(self.program.launch_tasks.rows[launch]):
                self._reveals.end_ns[task] = now_ns
                if device == self.priced.cluster.host_index:
                    self._reveal_soon(task)

    # Transfers.

    def _copy_is_due(self, copy: int) -> bool:
        gates = self._copies.gates[copy]
        known = not gates or self._reveals.known_ns.keys() >= set(gates)
        return known and self._copies.due_ns[copy] <= self._clock.now_ns

    def _transfer(self, launch: int, dst: int, is_input: bool, copies: list[int]) -> Transfer:
        return Transfer(
            ready_ns=self._clock.now_ns,
            position=launch,
            dst=dst,
            link=self._copies.link[copies[0]],
            kind=HOST_INPUT if is_input else OUTPUT,
            bytes=sum([self._copies.bytes[copy] for copy in copies]),
            copies=tuple(copies),
        )

    def _transfer_started(self, transfer: Transfer) -> None:
        self._memory.transfer_started(transfer)

    def _transfer_ended(self, transfer: Transfer) -> None:
        self._memory.transfer_ended(transfer)
        if transfer.kind != OUTPUT:
            self._copies_arrived(transfer)
            return
        dispatch = self.priced.profile.dispatch
        if dispatch.handoff_ns and dispatch.host_mode == "processes":
            self._clock.after(dispatch.handoff_ns, lambda: self._copies_arrived(transfer))
        else:
            self._copies_arrived(transfer)
        self._reveal_what_came(transfer)

    def _keep(self, transfer: Transfer) -> None:
        """Have at the destination what a transfer brought before a loss."""
        self._memory.transfer_started(transfer)
        self._memory.transfer_ended(transfer)
        self._copies_arrived(transfer)
        self._reveal_what_came(transfer)

    def _reveal_what_came(self, transfer: Transfer) -> None:
        if self._revealers and transfer.dst == self.priced.cluster.host_index:
            for task in self._revealers.intersection(self._tasks_of(transfer)):
                if task not in self._reveals.known_ns:
                    self._reveal_soon(task)

    def _copies_arrived(self, transfer: Transfer) -> None:
        self._arrived.update(transfer.copies)
        self._run_ahead(self._engines[transfer.dst])

    def _tasks_of(self, transfer: Transfer) -> tuple[int, ...]:
        rows = self.program.copy_tasks.rows
        return tuple(sorted(task for copy in transfer.copies for task in rows[copy]))

    # Revelation and arrival.

    def _reveal_soon(self, task: int) -> None:
        """The value is on the host: it is known after the host has read it and decided."""
        dispatch = self.priced.profile.dispatch

        def known() -> None:
            self._reveals.known_ns[task] = self._clock.now_ns
            self._memory.became_known(task)

        self._clock.after(dispatch.sync_ns + dispatch.decision_ns, known)

    def _released(self, launch: int) -> bool:
        """Return whether a launch has arrived and everything that hides it is known."""
        gates = self.program.launch_gates.rows[launch]
        known = not gates or self._reveals.known_ns.keys() >= set(gates)
        return known and self._arrival_ns[launch] <= self._clock.now_ns

    # The record.

    def trace(self) -> Trace:
        """Return what happened, when the run has ended."""
        names, rows = self.priced.cluster.names, self.program.launch_tasks.rows
        moved = sorted(self._links.history, key=lambda transfer: transfer.key)
        loads = sorted(
            (t for t in moved if t.kind == LOAD), key=lambda load: (load.start_ns, load.dst)
        )
        dispatches = sorted(self._host.spans, key=lambda pair: (pair[1].start_ns, pair[0]))
        known = sorted(self._reveals.known_ns.items(), key=lambda entry: entry[::-1])
        spans = zip(self._device_of, rows, self.start_ns, self.end_ns, strict=True)
        return Trace(
            makespan_ns=self.makespan_ns,
            launches=tuple(LaunchSpan(names[d], tasks, *times) for d, tasks, *times in spans),
            transfers=tuple(self._transfer_span(t) for t in moved if t.kind != LOAD),
            dispatches=tuple(span for _, span in dispatches),
            reveals=tuple(Reveal(task, self._reveals.end_ns[task], ns) for task, ns in known),
            loads=tuple(self._load_span(load) for load in loads),
        )

    @property
    def makespan_ns(self) -> int:
        """Latest end of any launch or answer, from the earliest arrival on."""
        graph = self.priced.graph
        answers = [t.end_ns for t in self._links.history if self._is_answer(t)]
        placed = [task for tasks in self.program.launch_tasks.rows for task in tasks]
        first_ns = min(graph.arrival_ns[placed].tolist(), default=0)
        return int(max([*self.end_ns, *answers], default=0)) - first_ns

    def _is_answer(self, transfer: Transfer) -> bool:
        to_host = transfer.kind == OUTPUT and transfer.dst == self.priced.cluster.host_index
        return to_host and bool(self.priced.graph.returns[list(self._tasks_of(transfer))].any())

    def _transfer_span(self, transfer: Transfer) -> TransferSpan:
        link = self.priced.cluster.links[transfer.link]
        is_input = transfer.kind == HOST_INPUT
        times = (transfer.start_ns, transfer.end_ns)
        tasks = self._tasks_of(transfer)
        return TransferSpan(link.src, link.dst, tasks, transfer.bytes, *times, is_input)

    def _load_span(self, load: Transfer) -> LoadSpan:
        cell = self.priced.graph.cells[load.cell]
        device = self.priced.cluster.names[load.dst]
        return LoadSpan(device, cell.name, load.bytes, load.start_ns, load.end_ns)


class _CopyTable:
    """A program's transfers as Python lists, which an interpreter in Python reads faster."""

    def __init__(self, program: Program) -> None:
        self.launch: list[int] = program.copy_launch.tolist()
        self.dst: list[int] = program.copy_dst.tolist()
        self.link: list[int] = program.copy_link.tolist()
        self.bytes: list[int] = program.copy_bytes.tolist()
        self.is_input: list[bool] = program.copy_is_input.astype(bool).tolist()
        self.due_ns: list[int] = program.copy_due_ns.tolist()
        self.gates = program.copy_gates.rows

    def key(self, copy: int) -> tuple[int, int, bool]:
        """Return what copies that travel together have in common."""
        return self.launch[copy], self.dst[copy], self.is_input[copy]
