"""A scheduler that lets another one place tasks, and merges them into launches where that pays."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.agent.facts import Facts
from dynpartition.agent.partial import PartialPlan
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.merging import merged
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile

SUFFIX = "+merge"
"""What `--scheduler` names end with."""


class Merging(Scheduler):
    """Keeps the inner scheduler's launches or merges them, whichever the estimate prefers."""

    def __init__(self, inner: Scheduler) -> None:
        self.inner = inner
        self.name = inner.name + SUFFIX

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; each task is on the device that the inner scheduler chose."""
        alone = self.inner.schedule(graph, profile, planned)
        together = merged(graph, alone)
        facts = Facts(graph, profile)
        offers = [
            (PartialPlan(facts, planned + launches).estimate.makespan_ns, launches)
            for launches in (together, alone)
        ]
        return min(offers, key=lambda offer: offer[0])[1]
