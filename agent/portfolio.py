"""A portfolio: ask several schedulers, keep the plan with the smallest estimated makespan."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.agent.facts import Facts
from dynpartition.agent.partial import PartialPlan
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile


class BestOf(Scheduler):
    """The best of several schedulers by the estimate, asked again at each reveal."""

    def __init__(self, name: str, members: Sequence[Scheduler]) -> None:
        self.name = name
        self.members = tuple(members)

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError if no member can serve the graph."""
        facts = Facts(graph, profile)
        offers = []
        for number, member in enumerate(self.members):
            try:
                launches = member.schedule(graph, profile, planned)
            except SchedulerError:
                continue  # a member may be unable, such as best-single where none runs every cell
            offers.append((_makespan_ns(facts, planned + launches), number, launches))
        if not offers:
            raise SchedulerError(f"{self.name}: no member can serve graph {graph.name!r}")
        return min(offers)[2]


def _makespan_ns(facts: Facts, plan: Plan) -> int:
    return PartialPlan(facts, plan).estimate.makespan_ns
