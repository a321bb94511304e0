"""`optimal`: CP-SAT's lower bound, and the best plan that it and a search find.

CP-SAT models the execution semantics with one freedom more: the order of transfers is the solver's.
So its optimum is a lower bound of what any plan takes in the simulator, and its plan is only one
more start for the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynpartition.agent.cp_model import load_solver, solve
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.searching import Search, member_plans
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile
from dynpartition.sim.evaluate import evaluate_many

TIME_S = 20.0
"""How long CP-SAT may take by default."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How good the plan is that `optimal` has returned."""

    makespan_ns: int
    """In the simulator, for the nominal costs of the profile."""
    bound_ns: int
    """See `cp_model.Solution`."""

    @property
    def gap(self) -> float:
        """How much longer than the bound the plan takes, as a share of the bound."""
        return self.makespan_ns / max(1, self.bound_ns) - 1


class Optimal(Scheduler):
    """The best simulated plan of a search and of CP-SAT, with the latter's lower bound.

    What is revealed later is planned by the search alone, and has no bound.
    """

    name = "optimal"

    def __init__(self, search: Search, time_s: float | None = None) -> None:
        """`time_s`: how long CP-SAT may take by the clock; None: TIME_S of repeatable work."""
        self.search, self.time_s = search, time_s
        self.proof: Proof | None = None
        """Of the last plan; None where there is no bound."""

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError where OR-Tools is missing or no plan is found."""
        load_solver()
        self.proof = None
        launches = self.search.schedule(graph, profile, planned)
        lists = list_graph(graph, profile)
        if planned or lists is None:
            return launches
        nominal = replace(profile, noise=None)

        def price_ns(plan: Sequence[Launch]) -> int:
            return int(evaluate_many([graph], [Plan(tuple(plan))], nominal)[0])

        first_ns = price_ns(launches)
        solution = solve(
            *(lists, launches, first_ns),
            time_s=TIME_S if self.time_s is None else self.time_s,
            by_clock=self.time_s is not None,
            seed=self.search.seed,
        )
        plans = [launches]
        if solution.plan is not None:
            starts = [*member_plans(self.search.members, lists, planned), solution.plan]
            budget = self.search.effort.budget()
            plans.append(self.search.around(lists, planned, starts, budget))
        prices = [price_ns(plan) for plan in plans]
        best = min(range(len(plans)), key=prices.__getitem__)
        self.proof = Proof(prices[best], solution.bound_ns)
        return plans[best]
