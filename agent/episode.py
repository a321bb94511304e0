"""Episodes: workloads placed choice by choice and run by a backend, several at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.agent import env_kernel as kernel
from dynpartition.agent.batch import Batch
from dynpartition.agent.facts import FactsCache
from dynpartition.agent.heuristics import SingleDevice
from dynpartition.by_id import ById
from dynpartition.contract import (
    INFEASIBLE_NS,
    Backend,
    CompletePlan,
    Session,
    Workload,
    run,
)
from dynpartition.errors import OutOfDeviceMemory, PlanError, SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, chosen_launches
from dynpartition.types import IntArray


@dataclass(slots=True)
class Finished:
    """What an episode came to."""

    makespan_ns: int
    """What the backend measured."""
    choices: IntArray
    """(N, 2) or (N, 3) in order of choice, see `plan.chosen_launches`."""
    plan: Plan | None = None
    """What ran, as the session says; None: the choices."""


@dataclass(slots=True)
class _Running:
    """One episode. `session`: None where nothing is hidden, which is priced at the end."""

    workload: Workload
    graph: TaskGraph
    session: Session | None
    before: list[IntArray]
    """Choices before the last reveal."""


class Episodes:
    """B slots with one episode each; nothing but makespans comes from the backend's clock.

    Where a session tells that nothing is hidden, or has come to its end without a reveal, further
    episodes of its workload need no session while they are placed, and end together in one question
    to the backend. Where something is hidden, every episode has its session. What a session has run
    no task can join.
    """

    def __init__(
        self, backend: Backend, n_slots: int, max_ready: int, *, batching: bool = False
    ) -> None:
        self.batch = Batch(backend.profile, n_slots, max_ready, batching=batching)
        self.finished: dict[int, Finished] = {}
        """Slot → what its episode came to, until the next begins there."""
        self._backend = backend
        self._cache = FactsCache(backend.profile)
        self._flat: ById[Workload, TaskGraph] = ById()
        self._running: dict[int, _Running] = {}

    def begin(self, slots: IntArray, workloads: Sequence[Workload]) -> None:
        """Start an episode in each of the slots and observe it."""
        for slot, workload in zip(slots.tolist(), workloads, strict=True):
            self._close(slot)
            self.finished.pop(slot, None)
            self._open(slot, workload)
        self._check(slots, self.batch.observe(slots))

    def act(self, slots: IntArray, actions: IntArray) -> IntArray:
        """Place a candidate in each of the slots and observe; return int64 (n,): what became of it.

        `kernel.PLACED`, ILLEGAL (nothing has changed), or ALL_PLACED: the episode has finished.
        """
        outcomes = self.batch.act(slots, actions)
        self._check(slots, outcomes)
        done = np.flatnonzero(outcomes == kernel.ALL_PLACED)
        if len(done):
            self._advance(slots[done].tolist())
            revealed = [at for at in done.tolist() if int(slots[at]) not in self.finished]
            outcomes[revealed] = kernel.PLACED
        return outcomes

    def plan(self, slot: int) -> Plan:
        """Return the plan of a finished episode."""
        finished = self.finished[slot]
        names = self._backend.profile.cluster.names
        return finished.plan or Plan(tuple(chosen_launches(finished.choices, names)))

    def workload(self, slot: int) -> Workload:
        """Return what is played in a slot."""
        return self._running[slot].workload

    def close(self) -> None:
        """Free the sessions that are open; the backend stays the caller's."""
        for slot in list(self._running):
            self._close(slot)

    def _open(self, slot: int, workload: Workload) -> None:
        graph = self._flat.get(workload)
        if graph is not None:
            self._running[slot] = _Running(workload, graph, None, [])
            self.batch.begin(slot, self._cache.of(graph))
            return
        session = self._backend.open(workload)
        self._running[slot] = _Running(workload, session.graph, session, [])
        self.batch.begin(slot, self._cache.of(session.graph), session.plan)
        if session.is_complete:
            self._flat.put(workload, session.graph)
            self._close(slot)

    def _advance(self, slots: Sequence[int]) -> None:
        """Go on where everything revealed is placed: to a reveal or to the end."""
        flat = [slot for slot in slots if self._running[slot].session is None]
        for slot in slots:
            if self._running[slot].session is not None:
                self._advance_session(slot)
        if flat:
            plans = [self._complete(slot) for slot in flat]
            times = self._backend.makespans_ns(plans).tolist()
            for slot, plan, makespan_ns in zip(flat, plans, times, strict=True):
                self.finished[slot] = Finished(makespan_ns, plan.choices)

    def _complete(self, slot: int) -> CompletePlan:
        running = self._running[slot]
        return CompletePlan(running.workload, running.graph, self.batch.chosen(slot))

    def _advance_session(self, slot: int) -> None:
        running, session = self._running[slot], self._running[slot].session
        assert session is not None
        running.before.append(self.batch.chosen(slot))
        finished = _went_on(session, self.batch.launches(slot), np.concatenate(running.before))
        if finished is None:
            running.graph = session.graph
            self.batch.begin(slot, self._cache.of(session.graph), session.plan)
            one = np.array([slot])
            self._check(one, self.batch.observe(one))
            return
        self.finished[slot] = finished
        if len(running.before) == 1 and finished.makespan_ns < INFEASIBLE_NS:
            self._flat.put(running.workload, running.graph)
        self._close(slot)  # at once: the baseline may need the backend

    def _check(self, slots: IntArray, outcomes: IntArray) -> None:
        for at in np.flatnonzero(outcomes == kernel.STUCK).tolist():
            raise SchedulerError(self._stuck_message(int(slots[at])))

    def _stuck_message(self, slot: int) -> str:
        name = self._running[slot].graph.name
        return f"no ready task of graph {name!r} has a legal device; add links or costs"

    def _close(self, slot: int) -> None:
        running = self._running.get(slot)
        if running is not None and running.session is not None:
            running.session.close()
            running.session = None


