"""Does a scheduler split where splitting pays, and only there? Counted over many worlds.

Where the best single device beats every plan on several devices by 2 % or more, a scheduler should
use one device; where the best plan beats the best single device by more than 5 %, several. The best
plan on several devices is the best of those that the schedulers and a search have found, and of all
plans that take one task away from the best single device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition import Plan, Profile, Scheduler, TaskGraph
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.search import Problem, problem_of
from dynpartition.types import IntArray

LOSES, GAINS = 0.02, 0.05
"""From when on splitting surely does not pay, and from when on it does."""


@dataclass(frozen=True)
class Share:
    """How often a scheduler did what pays."""

    right: int
    worlds: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share (Wilson 1927)."""
        n, z = max(1, self.worlds), 1.96
        share = self.right / n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        width = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return middle - width, middle + width

    def __str__(self) -> str:
        low, high = self.interval
        share = self.right / max(1, self.worlds)
        return f"{100 * share:.1f} % of {self.worlds} ({100 * low:.1f}–{100 * high:.1f})"


def splitting(
    worlds: Sequence[tuple[TaskGraph, Profile]], names: Sequence[str], evaluations: int
) -> dict[str, tuple[Share, Share]]:
    """Return scheduler → how often it used one device, and several, where that pays."""
    schedulers = [make_scheduler(name) for name in names]
    search = make_scheduler("policy-search", evaluations=evaluations)
    counts = np.zeros((len(names), 2, 2), dtype=np.int64)
    for graph, profile in worlds:
        lists = list_graph(graph, profile)
        problem = None if lists is None else problem_of(lists)
        assert problem is not None, "a world that the compiled search cannot price"
        plans = [_plan_of(each, graph, profile) for each in (*schedulers, search)]
        n_used = [len(np.unique(plan[1])) for plan in plans]
        single, single_ns = _best_single(problem)
        spread = [plan for plan, used in zip(plans, n_used, strict=True) if used > 1]
        several = np.concatenate([_one_moved(problem, single), *[plan[None] for plan in spread]])
        several_ns = int(problem.makespans_ns(several, best_only=True).min())
        if several_ns >= (1 + LOSES) * single_ns:
            kind = 0
        elif single_ns > (1 + GAINS) * several_ns:
            kind = 1
        else:
            continue
        for row, used in enumerate(n_used[: len(names)]):
            counts[row, kind, 0] += (used == 1) == (kind == 0)
            counts[row, kind, 1] += 1
    return {
        name: (Share(*counts[row, 0].tolist()), Share(*counts[row, 1].tolist()))
        for row, name in enumerate(names)
    }


def _plan_of(scheduler: Scheduler, graph: TaskGraph, profile: Profile) -> IntArray:
    """Return a scheduler's plan (3, N) of one task per launch; see `search_kernel`."""
    launches = scheduler.schedule(graph, profile, Plan())
    order = [task for launch in launches for task in launch.tasks]
    plan = np.zeros((3, len(graph)), dtype=np.int64)
    plan[0] = order
    plan[1, order] = [profile.cluster.index(one.device) for one in launches for _ in one.tasks]
    return plan


def _best_single(problem: Problem) -> tuple[IntArray, int]:
    """Return the best plan on one device, and its makespan."""
    n, order = problem.n_tasks, problem.lists.order
    plans = [problem.start(order, np.full(n, device)) for device in range(problem.n_devices)]
    found = problem.makespans_ns(np.stack(plans))
    best = int(found.argmin())
    return plans[best], int(found[best])


def _one_moved(problem: Problem, single: IntArray) -> IntArray:
    """Return the plans (B, 3, N) that move one task to another device."""
    home = int(single[1, 0])
    plans = np.repeat(single[None], problem.n_tasks * (problem.n_devices - 1), axis=0)
    others = [device for device in range(problem.n_devices) if device != home]
    for number, device in enumerate(others):
        rows = number * problem.n_tasks + np.arange(problem.n_tasks)
        plans[rows, 1, np.arange(problem.n_tasks)] = device
    return plans
