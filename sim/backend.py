"""The simulator as a backend: sessions that show tasks when the simulated run knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dynpartition.by_id import ById
from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.contract import Backend, CompletePlan, Session, Workload
from dynpartition.errors import PlanError
from dynpartition.graph import VALUE_MAX, TaskGraph
from dynpartition.plan import Launch, Plan, check_plan
from dynpartition.profile import PricedGraph, Profile
from dynpartition.sim.losses import History, Leg, after_loss
from dynpartition.sim.perturb import perturbed
from dynpartition.sim.reference import simulate
from dynpartition.streams import ClosedLoop, request_ends_ns
from dynpartition.trace import LaunchSpan, Reveal, Trace, TransferSpan
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from dynpartition.sim.evaluate import Evaluator
    from dynpartition.sim.prepared import PreparedGraph

Simulate = Callable[..., Trace]
"""`reference.simulate`, or another engine with the same arguments and results."""


class SimBackend(Backend):
    """Runs workloads on a simulated machine, described by a profile."""

    def __init__(
        self,
        profile: Profile,
        *,
        conditions: Conditions = GOOD_DAY,
        randomise: bool = False,
        engine: Simulate = simulate,
    ) -> None:
        """Prepare to simulate.

        `randomise`: run n is on another machine, drawn around the profile within its uncertainty,
        and with other noise. What schedulers know stays the profile.
        """
        conditions.check(profile.cluster)
        self._profile = profile
        self._conditions = conditions
        self._randomise = randomise
        self._engine = engine
        self._n_runs = 0
        self._prepared: ById[TaskGraph, PreparedGraph] = ById()
        self._evaluator: Evaluator | None = None

    @property
    def profile(self) -> Profile:
        """The machine."""
        return self._profile

    def open(self, workload: Workload) -> SimSession:
        """Start a run; its clock stands at the first arrival until the first `advance`."""
        if not self._randomise:
            return SimSession(workload, self._profile, self._conditions, self._engine)
        seed = self._conditions.seed + self._n_runs
        self._n_runs += 1
        machine = perturbed(self._profile, seed)
        return SimSession(workload, machine, replace(self._conditions, seed=seed), self._engine)

    def makespans_ns(self, plans: Sequence[CompletePlan]) -> IntArray:
        """Price all plans in one compiled call, as running them one by one would."""
        from dynpartition.sim.evaluate import Evaluator, evaluate_many  # need numba

        if self._randomise or self._conditions.losses:
            return super().makespans_ns(plans)
        graphs = [self._prepare(plan.graph) for plan in plans]
        self._evaluator = self._evaluator or Evaluator()
        return evaluate_many(
            *(graphs, [plan.choices for plan in plans], self._profile),
            conditions=self._conditions,
            evaluator=self._evaluator,
        )

    def _prepare(self, graph: TaskGraph) -> PreparedGraph:
        from dynpartition.sim.prepared import PreparedGraph

        def prepare(graph: TaskGraph) -> PreparedGraph:
            return PreparedGraph(PricedGraph(graph, self._profile))

        return self._prepared.get_or_make(graph, prepare)


class SimSession(Session):
    """One simulated run.

    Whenever it has to know what happens next, the plan so far is simulated again from the start.
    Launches of tasks shown later never change what happened before, so this replays the same
    past, and it keeps the session free of a second implementation of the semantics.
    """

    def __init__(
        self, workload: Workload, profile: Profile, conditions: Conditions, engine: Simulate
    ) -> None:
        self._complete = self._original = workload.graph
        self._loop = ClosedLoop.of(workload)
        self._profile = profile
        self._conditions = _with_luck(conditions, profile, self._complete)
        self._engine = engine
        self._first_arrival_ns = int(self._complete.arrival_ns.min())
        self._now_ns = min(self._complete.available_ns)
        self._known: frozenset[int] = frozenset()
        self._order: list[int] = []
        self._plan = Plan()
        self._simulated: Trace | None = None  # the plan so far, in the complete graph's numbering
        self._losses = sorted(conditions.losses, key=lambda loss: loss.at_ns)
        self._lost: frozenset[str] = frozenset()
        self._known_before_loss: frozenset[int] = frozenset()
        self._history: History | None = None
        self._finished = False
        self._show_tasks()

    @property
    def graph(self) -> TaskGraph:
        """The tasks that have arrived and been revealed so far.

        After a loss, tasks that need not run again cost nothing and have no inputs, until the run
        has finished.
        """
        if self._finished and self._history:
            return self._original.subgraph(self._order)
        return self._graph

    @property
    def is_complete(self) -> bool:
        """Whether everything has been shown and no device will be lost."""
        return self._graph is self._complete and not self._losses and not self._history

    @property
    def plan(self) -> Plan:
        """The launches so far, in the session's numbering.

        After a loss: one for every task that need not run again, where its output is, and those
        that have been appended since; when the run has finished, what really ran.
        """
        if self._finished and self._history:
            return self._in_session(self._whole()[0])
        return self._plan

    @property
    def profile_now(self) -> Profile | None:
        """The machine without the devices that have been lost; None while there are all."""
        return self._profile if self._history else None

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
        if self._finished and self._history:
            return self._whole()[0]
        return self._planned()

    @property
    def complete_trace(self) -> Trace:
        """What happened, in the complete graph's numbering."""
        if not self._finished:
            raise PlanError("the run has not finished; advance the session until it returns False")
        return self._whole()[1] if self._history else self._simulation()

    def _planned(self) -> Plan:
        """Return the launches so far in the complete graph's numbering, as engines take them."""
        if self._graph is self._complete:
            return self._plan
        return _mapped(self._plan, self._order)

    def _in_session(self, plan: Plan) -> Plan:
        return _mapped(plan, {old: new for new, old in enumerate(self._order)})

    def _whole(self) -> tuple[Plan, Trace]:
        """Return the plan and trace of a run with losses."""
        assert self._history is not None
        trace = self._simulation()
        placed = [task for span in trace.launches for task in span.tasks]
        end_ns = trace.makespan_ns + int(self._complete.arrival_ns[placed].min())
        return self._history.whole(trace, end_ns, self._first_arrival_ns)

    @property
    def trace(self) -> Trace:
        """What happened, in the session's numbering."""
        return self._renumbered(self.complete_trace)

    def advance(self, launches: Sequence[Launch]) -> bool:
        """Append launches and go on to the next instant that shows new tasks, or to the end."""
        self._plan += launches
        self._simulated = None
        if self._graph is not self._complete:  # else the simulator checks
            check_plan(self._graph, self._profile.cluster, self._plan)
        for instant_ns in self._instants():
            self._now_ns = instant_ns
            self._take_note(instant_ns)
            shown = self._show_tasks()
            lost = self._lose_devices(instant_ns)
            if shown or lost:
                return True
        self._simulation()
        self._finished = True
        return False

    def _instants(self) -> Iterator[int]:
        """Yield the next instants at which something arrives or becomes known."""
        while True:
            never_ns = VALUE_MAX if self._loop.waiting else VALUE_MAX + 1
            arrivals = [ns for ns in self._complete.available_ns if self._now_ns < ns < never_ns]
            coming = [*arrivals, *self._reveals().values(), *self._loop_ends().values()]
            coming += self._next_loss(bool(coming))
            if not coming:
                return
            yield min(coming)

    def _take_note(self, instant_ns: int) -> None:
        """Learn what is known at an instant; requests that follow others get their arrivals."""
        self._known |= {task for task, ns in self._reveals().items() if ns == instant_ns}
        for request, end_ns in self._loop_ends().items():
            if end_ns == instant_ns:
                self._complete = self._loop.follow(self._complete, request, end_ns)
                self._original = self._loop.follow(self._original, request, end_ns)
                self._loop.waiting.remove(request)
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
        done = {task for launch in self._planned().launches for task in launch.tasks}
        ready = [r for r in self._loop.waiting if done.issuperset(self._loop.tasks[r])]
        if not ready:
            return {}
        ends = request_ends_ns(self._complete, self._simulation(), self._profile.cluster.host)
        return {request: ends[request] for request in ready}

    def _next_loss(self, more_to_come: bool) -> list[int]:
        """Return the time of the next loss if it comes before everything has ended."""
        if not self._losses:
            return []
        at_ns, trace = self._losses[0].at_ns, self._simulation()
        ends_ns = [*(s.end_ns for s in trace.launches), *(s.end_ns for s in trace.transfers)]
        return [at_ns] if more_to_come or max(ends_ns) > at_ns else []

    def _lose_devices(self, instant_ns: int) -> bool:
        """Apply the losses of an instant; return whether tasks have to be placed again."""
        to_place = False
        while self._losses and self._losses[0].at_ns <= instant_ns:
            loss = self._losses.pop(0)
            trace = self._simulation(complete=False)  # not all that is shown has been placed
            shown = frozenset(self._order)
            # Not `_known`: where sync and decision take no time, new launches may delay at this
            # very instant what has just been shown.
            self._known_before_loss |= {r.task for r in trace.reveals if r.known_ns <= loss.at_ns}
            leg = Leg(
                *(self._original, self._complete, self._profile, self._planned(), trace),
                *(shown, self._known_before_loss, self._lost, self._conditions),
            )
            rest = after_loss(leg, loss)
            self._lost |= {loss.device}
            self._history = self._history or History()
            self._history.add(rest, trace, loss.at_ns)
            self._complete, self._profile = rest.graph, rest.profile
            self._conditions = replace(
                self._conditions, under_way_ns=rest.under_way_ns, copies=rest.copies
            )
            self._engine = simulate  # others do not know what losses leave behind
            self._graph = self._complete.subgraph(self._order)
            self._plan, self._simulated = self._in_session(rest.carried), None
            to_place |= len(self._plan) < len(self._order)
        return to_place

    def _simulation(self, *, complete: bool = True) -> Trace:
        """Simulate the plan so far; `complete`: it must place every task that is shown."""
        if self._simulated is None:
            self._simulated = self._engine(
                self._complete,
                self._profile,
                self._planned(),
                complete=complete and len(self._order) == len(self._complete),
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
            wasted=tuple(replace(span, tasks=renumber(span.tasks)) for span in trace.wasted),
        )


def _mapped(plan: Plan, number: Sequence[int] | Mapping[int, int]) -> Plan:
    return Plan(
        tuple(
            Launch(launch.device, tuple(number[task] for task in launch.tasks))
            for launch in plan.launches
        )
    )


def _with_luck(conditions: Conditions, profile: Profile, graph: TaskGraph) -> Conditions:
    """Fix the key of the noise: a closed loop changes the graph as it goes."""
    if profile.noise is None or conditions.luck is not None:
        return conditions
    return replace(conditions, luck=graph.digest)