def _went_on(session: Session, launches: Sequence[Launch], choices: IntArray) -> Finished | None:
    """Let a session go on; return what it came to, None where more has been revealed."""
    try:
        if session.advance(launches):
            return None
        return Finished(session.trace.makespan_ns, choices, session.plan)
    except OutOfDeviceMemory:
        return Finished(INFEASIBLE_NS, choices)


class Baseline:
    """The makespan of the best single device on the same input and backend, measured once."""

    def __init__(self, backend: Backend, repeats: int = 1) -> None:
        self._backend = backend
        self._repeats = repeats
        self._known: ById[Workload, int] = ById()

    def best_single_ns(self, workload: Workload) -> int:
        """Return the smallest makespan over the devices that can run everything.

        Each device's is the median of the repeats. Raises SchedulerError when no device can.
        """
        return self._known.get_or_make(workload, self._measure)

    def _measure(self, workload: Workload) -> int:
        names = self._backend.profile.cluster.names
        with self._backend.open(workload) as session:
            graph = session.graph if session.is_complete else None
        if graph is None:
            times = [self._run_on(workload, name) for name in names]
        else:
            times = [self._price_on(workload, graph, name) for name in names]
        found = [ns for ns in times if ns is not None and ns < INFEASIBLE_NS]
        if not found:
            raise SchedulerError(
                "no single device can run this input, so there is nothing to compare with;"
                " give a device in the profile costs for all cells"
            )
        return max(1, min(found))

    def _price_on(self, workload: Workload, graph: TaskGraph, name: str) -> int | None:
        """Ask for the makespan, where everything can be placed beforehand."""
        profile = self._backend.profile
        device = profile.cluster.index(name)
        try:
            launches = SingleDevice(name).schedule(graph, profile, Plan())
            choices = [(task, device) for launch in launches for task in launch.tasks]
            plan = CompletePlan(workload, graph, np.array(choices, dtype=np.int64))
            times = self._backend.makespans_ns([plan] * self._repeats)
        except (SchedulerError, PlanError):
            return None  # this device cannot; another one may
        return int(statistics.median(times.tolist()))

    def _run_on(self, workload: Workload, name: str) -> int | None:
        try:
            runs = [
                run(self._backend, workload, SingleDevice(name)).trace.makespan_ns
                for _ in range(self._repeats)
            ]
        except (SchedulerError, PlanError, OutOfDeviceMemory):
            return None  # this device cannot; another one may
        return int(statistics.median(runs))


REWARD_MIN = -8.0
"""What a plan earns that runs out of memory: no other is three thousand times slower."""


def reward_of(makespan_ns: int, best_single_ns: int) -> float:
    """Return −log(makespan / makespan of the best single device), at least REWARD_MIN."""
    return max(-math.log(max(1, makespan_ns) / best_single_ns), REWARD_MIN)
