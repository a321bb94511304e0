"""How long decisions take, everything included: from a graph and a profile to launches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition import Plan, Profile, Scheduler, TaskGraph
from dynpartition.agent.families import Setting, draw_world
from dynpartition.agent.machines import Machine
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.warming import warm_up

SPEEDS = (1.0, 3.0, 5.0, 8.0)
FAMILIES = ("in-tree", "tree-with-outputs", "layered", "moe")


@dataclass(frozen=True)
class Decision:
    """Times of one scheduler's decisions at one size, in µs."""

    scheduler: str
    tasks: int
    low: float
    """The lowest tenth: what a quiet machine needs."""
    median: float

    @property
    def per_task(self) -> float:
        """The lowest tenth divided by the number of tasks."""
        return self.low / self.tasks


def again(graph: TaskGraph) -> TaskGraph:
    """Return an equal graph that nothing is known about yet."""
    return TaskGraph(**{name: getattr(graph, name) for name in TaskGraph.__dataclass_fields__})


def decision_us(
    scheduler: Scheduler, graph: TaskGraph, profile: Profile, repeats: int
) -> list[float]:
    """Return the times of decisions about new graph objects."""
    times = []
    for _ in range(repeats):
        fresh = again(graph)
        begun = time.perf_counter_ns()
        scheduler.schedule(fresh, profile, Plan())
        times.append((time.perf_counter_ns() - begun) / 1000)
    return times


def decisions(names: Sequence[str], sizes: Sequence[int], seed: int) -> list[Decision]:
    """Return what decisions take on four devices; graphs of several families take turns.

    The first decision about each graph is not counted, except that of `NAME+cache`: later ones find
    its plan.
    """
    rows = []
    for size in sizes:
        worlds = []
        for number, family in enumerate(FAMILIES):
            rng = np.random.default_rng(np.random.SeedSequence([seed, size, number]))
            machine = Machine(speeds=SPEEDS, wiring="links")
            worlds.append(draw_world(Setting(family=family, n_tasks=size, machine=machine), rng))
        for name in names:
            times: list[float] = []
            for graph, profile in worlds:
                scheduler = make_scheduler(name)
                warm_up(scheduler, profile)
                repeats = max(5, min(60, 20_000 // size))
                times += decision_us(scheduler, graph, profile, repeats + 1)[1:]
            low, median = np.percentile(times, [10, 50]).tolist()
            rows.append(Decision(name, size, low, median))
    return rows


def print_decisions(rows: Sequence[Decision]) -> None:
    """Print a line per scheduler and size."""
    print(f"{'scheduler':20} {'tasks':>6} {'lowest tenth':>13} {'median':>11} {'µs per task':>12}")
    for row in rows:
        print(
            f"{row.scheduler:20} {row.tasks:6} {row.low:10.1f} µs {row.median:8.1f} µs"
            f" {row.per_task:12.2f}"
        )
