"""The best known makespan of a world: what schedulers are compared with, kept in a file.

Annealing from different starts, 4 × 150,000 plans by default, and CP-SAT with its bound. A
reference is proven where the bound says that nothing is faster.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dynpartition import Plan, Profile, TaskGraph
from dynpartition.agent.cp_model import solve
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.registry import heuristics
from dynpartition.agent.searching import Effort, Search, member_plans
from dynpartition.formats import write_json
from dynpartition.sim.evaluate import evaluate_many

WALKS = 4


@dataclass(frozen=True)
class Reference:
    """What is known about one world."""

    makespan_ns: int
    """Of the best plan that annealing or CP-SAT found, in the simulator."""
    bound_ns: int
    """No plan is faster, 0 where nobody has asked; see `cp_model.Solution`."""


@dataclass(frozen=True)
class Work:
    """How much is spent on one reference."""

    evaluations: int = 150_000
    """Plans per walk of annealing."""
    solver_s: float = 5.0
    """Time of CP-SAT; 0: it is not asked."""


class References:
    """References that are looked up in a file, or found and written there."""

    def __init__(self, file: Path | None, work: Work) -> None:
        self._file, self._work = file, work
        self._known: dict[str, dict[str, int]] = {}
        if file is not None and file.exists():
            self._known = json.loads(file.read_text(encoding="utf-8"))
        self.found = 0
        """How many were not known."""

    def of(self, graph: TaskGraph, profile: Profile) -> Reference:
        """Return the reference of a world."""
        key = _key(graph, profile, self._work)
        if key not in self._known:
            self._known[key] = asdict(find_reference(graph, profile, self._work))
            self.found += 1
            if self._file is not None:
                write_json(self._file, self._known)
        return Reference(**self._known[key])


def _key(graph: TaskGraph, profile: Profile, work: Work) -> str:
    text = f"{graph.digest} {replace(profile, provenance={})!r} {work!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def find_reference(graph: TaskGraph, profile: Profile, work: Work) -> Reference:
    """Return the best of several annealing walks and of CP-SAT's plan searched around."""
    profile = replace(profile, noise=None)
    lists = list_graph(graph, profile)
    assert lists is not None, "times of this graph pass 62 bits"
    effort = Effort(evaluations=work.evaluations, hot=0.05, cold=0.0005)

    def price_ns(launches: object) -> int:
        return int(evaluate_many([graph], [Plan(tuple(launches))], profile)[0])

    starts = member_plans(heuristics(), lists, Plan())
    plans = []
    for number in range(WALKS):
        start = starts[number % len(starts)]
        search = Search("reference", heuristics(), effort, seed=1000 + number)
        plans.append(search.around(lists, Plan(), [start], effort.budget()))
    best_ns, best = min(((price_ns(plan), plan) for plan in plans), key=lambda pair: pair[0])
    if not work.solver_s:
        return Reference(best_ns, 0)
    solution = solve(lists, best, best_ns, time_s=work.solver_s, by_clock=True)
    if solution.plan is not None and solution.bound_ns < best_ns:
        few = replace(effort, evaluations=max(1, work.evaluations // 10), hot=0.0)
        search = Search("reference", heuristics(), few, seed=7)
        around = search.around(lists, Plan(), [solution.plan], few.budget())
        best_ns = min(best_ns, price_ns(around))
    return Reference(best_ns, int(np.minimum(solution.bound_ns, best_ns)))
