"""One episode: one workload, placed choice by choice and run by a backend."""

from __future__ import annotations

import math
import statistics

from dynpartition.agent.facts import FactsCache
from dynpartition.agent.heuristics import SingleDevice
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.task_table import TaskTable
from dynpartition.contract import Backend, Workload, run
from dynpartition.errors import OutOfDeviceMemory, PlanError, SchedulerError
from dynpartition.plan import Plan


class Episode:
    """Steps through a session; nothing but `trace` ever comes from the backend's clock."""

    def __init__(self, backend: Backend, workload: Workload, cache: FactsCache) -> None:
        self.workload = workload
        self._cache = cache
        self._session = backend.open(workload)
        self.table = self._table()
        """The plan so far; another one after each reveal."""
        self._is_open = True
        self.finished = False
        self.plan = Plan()
        """All launches, when finished."""
        self.makespan_ns = 0
        """What the backend measured, when finished."""

    def place(self, task: int, device: int) -> None:
        """Place a ready task; run the plan when no revealed task is left."""
        self.table.partial.place(task, device)
        self.table.placed(task, device)
        if not self.table.partial.ready:
            self._advance()

    def _table(self) -> TaskTable:
        """Begin from the launches so far, as a scheduler does that is asked after a reveal."""
        return TaskTable(PartialPlan(self._cache.of(self._session.graph), self._session.plan))

    def _advance(self) -> None:
        self.finished = not self._session.advance(self.table.partial.take_launches())
        if self.finished:
            self.plan, self.makespan_ns = self._session.plan, self._session.trace.makespan_ns
            self.close()  # at once: the baseline may need the backend
        else:
            self.table = self._table()

    def close(self) -> None:
        """Free what the session holds; may be called again."""
        if self._is_open:
            self._is_open = False
            self._session.close()


class Baseline:
    """The makespan of the best single device on the same input and backend, measured once."""

    def __init__(self, backend: Backend, repeats: int = 1) -> None:
        self._backend = backend
        self._repeats = repeats
        self._known: dict[int, tuple[Workload, int]] = {}

    def best_single_ns(self, workload: Workload) -> int:
        """Return the smallest makespan over the devices that can run everything.

        Each device's is the median of the repeats. Raises SchedulerError when no device can.
        """
        if id(workload) not in self._known:
            # The workload is kept, so that its id stays its own.
            self._known[id(workload)] = (workload, self._measure(workload))
        return self._known[id(workload)][1]

    def _measure(self, workload: Workload) -> int:
        names = self._backend.profile.cluster.names
        found = [ns for name in names if (ns := self._on_device(workload, name)) is not None]
        if not found:
            raise SchedulerError(
                "no single device can run this input, so there is nothing to compare with;"
                " give a device in the profile costs for all cells"
            )
        return max(1, min(found))

    def _on_device(self, workload: Workload, name: str) -> int | None:
        try:
            runs = [
                run(self._backend, workload, SingleDevice(name)).trace.makespan_ns
                for _ in range(self._repeats)
            ]
        except (SchedulerError, PlanError, OutOfDeviceMemory):
            return None  # this device cannot; another one may
        return int(statistics.median(runs))


def reward_of(makespan_ns: int, best_single_ns: int) -> float:
    """Return −log(makespan / makespan of the best single device)."""
    return -math.log(max(1, makespan_ns) / best_single_ns)
