"""The reference simulator: the readable definition of what a plan does on a profiled machine.

It interprets the same programs as every other engine. One instant settles in rounds; in each round
all completions come first, then loads, transfers, host dispatches and launches (see `clock`). Most
instants change little: copies, transfers and launches that wait for their phase stand in an outbox,
a queue and `turns`, so that nobody has to look at everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.pricing import ProgramPrices, price
from dynpartition.profile import Dispatch, PricedGraph, Profile
from dynpartition.program import COPY, RUN, WAIT, Program, lower
from dynpartition.sim.clock import Completion, Effect, InstantClock
from dynpartition.sim.host import HostWorld, make_host
from dynpartition.sim.links import HOST_INPUT, LOAD, OUTPUT, Busy, Links, Transfer
from dynpartition.sim.memory import MemoryWorld, make_memory
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

    device: int
    rest: Iterator[tuple[int, int]]
    """What is left of its program."""
    awaited: int = NONE
    """The copy that it waits for, at a WAIT."""


@dataclass(slots=True)
class _Known:
    """Revelation so far: revealer → when its output was complete, and when it was known."""

    end_ns: dict[int, int] = field(default_factory=dict)
    known_ns: dict[int, int] = field(default_factory=dict)


class _Done(NamedTuple):
    """The completion of a launch that had ended before a loss."""

    value: int


class Machine:
    """A simulated machine that runs one program once."""

    def __init__(self, priced: PricedGraph, program: Program, prices: ProgramPrices) -> None:
        self.priced = priced
        self.program = program
        self.prices = prices
        self.start_ns = [NONE] * program.n_launches
        self.end_ns = [NONE] * program.n_launches
        self._lists = lists = program.lists
        self._device_of = lists.launch_device
        self._engines = [_Engine(device, iter(code)) for device, code in enumerate(lists.code)]
        self._turns: dict[int, int] = {}
        """Device → the launch that its program has come to: all its WAITs are behind."""
        self._busy = Busy()
        self._arrived: set[int] = set()
        self._outbox: list[int] = []
        self._reveals = _Known()
        self._revealers = frozenset(priced.graph.revealers)
        self._handoff_ns = _handoff_ns(priced.profile.dispatch)
        self._has_slowdowns = any(prices.paces)
        self._carried = sorted(prices.carried)
        self._clock = InstantClock()
        self._links = Links(priced, self._clock, self._busy)
        self._host = make_host(
            HostWorld(priced, program, prices, self._clock, self._released, self._start_launch)
        )
        self._memory = make_memory(
            MemoryWorld(
                *(priced, program, self._clock, self._busy),
                released=self._released,
                push=self._links.push,
            )
        )
        self._conditions = tuple(self._find_conditions())

    def run(self) -> None:
        """Run to the end; raises OutOfDeviceMemory."""
        self._run(None)
        assert NONE not in self.end_ns, (
            f"launch {self.end_ns.index(NONE)} never ended: legal plans do not deadlock"
        )

    def run_until(self, time_ns: int) -> None:
        """Run up to a time: what ends then has ended, nothing begins any more."""
        self._run(time_ns)

    def resident(self, device: int) -> tuple[int, ...] | None:
        """Return the cells whose weights are on a device now; None: all."""
        return self._memory.resident(device) if self._memory else None

    def _run(self, until_ns: int | None) -> None:
        for arrival_ns in sorted(set(self.priced.graph.available_ns) - {0}):
            self._clock.after(arrival_ns, self._something_arrived)
        for engine in self._engines:
            self._run_ahead(engine)
        self._clock.run(list(self._phases()), until_ns=until_ns)

    def _phases(self) -> Iterator[Effect]:
        """Yield one round of an instant, without what this world does not need."""
        if self._carried:
            yield self._resume
        yield self._push_due
        if self._memory:
            yield self._memory.begin_loads
        yield self._start_transfers
        if self._host:
            yield self._host.dispatch
        yield self._launch
        if self._host:
            yield self._host.grant_lock

    def _find_conditions(self) -> Iterator[Callable[[int], bool]]:
        """Yield what must hold, besides inputs and an idle device, before a launch starts."""
        if self._memory:
            yield self._memory.has_weights
        if self._host:
            yield self._host.dispatched
            yield self._host.may_start  # last, because asking for the lock is remembered
        elif self._lists.held_launches:
            yield self._released

    def _resume(self) -> None:
        """Go on from a loss: what had been made is there, what was under way is so again."""
        if not self._carried or not self._released(self._carried[0]):
            return
        for launch in self._carried:
            if self.prices.launch_ns[launch]:
                self._start_launch(launch)
            else:
                self._occupy(launch, self._device_of[launch])
                self._launch_ended(_Done(launch))
        self._carried.clear()

    def _push_due(self) -> None:
        """Turn copies whose readers are known into transfers: one per launch and destination."""
        if not self._outbox:
            return
        lists = self._lists
        for key, copies in self._take_due().items():
            size = sum([lists.copy_bytes[copy] for copy in copies])
            link = lists.copy_link[copies[0]]
            transfer = Transfer((self._clock.now_ns, *key), link, size, tuple(copies))
            if self.prices.there and self.prices.there.issuperset(copies):
                self._keep(transfer)
            else:
                self._links.push(transfer)

    def _take_due(self) -> dict[tuple[int, int, int], list[int]]:
        """Take the copies that are due out of the outbox, by what they are the same in."""
        lists = self._lists
        due: dict[tuple[int, int, int], list[int]] = {}
        held_back: list[int] = []
        for copy in self._outbox:
            if copy in lists.held_copies and not self._copy_is_due(copy):
                held_back.append(copy)
            else:
                due.setdefault(lists.copy_key[copy], []).append(copy)
        self._outbox = held_back
        return due

    def _start_transfers(self) -> None:
        for transfer in self._links.start_ready():
            if self._memory:
                self._memory.transfer_started(transfer)
            duration_ns = transfer.end_ns - transfer.start_ns
            self._clock.after(duration_ns, self._transfer_ended, transfer)

    def _launch(self) -> None:
        """Start, device by device, the launches that wait for nothing any more."""
        turns = self._turns
        if not turns:
            return
        for device in sorted(turns) if len(turns) > 1 else tuple(turns):
            launch = turns[device]
            is_idle = not self._busy.mask >> device & 1
            if is_idle and (not self._conditions or self._may_start(launch)):
                self._start_launch(launch)

    def _may_start(self, launch: int) -> bool:
        return all(holds(launch) for holds in self._conditions)

    # Launches.

    def _run_ahead(self, engine: _Engine) -> None:
        """Execute what takes no time: stop at a launch or at a transfer that is not there."""
        for opcode, operand in engine.rest:
            if opcode == RUN:
                self._turns[engine.device] = operand
                return
            if opcode == WAIT and operand not in self._arrived:
                engine.awaited = operand
                return
            if opcode == COPY:
                self._outbox.append(operand)

    def _start_launch(self, launch: int) -> None:
        device = self._device_of[launch]
        self._occupy(launch, device)
        duration_ns = self.prices.launch_ns[launch]
        if self._has_slowdowns:
            duration_ns = self.prices.lasts_ns(launch, device, self._clock.now_ns)
        self._clock.after(duration_ns, self._launch_ended, launch)

    def _occupy(self, launch: int, device: int) -> None:
        del self._turns[device]
        self._busy.mask |= 1 << device
        self.start_ns[launch] = self._clock.now_ns
        if self._memory:
            self._memory.launch_started(launch, device)

    def _launch_ended(self, completion: Completion) -> None:
        launch: int = completion.value
        device = self._device_of[launch]
        self.end_ns[launch] = now_ns = self._clock.now_ns
        self._busy.mask ^= 1 << device
        if self._memory:
            self._memory.launch_ended(launch, device)
        self._run_ahead(self._engines[device])
        if self._host:
            self._host.launch_ended(launch)
        if self._revealers:
            for task in self._revealers.intersection(self.program.launch_tasks.rows[launch]):
                self._reveals.end_ns[task] = now_ns
                if device == self.priced.cluster.host_index:
                    self._reveal_soon(task)

    # Transfers.

    def _copy_is_due(self, copy: int) -> bool:
        known = self._reveals.known_ns.keys() >= set(self.program.copy_gates.rows[copy])
        return known and self._lists.copy_due_ns[copy] <= self._clock.now_ns

    def _transfer_ended(self, completion: Completion) -> None:
        transfer: Transfer = completion.value
        self._links.end(transfer)
        if self._memory:
            self._memory.transfer_ended(transfer)
        if self._handoff_ns and transfer.kind == OUTPUT:
            self._clock.after(self._handoff_ns, self._handed_off, transfer)
        else:
            self._copies_arrived(transfer)
        if self._revealers:
            self._reveal_what_came(transfer)

    def _handed_off(self, completion: Completion) -> None:
        self._copies_arrived(completion.value)

    def _keep(self, transfer: Transfer) -> None:
        """Have at the destination what a transfer brought before a loss."""
        if self._memory:
            self._memory.transfer_started(transfer)
            self._memory.transfer_ended(transfer)
        self._copies_arrived(transfer)
        self._reveal_what_came(transfer)

    def _reveal_what_came(self, transfer: Transfer) -> None:
        if transfer.kind == OUTPUT and transfer.dst == self.priced.cluster.host_index:
            for task in self._revealers.intersection(self._tasks_of(transfer)):
                if task not in self._reveals.known_ns:
                    self._reveal_soon(task)

    def _copies_arrived(self, transfer: Transfer) -> None:
        self._arrived.update(transfer.copies)
        engine = self._engines[transfer.dst]
        if engine.awaited in transfer.copies:
            self._run_ahead(engine)

    def _tasks_of(self, transfer: Transfer) -> tuple[int, ...]:
        rows = self.program.copy_tasks.rows
        return tuple(sorted(task for copy in transfer.copies for task in rows[copy]))

    # Revelation and arrival.

    def _reveal_soon(self, task: int) -> None:
        """The value is on the host: it is known after the host has read it and decided."""
        dispatch = self.priced.profile.dispatch
        self._clock.after(dispatch.sync_ns + dispatch.decision_ns, self._became_known, task)

    def _became_known(self, completion: Completion) -> None:
        self._reveals.known_ns[completion.value] = self._clock.now_ns
        if self._memory:
            self._memory.became_known(completion.value)

    def _something_arrived(self, _: Completion) -> None:
        if self._memory:
            self._memory.something_arrived()

    def _released(self, launch: int) -> bool:
        """Return whether a launch has arrived and everything that hides it is known."""
        if launch not in self._lists.held_launches:
            return True
        known = self._reveals.known_ns.keys() >= set(self.program.launch_gates.rows[launch])
        return known and self._lists.launch_arrival_ns[launch] <= self._clock.now_ns

    # The record.

    def trace(self) -> Trace:
        """Return what happened, when the run has ended."""
        names, rows = self.priced.cluster.names, self.program.launch_tasks.rows
        moved = sorted(self._links.history, key=lambda transfer: transfer.key)
        loads = sorted(
            (t for t in moved if t.kind == LOAD), key=lambda load: (load.start_ns, load.dst)
        )
        dispatched = self._host.spans if self._host else []
        dispatches = sorted(dispatched, key=lambda pair: (pair[1].start_ns, pair[0]))
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


def _handoff_ns(dispatch: Dispatch) -> int:
    """Return how long after a transfer its outputs can be read."""
    return dispatch.handoff_ns if dispatch.host_mode == "processes" else 0
