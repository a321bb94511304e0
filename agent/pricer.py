"""What finished plans take: one question to a backend for many episodes at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynpartition.agent.facts import Facts
from dynpartition.contract import Backend, Workload
from dynpartition.errors import PlanError
from dynpartition.plan import Launch
from dynpartition.types import IntArray


class Choices(NamedTuple):
    """A complete plan of one task per launch for a workload of which nothing is hidden."""

    workload: Workload
    facts: Facts
    """Of its graph."""
    pairs: IntArray
    """(N, 2) task and device index, in plan order."""

    def launches(self) -> list[Launch]:
        """Return the plan's launches."""
        return as_launches(self.pairs, self.facts.names)


class Pricer(ABC):
    """Tells makespans. Another one may be given to the environments and to `Player`."""

    @abstractmethod
    def makespans_ns(self, plans: Sequence[Choices]) -> IntArray:
        """Return int64 (B,): the makespan of each plan, at least 0."""


class SessionPricer(Pricer):
    """Runs each plan on the backend, one after the other: right for every backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def makespans_ns(self, plans: Sequence[Choices]) -> IntArray:
        """Return int64 (B,): the makespan of each plan."""
        return np.array([self._makespan_ns(plan) for plan in plans], dtype=np.int64)

    def _makespan_ns(self, plan: Choices) -> int:
        with self._backend.open(plan.workload) as session:
            if session.advance(plan.launches()):
                raise PlanError(
                    "the run showed tasks, or lost a device, unlike the first of its input"
                )
            return session.trace.makespan_ns


class KernelPricer(Pricer):
    """Asks the compiled simulator, all plans in one call: equal to an undisturbed SimBackend."""

    def makespans_ns(self, plans: Sequence[Choices]) -> IntArray:
        """Return int64 (B,): the makespan of each plan; the largest int64 where memory runs out."""
        from dynpartition.sim.evaluate import PlanArrays, evaluate_many

        arrays = []
        for plan in plans:
            device = np.empty(len(plan.pairs), dtype=np.int64)
            device[plan.pairs[:, 0]] = plan.pairs[:, 1]
            arrays.append(PlanArrays(np.ascontiguousarray(plan.pairs[:, 0]), device))
        graphs = [plan.facts.prepared for plan in plans]
        return evaluate_many(graphs, arrays, plans[0].facts.profile)


def as_launches(pairs: IntArray, names: Sequence[str]) -> list[Launch]:
    """Return choices, int64 (n, 2) of (task, device), as launches of one task each."""
    return [Launch(names[device], (task,)) for task, device in pairs.tolist()]
