"""Merging: tasks of one cell that are ready together on one device become one launch.

Which tasks run where is given; this decides when to wait for more of a kind. The next launch is of
the group of which the largest share is ready (Chen et al. 2023, ED-Batch, section 3.2): a kind
whose tasks all wait for something else comes last, so that the outputs of a tree's nodes become one
launch, and its composers one launch per level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch


class _Kind(NamedTuple):
    """What tasks of one launch have in common."""

    device: str
    cell: int
    gates: tuple[int, ...]
    available_ns: int


class _Group:
    """Tasks of one kind with equally many of that kind before them: none depends on another."""

    __slots__ = ("n_left", "ready")

    def __init__(self) -> None:
        self.n_left = 0
        self.ready: list[int] = []
        """Places in the order given, ascending."""

    @property
    def urgency(self) -> tuple[float, int]:
        """Orders groups with ready tasks: most complete first, then as given."""
        return -len(self.ready) / self.n_left, self.ready[0]

    def take(self, sizes: Sequence[int] | None) -> list[int]:
        """Remove as many of the ready places as one launch may have, first ones first."""
        count = len(self.ready)
        if sizes is not None:
            count = max((size for size in sizes if size <= count), default=1)
        taken, self.ready = self.ready[:count], self.ready[count:]
        self.n_left -= count
        return taken


def merged(
    graph: TaskGraph, launches: Sequence[Launch], *, sizes: Sequence[int] | None = None
) -> list[Launch]:
    """Return `launches` with every task on the device that it has, in as few launches as it sees.

    `launches` must be in a legal order; tasks of `graph` that are in none of them have been
    launched before. `sizes`: how many tasks a launch may have; default: any number.
    """
    order = [(task, launch.device) for launch in launches for task in launch.tasks]
    groups = _groups(graph, order)
    place = {task: at for at, (task, _) in enumerate(order)}
    missing = [sum(source in place for source in _needed(graph, task)) for task, _ in order]
    readers: list[list[int]] = [[] for _ in order]
    for at, (task, _) in enumerate(order):
        for source in _needed(graph, task):
            if source in place:
                readers[place[source]].append(at)
        groups[at].n_left += 1
        if not missing[at]:
            groups[at].ready.append(at)
    merged_launches: list[Launch] = []
    waiting = list(dict.fromkeys(group for group in groups if group.ready))
    while waiting:
        group = min(waiting, key=lambda one: one.urgency)
        taken = group.take(sizes)
        device = order[taken[0]][1]
        merged_launches.append(Launch(device, tuple(order[at][0] for at in taken)))
        freed = [reader for at in taken for reader in readers[at]]
        for at in freed:
            missing[at] -= 1
            if not missing[at]:
                groups[at].ready.append(at)
                groups[at].ready.sort()
        waiting = [one for one in waiting if one.ready]
        waiting += dict.fromkeys(groups[at] for at in freed if groups[at].ready)
        waiting = list(dict.fromkeys(waiting))
    return merged_launches


def _needed(graph: TaskGraph, task: int) -> tuple[int, ...]:
    """Return the tasks that must be launched before: inputs and the revealer, once each."""
    revealer = int(graph.revealed_by[task])
    own = (*graph.input_lists[task], *((revealer,) if revealer >= 0 else ()))
    return tuple(dict.fromkeys(own))


def _groups(graph: TaskGraph, order: Sequence[tuple[int, str]]) -> list[_Group]:
    """Return the group of each place: one object for all that may share a launch."""
    kinds = [
        _Kind(device, int(graph.cell_of[task]), graph.gates[task], graph.available_ns[task])
        for task, device in order
    ]
    number = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
    place = {task: at for at, (task, _) in enumerate(order)}
    depth = np.zeros((len(order), len(number)), dtype=np.int64)  # of each kind up to each place
    found: dict[tuple[int, int], _Group] = {}
    groups = []
    for at, (task, _) in enumerate(order):
        before = [place[source] for source in _needed(graph, task) if source in place]
        if before:
            depth[at] = depth[before].max(axis=0)
        kind = number[kinds[at]]
        depth[at, kind] += 1
        groups.append(found.setdefault((kind, int(depth[at, kind])), _Group()))
    return groups
