"""Schedulers for the simulator's tests: one follows a script, one rolls dice."""

from __future__ import annotations

import random
from collections.abc import Sequence

from dynpartition import Launch, Plan, PricedGraph, Profile, Scheduler, TaskGraph
from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.contract import Outcome, Workload, drive
from dynpartition.sim import SimBackend, SimSession

Places = Sequence[tuple[str, tuple[int, ...]]]


class Script(Scheduler):
    """Returns, at its n-th call, the n-th of the given lists of launches."""

    name = "script"

    def __init__(self, *calls: Places) -> None:
        self.left = [[Launch(device, tasks) for device, tasks in places] for places in calls]
        self.seen: list[int] = []
        """Per call, how many tasks were shown."""

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        self.seen.append(len(graph))
        return self.left.pop(0)


class Dice(Scheduler):
    """A random device for each task, some of them as batches; remembers what it was shown."""

    name = "dice"

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.calls: list[tuple[TaskGraph, Plan]] = []

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        self.calls.append((graph, planned))
        priced, names = PricedGraph(graph, profile), profile.cluster.names
        placed = planned.placement()
        launches: list[Launch] = []
        for task in graph.topological_order:
            if task not in placed:
                able = [d for d in range(len(names)) if priced.can_run(task, d)]
                device = names[self.random.choice(able)]
                last = launches[-1] if launches else None
                if last and self.random.random() < 0.5 and may_join(graph, last, task, device):
                    launches[-1] = Launch(device, (*last.tasks, task))
                else:
                    launches.append(Launch(device, (task,)))
        return launches


def may_join(graph: TaskGraph, launch: Launch, task: int, device: str) -> bool:
    alike = graph.cell_of[launch.tasks[0]] == graph.cell_of[task] and launch.device == device
    needs = {*graph.input_lists[task], int(graph.revealed_by[task])}
    return bool(alike) and needs.isdisjoint(launch.tasks)


def play(
    workload: Workload,
    profile: Profile,
    scheduler: Scheduler,
    conditions: Conditions = GOOD_DAY,
) -> tuple[SimSession, Outcome]:
    """Run a workload to its end and return the session too."""
    with SimBackend(profile, conditions=conditions).open(workload) as session:
        return session, drive(session, scheduler, profile)
