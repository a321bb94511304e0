"""Warming up: what a scheduler loads or compiles once is not part of its decisions."""

from __future__ import annotations

import numpy as np

from dynpartition.contract import Scheduler
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import Profile


def warm_up(scheduler: Scheduler, profile: Profile) -> None:
    """Ask a scheduler about one task, so that its compiled code and its solver are loaded.

    With an input from the host, if that has links to all devices: some do more for those.
    """
    cell, cluster = Cell("(warm-up)"), profile.cluster
    linked = np.delete(cluster.link_table[cluster.host_index], cluster.host_index)
    task = Task(
        id=0,
        cell=cell.name,
        host_bytes=int((linked >= 0).all()),
        duration_ns=dict.fromkeys(cluster.names, 1000),
    )
    scheduler.schedule(TaskGraph.from_tasks(cell.name, [cell], [task]), profile, Plan())
