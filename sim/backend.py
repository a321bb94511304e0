"""The simulator as a backend: sessions that reveal tasks when the simulated run knows them."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.contract import Backend, Session, Workload
from dynpartition.errors import PlanError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, check_plan
from dynpartition.profile import Profile
from dynpartition.sim.reference import simulate
from dynpartition.trace import LaunchSpan, Reveal, Trace, TransferSpan


class SimBackend(Backend):
    """Runs workloads on a simulated machine, described by a profile."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    @property
    def profile(self) -> Profile:
        """The machine."""
        return self._profile

    def open(self, workload: Workload) -> SimSession:
        """Start a run; its clock stands at 0 until the first `advance`."""
        return SimSession(workload.graph, self._profile)


class SimSession(Session):
    """One simulated run.

    At each reveal the plan so far is simulated again from the start. Launches of tasks revealed
    later never change what happened before, so this replays the same past, and it keeps the
    session free of a second implementation of the semantics.
    """

    def __init__(self, complete: TaskGraph, profile: Profile) -> None:
        self._complete = complete
        self._profile = profile
        self._known: frozenset[int] = frozenset()
        self._order: list[int] = []
        self._plan = Plan()
        self._trace: Trace | None = None
        self._reveal_tasks()

    @property
    def graph(self) -> TaskGraph:
        """The tasks revealed so far."""
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
    def complete_plan(self) -> Plan:
        """The launches so far, in the complete graph's numbering."""
        return self._in_complete_graph(self._plan)

    def _in_complete_graph(self, plan: Plan) -> Plan:
        if self._graph is self._complete:
            return plan
        return Plan(
            tuple(
                Launch(launch.device, tuple(self._order[task] for task in launch.tasks))
                for launch in plan.launches
            )
        )

    @property
    def trace(self) -> Trace:
        """What happened, in the session's numbering."""
        if self._trace is None:
            raise PlanError("the run has not finished; advance the session until it returns False")
        return self._trace

    def advance(self, launches: Sequence[Launch]) -> bool:
        """Append launches and simulate until the next reveal that shows new tasks, or the end."""
        plan = self._plan + launches
        everything = self._graph is self._complete
        if not everything:  # else the simulator checks
            check_plan(self._graph, self._profile.cluster, plan)
        in_complete_graph = self._in_complete_graph(plan)
        trace = simulate(self._complete, self._profile, in_complete_graph, complete=everything)
        self._plan = plan
        pending = sorted(
            (reveal.known_ns, reveal.task)
            for reveal in trace.reveals
            if reveal.task not in self._known
        )
        while pending:
            instant_ns = pending[0][0]
            self._known |= {task for known_ns, task in pending if known_ns == instant_ns}
            pending = [entry for entry in pending if entry[0] > instant_ns]
            if self._reveal_tasks():
                return True
        self._trace = self._renumbered(trace)
        return False

    def _reveal_tasks(self) -> bool:
        """Append the tasks whose gates are all known; return whether there were any."""
        shown = set(self._order)
        fresh = [
            task
            for task, gates in enumerate(self._complete.gates)
            if task not in shown and self._known.issuperset(gates)
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
                type(s)(s.device, renumber(s.tasks), s.start_ns, s.end_ns) for s in trace.dispatches
            ),
            reveals=tuple(Reveal(number[r.task], r.end_ns, r.known_ns) for r in trace.reveals),
        )
