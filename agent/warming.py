"""Warming up: what a scheduler loads or compiles once is not part of its decisions."""

from __future__ import annotations

from dynpartition.contract import Scheduler
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import Profile


def warm_up(scheduler: Scheduler, profile: Profile) -> None:
    """Ask a scheduler about one task, so that its compiled code and its solver are loaded."""
    cell = Cell("(warm-up)")
    task = Task(id=0, cell=cell.name, duration_ns=dict.fromkeys(profile.cluster.names, 1000))
    scheduler.schedule(TaskGraph.from_tasks(cell.name, [cell], [task]), profile, Plan())
