"""The same search where only the simulator itself can price plans, one after the other.

That is where tasks are hidden or arrive later, where weights come and go, where the host delays
launches, and where part of the plan is under way. A plan takes tens of µs to ms here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from dynpartition.agent import search_kernel as kernel
from dynpartition.agent.list_tables import ListGraph
from dynpartition.agent.search import Budget, Problem, launches_of, tables_of
from dynpartition.contract import INFEASIBLE_NS
from dynpartition.errors import DynPartitionError
from dynpartition.plan import Launch, Plan
from dynpartition.profile import PricedGraph
from dynpartition.sim.evaluate import Evaluator, evaluate_many
from dynpartition.sim.prepared import PreparedGraph
from dynpartition.types import IntArray

_TRIES_MAX = 20
"""Moves that are drawn to find one that leaves alone what is planned."""


class _Pricer:
    """Prices plans that go on from launches which cannot be changed any more."""

    def __init__(self, lists: ListGraph, planned: Plan) -> None:
        # Without luck: a plan must not profit from knowing it.
        self.profile = replace(lists.machine.profile, noise=None)
        self.problem = Problem(lists, tables_of(lists.machine.profile))
        self.planned = planned
        self.n_fixed = sum(len(launch.tasks) for launch in planned.launches)
        self._joins = [
            place > 0 for launch in planned.launches for place in range(len(launch.tasks))
        ]
        self._lists, self._evaluator = lists, Evaluator()

    @cached_property
    def _prepared(self) -> PreparedGraph:
        return PreparedGraph(PricedGraph(self._lists.graph, self.profile))

    def complete(self, start: IntArray) -> IntArray:
        """Return a plan (3, N) whose order begins with what is planned; see `member_plans`."""
        plan = start.copy()
        names = self.profile.cluster.names
        fixed = [task for launch in self.planned.launches for task in launch.tasks]
        plan[kernel.ORDER, self.n_fixed :] = start[kernel.ORDER, : plan.shape[1] - self.n_fixed]
        plan[kernel.ORDER, : self.n_fixed] = fixed
        for launch in self.planned.launches:
            plan[kernel.DEVICE, list(launch.tasks)] = names.index(launch.device)
        return plan

    def launches(self, plan: IntArray) -> list[Launch]:
        """Return the launches that follow what is planned."""
        kept = self.problem.unmarked(plan)
        rest = kept[kernel.ORDER, self.n_fixed :]
        kept[kernel.JOINED, rest[:1]] = 0
        names = self.profile.cluster.names
        return [
            Launch(names[device], tasks) for device, tasks in launches_of(kept, first=self.n_fixed)
        ]

    def price_ns(self, plan: IntArray) -> int:
        """Return the makespan of a plan, INFEASIBLE_NS where it is not legal or has no room."""
        kept = self.problem.unmarked(plan)
        order = kept[kernel.ORDER]
        choices = kept[:, order].T.copy()
        choices[:, 0] = order
        choices[: self.n_fixed, 2] = self._joins
        choices[self.n_fixed : self.n_fixed + 1, 2] = 0
        try:
            found = evaluate_many(
                [self._prepared], [choices], self.profile, evaluator=self._evaluator
            )
        except DynPartitionError:
            return INFEASIBLE_NS
        return int(found[0])


FORGETTING = 0.9
"""What remains of a pace that was too slow: a busy moment is not the last word."""


class Pace:
    """How long it took to price a plan for one task more, in the last decision."""

    def __init__(self) -> None:
        self.us_per_task = 0.0

    def allows(self, n_tasks: int, budget: Budget) -> bool:
        """Return whether there is time to compare two plans: pricing one alone decides nothing."""
        allowed = budget.left_us >= 2 * self.us_per_task * n_tasks
        if not allowed:
            self.us_per_task *= FORGETTING
        return allowed

    def note(self, n_tasks: int, n_prices: int, begun_ns: int) -> None:
        """Learn from prices that began at a time of `perf_counter_ns` and have just ended."""
        spent_us = (time.perf_counter_ns() - begun_ns) / 1000
        self.us_per_task = spent_us / max(1, n_tasks * n_prices)


def improve_simulated(
    lists: ListGraph,
    planned: Plan,
    starts: Sequence[IntArray],
    budget: Budget,
    pace: Pace,
    *,
    seed: int = 0,
    hot: float = 0.0,
    cold: float = 0.0,
) -> Sequence[Launch]:
    """Return what follows `planned` in the best plan found.

    Never slower than the best start, or than the best of those that there was time to price. Where
    there is no time to price two, by the `pace` of earlier decisions, it is the first start.
    """
    pricer = _Pricer(lists, planned)
    if not pace.allows(len(lists.graph), budget):
        return pricer.launches(pricer.complete(starts[0]))
    begun_ns = time.perf_counter_ns()
    plans = [pricer.complete(start) for start in starts]
    prices_ns: list[int] = []
    for plan in plans:
        if prices_ns and budget.share >= 1:
            break
        prices_ns.append(pricer.price_ns(plan))
    budget.spent += len(prices_ns)
    pace.note(len(lists.graph), len(prices_ns), begun_ns)
    current_ns, first = min((price, number) for number, price in enumerate(prices_ns))
    best_ns, best = current_ns, plans[first].copy()
    walk, start_ns = pricer.problem.walk(plans[first], seed), current_ns
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
    while (share := budget.share) < 1 and pricer.n_fixed < len(lists.graph):
        budget.spent += 1
        if not _moved(pricer, walk):
            continue
        limit_ns = float(current_ns)
        if hot > 0 and start_ns < INFEASIBLE_NS:
            temperature_ns = start_ns * hot * (cold / hot) ** share
            limit_ns -= temperature_ns * math.log(1 - rng.random())
        price_ns = pricer.price_ns(walk.plan)
        if price_ns > limit_ns:
            kernel.undo(pricer.problem.arrays, walk)
            continue
        current_ns = price_ns
        if price_ns < best_ns:
            best_ns, best = price_ns, walk.plan.copy()
    return pricer.launches(best)


def _moved(pricer: _Pricer, walk: kernel.Walk) -> bool:
    """Change the plan of a walk, but not what is planned; return False if the dice found no way."""
    for _ in range(_TRIES_MAX):
        if kernel.propose_one(pricer.problem.arrays, walk):
            moved = walk.moved[kernel.TASK, : walk.sums[kernel.N_MOVED]]
            shifted = walk.sums[[kernel.SHIFT_FROM, kernel.SHIFT_TO]]
            in_place = shifted[0] == shifted[1] or shifted.min() >= pricer.n_fixed
            if in_place and (walk.position[moved] >= pricer.n_fixed).all():
                return True
        kernel.undo(pricer.problem.arrays, walk)
    return False
