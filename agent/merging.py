"""A scheduler that lets another one place tasks, and merges them into launches where that pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.agent.facts import Facts
from dynpartition.agent.heuristics import OneDevice, unplaced
from dynpartition.agent.partial import PartialPlan
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import PricedGraph, Profile

SUFFIX = "+merge"
"""What `--scheduler` names end with."""


class Merging(Scheduler):
    """Keeps the inner scheduler's launches or merges them, whichever the estimate prefers."""

    def __init__(self, inner: Scheduler) -> None:
        self.inner = inner
        self.name = inner.name + SUFFIX

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; each task is on the device that the inner scheduler chose."""
        if isinstance(self.inner, OneDevice):
            priced = PricedGraph(graph, profile)
            return _merged_on_one(priced, planned, self.inner.choose(priced, planned))
        from dynpartition.merging import merged  # needs numba

        alone = self.inner.schedule(graph, profile, planned)
        together = merged(graph, alone)
        facts = Facts(graph, profile)
        offers = [
            (PartialPlan(facts, planned + launches).estimate.makespan_ns, launches)
            for launches in (together, alone)
        ]
        return min(offers, key=lambda offer: offer[0])[1]


def _merged_on_one(priced: PricedGraph, planned: Plan, device: str) -> Sequence[Launch]:
    """Return what is left to launch on one device, merged where that costs less.

    One device works without a break, so the sum of its launches decides: no estimate is needed,
    and no object for each task.
    """
    from dynpartition.merging import merged_places  # needs numba

    todo = unplaced(priced.graph, planned)
    index = priced.cluster.index(device)
    tasks = np.array(todo, dtype=np.int64)
    rows = merged_places(priced.graph, tasks, np.zeros(len(todo), dtype=np.int64))
    together = [tuple([todo[at] for at in row]) for row in rows]
    alone_ns = int(priced.task_ns[tasks, index].sum())
    if sum([priced.compute_ns(batch, index) for batch in together]) > alone_ns:
        return [Launch(device, (task,)) for task in todo]
    return [Launch(device, batch) for batch in together]
