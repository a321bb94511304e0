"""The simulator as a backend: sessions that show tasks when the simulated run knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.contract import Backend, Session, Workload
from dynpartition.errors import PlanError
from dynpartition.graph import VALUE_MAX, TaskGraph
from dynpartition.plan import Launch, Plan, check_plan
from dynpartition.profile import Profile
from dynpartition.sim.reference import simulate
from dynpartition.streams import ClosedLoop, request_ends_ns
from dynpartition.trace import LaunchSpan, Reveal, Trace, TransferSpan

Simulate = Callable[..., Trace]
"""`reference.simulate`, or another engine with the same arguments and results."""


class SimBackend(Backend):
    """Runs workloads on a simulated machine, described by a profile."""

    def __init__(
        self,
        profile: Profile,
        *,
        conditions: Conditions = GOOD_DAY,
        engine: Simulate = simulate,
    ) -> None:
        conditions.check(profile.cluster)
        self._profile = profile
        self._conditions = conditions
        self._engine = engine

    @property
    def profile(self) -> Profile:
        """The machine."""
        return self._profile

    def open(self, workload: Workload) -> SimSession:
        """Start a run; its clock stands at the first arrival until the first `advance`."""
        return SimSession(workload, self._profile, self._conditions, self._engine)


class SimSession(Session):
    """One simulated run.

    Whenever it has to know what happens next, the plan so far is simulated again from the start.
    Launches of tasks shown later never change what happened before, so this replays the same
    past, and it keeps the session free of a second implementation of the semantics.
    """

    def __init__(
        self, workload: Workload, profile: Profile, conditions: Conditions, engine: Simulate
    ) -> None:
        self._complete = workload.graph
        self._loop = ClosedLoop.of(workload)
        self._profile = profile
        self._conditions = _with_luck(conditions, profile, self._complete)
        self._engine = engine
        self._now_ns = min(self._complete.available_ns)
        self._known: frozenset[int] = frozenset()
        self._order: list[int] = []
        self._plan = Plan()
        self._simulated: Trace | None = None  # the plan so far, in the complete graph's numbering
        self._finished = False
        self._show_tasks()

    @property
    def graph(self) -> TaskGraph:
        """The tasks that have arrived and been revealed so far."""
        return self._graph

    @property
    def plan(self) -> Plan:
        """The launches so far, in the session's numbering."""
        return self._plan

    @property
    def task_order(self) -> tuple[int, ...]:
        """Session task number → index in the complete graph."""
        return tuple(self._order)

    @property
    def complete_graph(self) -> TaskGraph:
        """The complete graph, with the arrivals that a closed loop came to."""
        return self._complete

    @property
    def complete_plan(self) -> Plan:
        """The launches so far, in the complete graph's numbering."""
        if self._graph is self._complete:
            return self._plan
        return Plan(
            tuple(
                Launch(launch.device, tuple(self._order[task] for task in launch.tasks))
                for launch in self._plan.launches
            )
        )

    @property
    def trace(self) -> Trace:
        """What happened, in the session's numbering."""
        if not self._finished:
            raise PlanError("the run has not finished; advance the session until it returns False")
        return self._renumbered(self._simulation())

    def advance(self, launches: Sequence[Launch]) -> bool:
        """Append launches and go on to the next instant that shows new tasks, or to the end."""
        self._plan += launches
        self._simulated = None
        if self._graph is not self._complete:  # else the simulator checks
            check_plan(self._graph, self._profile.cluster, self._plan)
        for instant_ns in self._instants():
            self._now_ns = instant_ns
            self._take_note(instant_ns)
            if self._show_tasks():
                return True
        self._simulation()
        self._finished = True
        return False

    def _instants(self) -> Iterator[int]:
        """Yield the next instants at which something arrives or becomes known."""
        while True:
            arrivals = [ns for ns in self._complete.available_ns if self._now_ns < ns < VALUE_MAX]
            coming = [*arrivals, *self._reveals().values(), *self._loop_ends().values()]
            if not coming:
                return
            yield min(coming)

    def _take_note(self, instant_ns: int) -> None:
        """Learn what is known at an instant; requests that follow others get their arrivals."""
        self._known |= {task for task, ns in self._reveals().items() if ns == instant_ns}
        for request, end_ns in self._loop_ends().items():
            if end_ns == instant_ns:
                self._complete = self._loop.follow(self._complete, request, end_ns)
                self._simulated = None

    def _reveals(self) -> dict[int, int]:
        """Return revealers that the plan so far makes known → when."""
        waiting = set(self._complete.revealers) - self._known
        if not waiting:
            return {}  # spares a simulation
        reveals = self._simulation().reveals
        return {reveal.task: reveal.known_ns for reveal in reveals if reveal.task in waiting}

    def _loop_ends(self) -> dict[int, int]:
        """Return requests of a closed loop whose end the next one waits for → their end."""
        if not self._loop.waiting:
            return {}
        done = {task for launch in self.complete_plan.launches for task in launch.tasks}
        ready = [r for r in self._loop.waiting if done.issuperset(self._loop.tasks[r])]
        if not ready:
            return {}
        ends = request_ends_ns(self._complete, self._simulation(), self._profile.cluster.host)
        return {request: ends[request] for request in ready}

    def _simulation(self) -> Trace:
        if self._simulated is None:
            self._simulated = self._engine(
                self._complete,
                self._profile,
                self.complete_plan,
                complete=len(self._order) == len(self._complete),
                conditions=self._conditions,
            )
        return self._simulated

    def _show_tasks(self) -> bool:
        """Append the tasks that have arrived and are known; return whether there were any."""
        shown = set(self._order)
        fresh = [
            task
            for task, (gates, available_ns) in enumerate(
                zip(self._complete.gates, self._complete.available_ns, strict=True)
            )
            if task not in shown and available_ns <= self._now_ns and self._known.issuperset(gates)
        ]
        fresh.sort(key=lambda task: (int(self._complete.revealed_by[task]), task))
        self._order += fresh
        if fresh:
            as_given = self._order == list(range(len(self._complete)))
            self._graph = self._complete if as_given else self._complete.subgraph(self._order)
        return bool(fresh)

    def _renumbered(self, trace: Trace) -> Trace:
        if self._graph is self._complete:
            return trace
        number = {old: new for new, old in enumerate(self._order)}

        def renumber(tasks: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(number[task] for task in tasks)

        return Trace(
            makespan_ns=trace.makespan_ns,
            launches=tuple(
                LaunchSpan(s.device, renumber(s.tasks), s.start_ns, s.end_ns)
                for s in trace.launches
            ),
            transfers=tuple(
                TransferSpan(
                    s.src, s.dst, renumber(s.tasks), s.bytes, s.start_ns, s.end_ns, s.host_input
                )
                for s in trace.transfers
            ),
            dispatches=tuple(
                replace(span, tasks=renumber(span.tasks)) for span in trace.dispatches
            ),
            reveals=tuple(Reveal(number[r.task], r.end_ns, r.known_ns) for r in trace.reveals),
            loads=trace.loads,
        )


def _with_luck(conditions: Conditions, profile: Profile, graph: TaskGraph) -> Conditions:
    """Fix the key of the noise: a closed loop changes the graph as it goes."""
    if profile.noise is None or conditions.luck is not None:
        return conditions
    return replace(conditions, luck=graph.digest)
