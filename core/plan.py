"""Plans: launches in one global order, each with a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynpartition.cluster import Cluster
from dynpartition.errors import PlanError
from dynpartition.graph import TaskGraph
from dynpartition.types import IntArray


@dataclass(frozen=True, slots=True)
class Launch:
    """One call on one device that runs one or more tasks of the same cell as one batch."""

    device: str
    tasks: tuple[int, ...]
    """Task indices of the graph (task ids in files)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Launches in one global order: a topological order with batches contracted."""

    launches: tuple[Launch, ...] = ()

    def __add__(self, more: Iterable[Launch]) -> Plan:
        return Plan((*self.launches, *more))

    def __len__(self) -> int:
        return len(self.launches)

    def placement(self) -> dict[int, str]:
        """Return task → device name."""
        return {task: launch.device for launch in self.launches for task in launch.tasks}


def single_task_launches(choices: IntArray, device_names: Sequence[str]) -> list[Launch]:
    """Return the launches of int64 (N, 2) choices: task and device index, in plan order."""
    return [Launch(device_names[device], (task,)) for task, device in choices.tolist()]


def chosen_launches(choices: IntArray, device_names: Sequence[str]) -> list[Launch]:
    """Return the launches of int64 (N, 2) or (N, 3) choices, in plan order.

    Columns: task, device index, and whether the task joins the launch of the task before it.
    """
    if choices.shape[1] == 2:
        return single_task_launches(choices, device_names)
    batches: list[tuple[int, list[int]]] = []
    for task, device, joins in choices.tolist():
        if joins and batches:
            batches[-1][1].append(task)
        else:
            batches.append((device, [task]))
    return [Launch(device_names[device], tuple(tasks)) for device, tasks in batches]


def single_task_plan(placed: Iterable[tuple[int, str]]) -> Plan:
    """Return the plan of one launch per (task, device), in the order given."""
    return Plan(tuple(Launch(device, (task,)) for task, device in placed))


def check_plan(graph: TaskGraph, cluster: Cluster, plan: Plan, *, complete: bool = True) -> None:
    """Raise PlanError unless `plan` is legal for `graph`.

    Every task exactly once (at most once when not `complete`), one cell per launch, inputs and
    revealers launched before, known devices.
    """
    position: dict[int, int] = {}
    for number, launch in enumerate(plan.launches):
        place = f"launch {number} on {launch.device}"
        cluster.index(launch.device, place=place)
        if not launch.tasks:
            raise PlanError(f"{place} has no tasks; remove it")
        for task in launch.tasks:
            _check_task(graph, task, launch, place=place)
            if task in position:
                raise PlanError(f"{place}: {graph.label(task)} was launched before; run it once")
            position[task] = number
        _check_order(graph, launch, position, number)
    if complete and len(position) < len(graph):
        missing = next(task for task in range(len(graph)) if task not in position)
        count = len(graph) - len(position)
        raise PlanError(f"{count} tasks are in no launch, first {graph.label(missing)}; add them")


def _check_task(graph: TaskGraph, task: int, launch: Launch, *, place: str) -> None:
    if not 0 <= task < len(graph):
        raise PlanError(f"{place}: task {task} is not in the graph")
    if graph.cell_of[task] != graph.cell_of[launch.tasks[0]]:
        raise PlanError(
            f"{place} mixes cells: {graph.label(launch.tasks[0])} and {graph.label(task)};"
            " a launch runs one cell"
        )


def _check_order(graph: TaskGraph, launch: Launch, position: dict[int, int], number: int) -> None:
    for task in launch.tasks:
        revealer = int(graph.revealed_by[task])
        needed = [*graph.input_lists[task], *([revealer] if revealer >= 0 else [])]
        for source in needed:
            if position.get(source, number) >= number:
                raise PlanError(
                    f"launch {number} on {launch.device}: {graph.label(task)} needs"
                    f" {graph.label(source)}, which is not launched before; reorder the plan"
                )
