"""The reference simulator: the readable definition of what a plan does on a profiled machine.

It interprets the same programs as every other engine. One instant settles in rounds; in each round
all completions come first, then transfers, then host dispatches, then launches (see `clock`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import COPY, RUN, WAIT, Program, lower
from dynpartition.sim.clock import InstantClock
from dynpartition.sim.host import HostWorld, make_host
from dynpartition.sim.links import Links, Resource, Transfer
from dynpartition.trace import LaunchSpan, Reveal, Trace


def simulate(graph: TaskGraph, profile: Profile, plan: Plan, *, complete: bool = True) -> Trace:
    """Return what running `plan` for `graph` on `profile` does, in exact ns.

    `graph` holds hidden tasks too; `plan` places all of them, or not, if `complete` is False: then
    the run stops where launches end. Raises PlanError for an illegal plan and ProfileError for a
    missing cost.
    """
    program = lower(graph, profile.cluster, plan, complete=complete)
    return Machine(PricedGraph(graph, profile), program).run()


@dataclass(slots=True)
class _Engine:
    """One device's place in its program."""

    code: list[tuple[int, int]]
    next: int = 0


@dataclass(slots=True)
class _Known:
    """Revelation so far: revealer → when its output was complete, and when it was known."""

    end_ns: dict[int, int] = field(default_factory=dict)
    known_ns: dict[int, int] = field(default_factory=dict)


