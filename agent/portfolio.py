"""A portfolio: ask several schedulers, keep the plan with the smallest estimated makespan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynpartition.agent.facts import Facts
from dynpartition.agent.listing import ListPlanner
from dynpartition.agent.partial import PartialPlan
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile

if TYPE_CHECKING:
    from dynpartition.agent.list_tables import ListGraph


class BestOf(ListPlanner):
    """The best of several schedulers by the estimate, asked again at each reveal."""

    def __init__(self, name: str, members: Sequence[ListPlanner]) -> None:
        self.name = name
        self.members = tuple(members)

    def define(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches of the best member; SchedulerError if none can serve the graph."""
        facts = Facts(graph, profile)
        offers = []
        for number, member in enumerate(self.members):
            try:
                launches = member.define(graph, profile, planned)
            except SchedulerError:
                continue  # a member may be unable, such as best-single where none runs every cell
            offers.append((_makespan_ns(facts, planned + launches), number, launches))
        if not offers:
            raise SchedulerError(f"{self.name}: no member can serve graph {graph.name!r}")
        return min(offers)[2]

    def plan_on(self, lists: ListGraph, planned: Plan) -> bool:
        """Plan by every member; the choices of the best one stand in `lists` then."""
        best_ns, best = None, None
        for member in self.members:
            can = member.plan_on(lists, planned)
            if can and (best_ns is None or lists.latest_ns < best_ns):
                best_ns, best = lists.latest_ns, lists.choices.copy()
        if best is not None:
            lists.take_choices(best)
        return best is not None


def _makespan_ns(facts: Facts, plan: Plan) -> int:
    return PartialPlan(facts, plan).estimate.makespan_ns
