"""Schedulers that search: `local-search` and `annealing`, around the plans of other schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.agent import search_kernel as kernel
from dynpartition.agent.list_tables import ListGraph, list_graph, most_together
from dynpartition.agent.listing import ListPlanner
from dynpartition.agent.policy_search import PolicyStarts
from dynpartition.agent.search import (
    Budget,
    Found,
    Problem,
    improve,
    launches_of,
    problem_of,
    search_plan,
)
from dynpartition.agent.simulated_search import Pace, improve_simulated
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.merging import merged_places
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile
from dynpartition.types import IntArray

SLOWER = 20
"""Evaluations are divided by this where the simulator itself has to price plans."""
SHORT_US = 5000.0
"""With less time than this, such a search has none for what its members plan: the policy's plans,
those on one device included, are all that it begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much a search may spend on one decision, and how it goes about it."""

    evaluations: int = 2000
    budget_us: float | None = None
    """Time for the whole decision in µs, instead of `evaluations`."""
    hot: float = 0.0
    """First temperature of annealing, divided by the makespan of the best start; 0: none."""
    cold: float = 0.0
    """Last temperature, likewise."""
    n_walks: int = 1
    """From how many starts it begins."""

    def budget(self) -> Budget:
        """Return a fresh budget, whose time begins now."""
        if self.budget_us is not None:
            return Budget(time_us=self.budget_us)
        return Budget(evaluations=self.evaluations)


class Search(Scheduler):
    """Searches around the plans of some members, and never returns a slower plan than theirs.

    What counts is the makespan that the simulator gives for the nominal costs of the profile, with
    what is known of the graph.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[ListPlanner],
        effort: Effort,
        seed: int = 0,
        policy: PolicyStarts | None = None,
    ) -> None:
        """Search around the plans of `members`, and of `policy` where there is one."""
        self.name, self.policy = name, policy
        self.members, self.effort, self.seed = tuple(members), effort, seed
        self._pace = Pace()

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches of the best plan found; SchedulerError if no member has one."""
        budget = self.effort.budget()
        lists = list_graph(graph, profile, planned)
        if lists is None:
            return self.members[-1].define(graph, profile, planned)
        starts = list(self.policy.plans(lists, planned)) if self.policy is not None else []
        if not (starts and self._is_short(graph, planned)):
            starts += member_plans(self.members, lists, planned)
        if not starts:
            raise SchedulerError(f"{self.name}: no member can serve graph {graph.name!r}")
        return self.around(lists, planned, starts, budget)

    def _is_short(self, graph: TaskGraph, planned: Plan) -> bool:
        """Return whether the time is short, and only the simulator itself can price plans."""
        budget_us = self.effort.budget_us
        is_slow = bool(planned) or bool(graph.revealers) or bool(graph.arrival_ns.any())
        return is_slow and budget_us is not None and budget_us < SHORT_US

    def around(
        self, lists: ListGraph, planned: Plan, starts: list[IntArray], budget: Budget
    ) -> Sequence[Launch]:
        """Return the launches of the best plan found around starts (3, N), see `member_plans`."""
        problem = None if planned else problem_of(lists)
        if problem is None:
            return self._improve_simulated(lists, planned, starts, budget)
        if problem.arrays.has_batches:
            starts += [together(problem, start) for start in starts]
        found = self.improve(problem, starts, budget)
        assert found is not None, "a member's plan is not legal"
        names, plan = lists.machine.names, found.plan
        if not problem.arrays.has_batches:
            tasks = plan[kernel.ORDER]
            return lists.machine.launches(np.stack([tasks, plan[kernel.DEVICE, tasks]], axis=1))
        return [Launch(names[d], tasks) for d, tasks in launches_of(problem.unmarked(plan))]

    def _improve_simulated(
        self, lists: ListGraph, planned: Plan, starts: Sequence[IntArray], budget: Budget
    ) -> Sequence[Launch]:
        effort = self.effort
        if effort.budget_us is None:
            budget = Budget(evaluations=max(len(starts), effort.evaluations // SLOWER))
        return improve_simulated(
            *(lists, planned, starts, budget, self._pace),
            seed=self.seed,
            hot=effort.hot,
            cold=effort.cold,
        )

    def improve(self, problem: Problem, starts: Sequence[IntArray], budget: Budget) -> Found | None:
        """Return the best plan around starts (3, N) within a budget."""
        effort = self.effort
        return improve(
            problem,
            np.stack(starts),
            budget,
            seed=self.seed,
            hot=effort.hot,
            cold=effort.cold,
            n_walks=effort.n_walks,
        )


def member_plans(members: Sequence[ListPlanner], lists: ListGraph, planned: Plan) -> list[IntArray]:
    """Return what each member plans beyond `planned`, as search plans (3, N), without repeats.

    The order holds the tasks that are not planned, from its beginning; see `search_kernel`.
    """
    found: dict[bytes, IntArray] = {}
    for member in members:
        if member.plan_on(lists, planned):
            plan = search_plan(lists.choices, len(lists.graph))
            found.setdefault(plan.tobytes(), plan)
    return list(found.values())


def together(problem: Problem, plan: IntArray) -> IntArray:
    """Return a plan whose tasks are merged into launches as `NAME+merge` does."""
    order, graph = plan[kernel.ORDER], problem.lists.graph
    sizes = range(1, most_together(len(graph)) + 1)
    rows = merged_places(graph, order, plan[kernel.DEVICE, order], sizes=sizes)
    merged = np.zeros_like(plan)
    merged[kernel.ORDER] = [order[at] for row in rows for at in row]
    merged[kernel.DEVICE] = plan[kernel.DEVICE]
    merged[kernel.JOINED, [order[at] for row in rows for at in row[1:]]] = 1
    return problem.unmarked(merged)
