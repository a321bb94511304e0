"""The contracts: what a workload, a backend and a scheduler are.

A backend opens a session per workload. The session shows the tasks revealed so far; the caller
appends launches for all of them and lets the session advance, which returns when more tasks have
been revealed or everything has finished. Nothing above a backend knows whether it simulates.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from dynpartition.closing import Closing
from dynpartition.errors import OutOfDeviceMemory, PlanError, SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, chosen_launches
from dynpartition.profile import Profile
from dynpartition.trace import Trace
from dynpartition.types import IntArray

INFEASIBLE_NS = int(np.iinfo(np.int64).max)
"""Makespan of a plan that runs out of memory: worse than any other."""


class Workload(ABC):
    """One input of a dynamic network."""

    @property
    @abstractmethod
    def graph(self) -> TaskGraph:
        """The complete graph, hidden tasks included, as a simulator needs it.

        Schedulers never see it. A model input whose routing depends on values may have to run the
        model's routers to know it.
        """


@dataclass(frozen=True)
class GraphWorkload(Workload):
    """A workload that is a given graph, for instance from a file."""

    complete: TaskGraph

    @property
    def graph(self) -> TaskGraph:
        """The given graph."""
        return self.complete


class Session(Closing, ABC):
    """One workload on its way through a backend. Close it, or use it in a `with` block."""

    @property
    @abstractmethod
    def graph(self) -> TaskGraph:
        """The tasks revealed so far, numbered 0…n-1 in the order of their revelation."""

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The launches so far."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will be shown, as far as the backend can tell before it runs."""
        return False

    @property
    def profile_now(self) -> Profile | None:
        """What schedulers must know of the machine now; None: what the backend says."""
        return None

    @abstractmethod
    def advance(self, launches: Sequence[Launch]) -> bool:
        """Append `launches`, which must place every revealed task, and go on.

        Returns True when more tasks have been revealed, False when everything has finished.
        """

    @property
    @abstractmethod
    def trace(self) -> Trace:
        """What happened; only after `advance` has returned False."""

    @property
    def waited_ns(self) -> int:
        """How long threads waited for a processor core, all together; 0 where nobody counts.

        Only after `advance` has returned False. Such a run measures what else the machine did.
        """
        return 0

    def close(self) -> None:
        """Stop what is still running and free what the session holds."""
        return


class RelayedSession(Session):
    """A session that another one runs: what a subclass does not change is the other's."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def graph(self) -> TaskGraph:
        """The other's."""
        return self._session.graph

    @property
    def plan(self) -> Plan:
        """The other's."""
        return self._session.plan

    @property
    def is_complete(self) -> bool:
        """Whether the other says so."""
        return self._session.is_complete

    @property
    def profile_now(self) -> Profile | None:
        """The other's."""
        return self._session.profile_now

    def advance(self, launches: Sequence[Launch]) -> bool:
        """Let the other go on."""
        return self._session.advance(launches)

    @property
    def trace(self) -> Trace:
        """The other's."""
        return self._session.trace

    @property
    def waited_ns(self) -> int:
        """The other's."""
        return self._session.waited_ns

    def close(self) -> None:
        """Close the other."""
        self._session.close()


class CompletePlan(NamedTuple):
    """A plan for a workload of which nothing is hidden or late."""

    workload: Workload
    graph: TaskGraph
    """What its session shows."""
    choices: IntArray
    """(N, 2) or (N, 3), in plan order: task, device index, and whether the task joins the launch of
    the task before it."""

    def launches(self, device_names: Sequence[str]) -> list[Launch]:
        """Return the launches."""
        return chosen_launches(self.choices, device_names)


class Backend(Closing, ABC):
    """Runs plans and returns traces, on a simulated or a real machine."""

    @property
    @abstractmethod
    def profile(self) -> Profile:
        """What schedulers and observations may know of the machine."""

    @abstractmethod
    def open(self, workload: Workload) -> Session:
        """Start a run of `workload`; its time begins with the first `advance`."""

    def makespans_ns(self, plans: Sequence[CompletePlan]) -> IntArray:
        """Run every plan; return int64 (B,): makespans, INFEASIBLE_NS where memory runs out."""
        return np.array([self._makespan_ns(plan) for plan in plans], dtype=np.int64)

    def _makespan_ns(self, plan: CompletePlan) -> int:
        with self.open(plan.workload) as session:
            try:
                more = session.advance(plan.launches(self.profile.cluster.names))
            except OutOfDeviceMemory:
                return INFEASIBLE_NS
            if more:
                raise PlanError(
                    "the run showed tasks, or lost a device, unlike the first of its input"
                )
            return session.trace.makespan_ns

    def close(self) -> None:
        """Stop workers and free devices; the backend cannot be used afterwards."""
        return

    def __deepcopy__(self, memo: object) -> Self:
        """Return itself: a machine has no copy. Gymnasium copies the arguments of `make`."""
        return self


class Scheduler(ABC):
    """Decides where and in which order tasks run."""

    name: str
    """What tables and `--scheduler` call it."""

    @abstractmethod
    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return launches for every task of `graph` that `planned` does not hold yet.

        `graph` holds the revealed tasks only. The launches follow everything planned.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one workload under one scheduler came to."""

    graph: TaskGraph
    """All tasks revealed, numbered in the order of their revelation."""
    plan: Plan
    trace: Trace
    decision_ns: int
    """Wall time spent in the scheduler, over all its calls."""
    opening_decision_ns: int
    """Wall time of its first call, before the run: later ones are part of the makespan."""


def drive(session: Session, scheduler: Scheduler, profile: Profile) -> Outcome:
    """Run a session to its end; `scheduler` is asked at the start and after each reveal."""
    decisions_ns: list[int] = []
    more = True
    while more:
        before = time.perf_counter_ns()
        machine = session.profile_now or profile
        launches = scheduler.schedule(session.graph, machine, session.plan)
        decisions_ns.append(time.perf_counter_ns() - before)
        more = session.advance(launches)
    return Outcome(session.graph, session.plan, session.trace, sum(decisions_ns), decisions_ns[0])


def run(backend: Backend, workload: Workload, scheduler: Scheduler) -> Outcome:
    """Run one workload on `backend` as `scheduler` decides."""
    with backend.open(workload) as session:
        return drive(session, scheduler, backend.profile)


class FixedPlan(Scheduler):
    """Plays a given plan: at each call, its launches of the tasks revealed by then."""

    name = "fixed"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the plan's next launches; SchedulerError if it does not fit the revelation."""
        rest = self.plan.launches[len(planned) :]
        if self.plan.launches[: len(planned)] != planned.launches:
            raise SchedulerError("the given plan does not go on from the launches so far")
        due = [launch for launch in rest if all(task < len(graph) for task in launch.tasks)]
        if tuple(due) != rest[: len(due)]:
            raise SchedulerError("the given plan orders tasks revealed later before earlier ones")
        return due
