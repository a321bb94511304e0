"""A scheduler that lets another one place tasks, and merges them into launches where that pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.agent.heuristics import Placer
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, single_task_launches
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import IntArray

SUFFIX = "+merge"
"""What `--scheduler` names end with."""


class Merging(Scheduler):
    """Keeps the inner scheduler's launches or merges them, whichever the estimate prefers."""

    def __init__(self, inner: Scheduler) -> None:
        self.inner = inner
        self.name = inner.name + SUFFIX

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; each task is on the device that the inner scheduler chose."""
        from dynpartition.merging import merged  # needs numba

        if isinstance(self.inner, Placer):
            priced = PricedGraph(graph, profile)
            return _merged_choices(priced, planned, self.inner.place(priced, planned))
        alone = self.inner.schedule(graph, profile, planned)
        return _better(graph, profile, planned, merged(graph, alone), alone)


def _better(
    graph: TaskGraph,
    profile: Profile,
    planned: Plan,
    together: Sequence[Launch],
    alone: Sequence[Launch],
) -> Sequence[Launch]:
    """Return the launches with the smaller estimate; the merged ones where equal."""
    from dynpartition.agent.list_tables import estimated_ns  # needs numba

    return min(
        (together, alone), key=lambda launches: estimated_ns(graph, profile, planned + launches)
    )


def _merged_choices(priced: PricedGraph, planned: Plan, choices: IntArray) -> Sequence[Launch]:
    """Return launches of (n, 2) choices, merged where that pays.

    Mostly two sums tell: when all merged launches and transfers one after the other end before the
    busiest device would have run its tasks one by one, no estimate is needed.
    """
    from dynpartition.merging import merged_places  # needs numba

    if not len(choices):
        return []
    tasks, devices = choices[:, 0], choices[:, 1]
    names, task_of = priced.cluster.names, tasks.tolist()
    device_of = devices.tolist()
    rows = merged_places(priced.graph, tasks, devices)
    batches = [(device_of[row[0]], tuple([task_of[at] for at in row])) for row in rows]
    together = [Launch(names[device], batch) for device, batch in batches]
    # What every task costs besides, merged or not, decides nothing on one device.
    extra_ns = np.array([priced.profile.dispatch.bookkeeping_on(name) for name in names])[devices]
    alone_ns = priced.task_ns[tasks, devices] + extra_ns
    longest_ns = max([int(alone_ns[devices == device].sum()) for device in set(device_of)])
    merged_ns = sum([priced.compute_ns(batch, device) for device, batch in batches])
    merged_ns += int(extra_ns.sum())
    is_one = len(set(device_of)) == 1
    if not is_one:
        merged_ns += _transfers_ns(priced, choices) + _first_uses_ns(priced, choices)
    if merged_ns <= longest_ns:
        return together
    alone = single_task_launches(choices, names)
    if is_one:
        return alone
    return _better(priced.graph, priced.profile, planned, together, alone)


def _first_uses_ns(priced: PricedGraph, choices: IntArray) -> int:
    """Return what first uses of cells on devices cost together."""
    dispatch, names, cells = priced.profile.dispatch, priced.cluster.names, priced.graph.cell_names
    if not dispatch.first_use_ns:
        return 0
    cell_of = priced.graph.cell_of[choices[:, 0]].tolist()
    pairs = set(zip(cell_of, choices[:, 1].tolist(), strict=True))
    return sum(dispatch.first_use_on(cells[cell], names[device]) for cell, device in pairs)


def _transfers_ns(priced: PricedGraph, choices: IntArray) -> int:
    """Return how long all that crosses devices takes one after the other, each task by itself."""
    graph, host = priced.graph, priced.cluster.host_index
    device_of = np.full(len(graph), -1)
    device_of[choices[:, 0]] = choices[:, 1]
    readers = np.repeat(np.arange(len(graph)), np.diff(graph.inputs.start))  # (E,)
    fed, returned = np.flatnonzero(graph.host_bytes), np.flatnonzero(graph.returns)
    source = [device_of[graph.inputs.values], np.full(len(fed), host), device_of[returned]]
    target = [device_of[readers], device_of[fed], np.full(len(returned), host)]
    made = graph.output_bytes
    size = np.concatenate([made[graph.inputs.values], graph.host_bytes[fed], made[returned]])
    src, dst = np.concatenate(source), np.concatenate(target)
    crossing = (src != dst) & (src >= 0) & (dst >= 0)
    link = priced.cluster.link_table[src[crossing], dst[crossing]]
    kinds, count = np.unique(np.stack([link, size[crossing]]), axis=1, return_counts=True)
    handoff_ns = priced.profile.dispatch.handoff_ns
    costs = [priced.transfer_ns(which, n_bytes) + handoff_ns for which, n_bytes in kinds.T.tolist()]
    return int(np.dot(costs, count)) if costs else 0