class Machine:
    """A simulated machine that runs one program once."""

    def __init__(self, priced: PricedGraph, program: Program) -> None:
        self.priced = priced
        self.program = program
        self.prices = price(program, priced)
        self._engines = [_Engine([(a, b) for a, b in rows.tolist()]) for rows in program.code]
        self._occupied: set[Resource] = set()
        self._arrived: set[int] = set()
        self._outbox: list[int] = []
        self._ended: list[LaunchSpan | None] = [None] * program.n_launches
        self._reveals = _Known()
        self._revealers = frozenset(priced.graph.revealers)
        self._clock = InstantClock(
            [self._push_due, self._start_transfers, self._dispatch, self._launch, self._grant]
        )
        self._links = Links(priced, self._clock, self._occupied, self._transfer_ended)
        world = HostWorld(
            priced, program, self.prices, self._clock, self._released, self._start_launch
        )
        self._host = make_host(world)

    def run(self) -> Trace:
        """Run to the end and return the trace."""
        for arrival_ns in sorted({int(a) for a in self.priced.graph.arrival_ns} - {0}):
            self._clock.after(arrival_ns, lambda: None)
        for engine in self._engines:
            self._run_ahead(engine)
        self._clock.run()
        stuck = [launch for launch, span in enumerate(self._ended) if span is None]
        assert not stuck, f"launches {stuck} never ended: legal plans do not deadlock"
        return self._trace()

    # One round of an instant, in this order.

    def _push_due(self) -> None:
        """Turn copies whose gates are known into transfers: one per launch and destination."""
        due: dict[tuple[int, int, bool], list[int]] = {}
        held_back: list[int] = []
        for copy in self._outbox:
            if self._copy_is_due(copy):
                due.setdefault(self._transfer_key(copy), []).append(copy)
            else:
                held_back.append(copy)
        self._outbox = held_back
        for (launch, dst, is_input), copies in due.items():
            self._links.push(self._transfer(launch, dst, is_input, copies))

    def _start_transfers(self) -> None:
        self._links.start_ready()

    def _dispatch(self) -> None:
        self._host.dispatch()

    def _launch(self) -> None:
        for device, engine in enumerate(self._engines):
            self._run_ahead(engine)
            if engine.next < len(engine.code) and engine.code[engine.next][0] == RUN:
                launch = engine.code[engine.next][1]
                idle = device not in self._occupied
                if idle and self._host.dispatched(launch) and self._host.may_start(launch):
                    self._start_launch(launch)

    def _grant(self) -> None:
        self._host.grant_lock()

    # Launches.

    def _run_ahead(self, engine: _Engine) -> None:
        """Execute what takes no time: stop at a launch or at a transfer that is not there."""
        while engine.next < len(engine.code):
            opcode, operand = engine.code[engine.next]
            if opcode == RUN or (opcode == WAIT and operand not in self._arrived):
                return
            if opcode == COPY:
                self._outbox.append(operand)
            engine.next += 1

    def _start_launch(self, launch: int) -> None:
        device = int(self.program.launch_device[launch])
        self._occupied.add(device)
        start_ns = self._clock.now_ns
        duration_ns = self.prices.launch_ns[launch]

        def end() -> None:
            self._launch_ended(launch, device, start_ns)

        self._clock.after(duration_ns, end)

    def _launch_ended(self, launch: int, device: int, start_ns: int) -> None:
        tasks = self.program.launch_tasks.rows[launch]
        now_ns = self._clock.now_ns
        self._ended[launch] = LaunchSpan(self.priced.cluster.names[device], tasks, start_ns, now_ns)
        self._occupied.discard(device)
        engine = self._engines[device]
        engine.next += 1
        self._run_ahead(engine)
        self._host.launch_ended(launch)
        for task in self._revealers.intersection(tasks):
            self._reveals.end_ns[task] = now_ns
            if device == self.priced.cluster.host_index:
                self._reveal_soon(task)

    # Transfers.

    def _copy_is_due(self, copy: int) -> bool:
        if self.program.copy_is_input[copy]:
            return self._released(int(self.program.copy_launch[copy]))
        return self._reveals.known_ns.keys() >= set(self.program.copy_gates.rows[copy])

    def _transfer_key(self, copy: int) -> tuple[int, int, bool]:
        program = self.program
        launch, dst = int(program.copy_launch[copy]), int(program.copy_dst[copy])
        return launch, dst, bool(program.copy_is_input[copy])

    def _transfer(self, launch: int, dst: int, is_input: bool, copies: list[int]) -> Transfer:
        program = self.program
        return Transfer(
            ready_ns=self._clock.now_ns,
            position=launch,
            dst=dst,
            link=int(program.copy_link[copies[0]]),
            copies=tuple(copies),
            tasks=tuple(sorted(t for copy in copies for t in program.copy_tasks.rows[copy])),
            bytes=sum(int(program.copy_bytes[copy]) for copy in copies),
            is_input=is_input,
        )

    def _transfer_ended(self, transfer: Transfer) -> None:
        dispatch = self.priced.profile.dispatch
        handoff_ns = dispatch.handoff_ns if dispatch.host_mode == "processes" else 0
        if handoff_ns and not transfer.is_input:
            self._clock.after(handoff_ns, lambda: self._arrived.update(transfer.copies))
        else:
            self._arrived.update(transfer.copies)
        if transfer.dst == self.priced.cluster.host_index and not transfer.is_input:
            for task in self._revealers.intersection(transfer.tasks):
                if task not in self._reveals.known_ns:
                    self._reveal_soon(task)

    # Revelation and arrival.

    def _reveal_soon(self, task: int) -> None:
        """The value is on the host: it is known after the host has read it and decided."""
        dispatch = self.priced.profile.dispatch

        def known() -> None:
            self._reveals.known_ns[task] = self._clock.now_ns

        self._clock.after(dispatch.sync_ns + dispatch.decision_ns, known)

    def _released(self, launch: int) -> bool:
        known = self._reveals.known_ns.keys() >= set(self.program.launch_gates.rows[launch])
        return known and self._has_arrived(self.program.launch_tasks.rows[launch])

    def _has_arrived(self, tasks: tuple[int, ...]) -> bool:
        arrival_ns = self.priced.graph.arrival_ns
        return all(arrival_ns[task] <= self._clock.now_ns for task in tasks)

    # The record.

    def _trace(self) -> Trace:
        launches = tuple(span for span in self._ended if span is not None)
        transfers = [span for _, span in sorted(self._links.spans, key=lambda pair: pair[0].key)]
        graph, host = self.priced.graph, self.priced.cluster.host
        answers = [s for s in transfers if s.dst == host and graph.returns[list(s.tasks)].any()]
        ends_ns = [span.end_ns for span in launches] + [span.end_ns for span in answers]
        last_ns = max(ends_ns, default=0)
        placed = [task for span in launches for task in span.tasks]
        first_ns = min((int(graph.arrival_ns[task]) for task in placed), default=0)
        reveals = self._reveals
        dispatches = sorted(self._host.spans, key=lambda pair: (pair[1].start_ns, pair[0]))
        return Trace(
            makespan_ns=last_ns - first_ns,
            launches=launches,
            transfers=tuple(transfers),
            dispatches=tuple(span for _, span in dispatches),
            reveals=tuple(
                Reveal(task, reveals.end_ns[task], known_ns)
                for task, known_ns in sorted(reveals.known_ns.items(), key=lambda kv: kv[::-1])
            ),
        )
