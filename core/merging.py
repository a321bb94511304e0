"""Merging: tasks of one cell that are ready together on one device become one launch.

Which tasks run where is given; this decides when to wait for more of a kind. The next launch is of
the group of which the largest share is ready (Chen et al. 2023, ED-Batch, section 3.2): a kind
whose tasks all wait for something else comes last, so that the outputs of a tree's nodes become one
launch, and its composers one launch per level. Levels are counted over all devices: a task that
waits for another device's last results does not hold up what could be launched before.

N tasks of the graph, n of them to be merged, E edges, K kinds, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dynpartition.compiled import compiled
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch
from dynpartition.types import IntArray

ABSENT = -1

_KEYS_MAX = 10_000
"""Up to here, keys are counted in a table."""


def merged(
    graph: TaskGraph, launches: Sequence[Launch], *, sizes: Sequence[int] | None = None
) -> list[Launch]:
    """Return `launches` with every task on the device that it has, in as few launches as it sees.

    `launches` must be in a legal order; tasks of `graph` that are in none of them have been
    launched before. `sizes`: how many tasks a launch may have; default: any number.
    """
    number = {launch.device: at for at, launch in enumerate(launches)}
    tasks = [task for launch in launches for task in launch.tasks]
    devices = [number[launch.device] for launch in launches for _ in launch.tasks]
    names = {at: name for name, at in number.items()}
    return [
        Launch(names[devices[row[0]]], tuple([tasks[at] for at in row]))
        for row in merged_places(graph, np.array(tasks), np.array(devices), sizes=sizes)
    ]


def merged_places(
    graph: TaskGraph,
    tasks: IntArray,
    devices: IntArray,
    *,
    sizes: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return launches as rows of places in `tasks` (n,), whose devices are numbered (n,).

    As `merged`: the order of `tasks` must be legal.
    """
    if not len(tasks):
        return []
    call_of = _calls(graph, tasks)
    kind_of = _numbered(devices * (int(call_of.max()) + 1) + call_of)
    n_tasks, n_kinds, n_calls = len(tasks), int(kind_of.max()) + 1, int(call_of.max()) + 1
    place = np.full(len(graph), ABSENT)
    place[tasks] = np.arange(n_tasks)
    group_of = np.empty(n_tasks, dtype=np.int64)
    n_groups = number_groups(
        tasks,
        kind_of,
        call_of,
        place,
        graph.inputs.start,
        graph.inputs.values,
        graph.revealed_by,
        np.zeros((n_tasks, n_calls), dtype=np.int64),
        np.full((n_kinds, n_tasks + 1), ABSENT),
        group_of,
    )
    order = np.argsort(group_of, kind="stable")
    member_start = np.searchsorted(group_of[order], np.arange(n_groups + 1))
    start, rows = np.zeros(n_tasks + 1, dtype=np.int64), np.empty(n_tasks, dtype=np.int64)
    n_launches = merge_groups(
        tasks,
        place,
        group_of,
        member_start,
        order,
        graph.inputs.start,
        graph.inputs.values,
        graph.revealed_by,
        np.array([] if sizes is None else sizes, dtype=np.int64),
        np.zeros((4, n_tasks), dtype=np.int64),
        np.empty(len(graph.inputs.values) + n_tasks, dtype=np.int64),
        np.zeros((4, n_groups), dtype=np.int64),
        start,
        rows,
    )
    flat = rows.tolist()
    return [flat[a:b] for a, b in pairwise(start[: n_launches + 1].tolist())]


def _calls(graph: TaskGraph, tasks: IntArray) -> IntArray:
    """Return (n,): a number for the cell, and for what is waited for besides inputs.

    That is revealers and arrival.
    """
    if not graph.revealers and not graph.arrival_ns.any():
        return _numbered(graph.cell_of[tasks])
    number: dict[object, int] = {}
    keys = zip(
        graph.cell_of[tasks].tolist(),
        [graph.gates[task] for task in tasks.tolist()],
        [graph.available_ns[task] for task in tasks.tolist()],
        strict=True,
    )
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def _numbered(key: IntArray) -> IntArray:
    """Return numbers from 0 on for keys from 0 on, equal ones for equal keys."""
    if int(key.max()) > _KEYS_MAX:
        kinds: IntArray = np.unique(key, return_inverse=True)[1]
        return kinds
    is_there = np.bincount(key) > 0  # three times as fast as np.unique
    found: IntArray = (np.cumsum(is_there) - 1)[key]
    return found


@compiled
def number_groups(
    tasks: IntArray,
    kind_of: IntArray,
    call_of: IntArray,
    place: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    revealed_by: IntArray,
    depth: IntArray,
    number: IntArray,
    group_of: IntArray,
) -> int:
    """Put tasks of one kind with equally many like calls before them into a group.

    `kind_of` (n,) tells device and call, `call_of` (n,) the call alone. `depth` (n, calls) zeros
    and `number` (K, n + 1) all ABSENT are scratch. Returns the number of groups.
    """
    n_groups = 0
    for at in range(len(tasks)):
        task, kind = tasks[at], kind_of[at]
        for edge in range(input_start[task], input_start[task + 1] + 1):
            source = inputs[edge] if edge < input_start[task + 1] else revealed_by[task]
            before = place[source] if source >= 0 else ABSENT
            if before >= 0:
                for one in range(depth.shape[1]):
                    depth[at, one] = max(depth[at, one], depth[before, one])
        depth[at, call_of[at]] += 1
        level = depth[at, call_of[at]]
        if number[kind, level] < 0:
            number[kind, level] = n_groups
            n_groups += 1
        group_of[at] = number[kind, level]
    return n_groups


MISSING, IS_READY, IS_TAKEN, READER_END = range(4)
"""Rows of the scratch per place."""

N_LEFT, N_READY, FIRST_READY, LOWEST = range(4)
"""Rows of the scratch per group; LOWEST: members before it have been taken."""


@compiled
def merge_groups(
    tasks: IntArray,
    place: IntArray,
    group_of: IntArray,
    member_start: IntArray,
    members: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    revealed_by: IntArray,
    sizes: IntArray,
    of_place: IntArray,
    readers: IntArray,
    of_group: IntArray,
    start: IntArray,
    rows: IntArray,
) -> int:
    """Take launches from the groups until all is launched; write CSR rows, return how many.

    Zeros: `of_place` (4, n), `of_group` (4, G). `readers` is scratch for all edges.
    """
    n_places, n_groups = len(tasks), of_group.shape[1]
    for at in range(n_places):
        task = tasks[at]
        for edge in range(input_start[task], input_start[task + 1] + 1):
            source = inputs[edge] if edge < input_start[task + 1] else revealed_by[task]
            if source >= 0 and place[source] >= 0:
                of_place[MISSING, at] += 1
                of_place[READER_END, place[source]] += 1
    total = 0
    for at in range(n_places):
        total += of_place[READER_END, at]
        of_place[READER_END, at] = total
    for at in range(n_places - 1, -1, -1):
        # From the end: what is left in READER_END is then where each row begins.
        task = tasks[at]
        for edge in range(input_start[task], input_start[task + 1] + 1):
            source = inputs[edge] if edge < input_start[task + 1] else revealed_by[task]
            if source >= 0 and place[source] >= 0:
                of_place[READER_END, place[source]] -= 1
                readers[of_place[READER_END, place[source]]] = at
    for group in range(n_groups):
        of_group[N_LEFT, group] = member_start[group + 1] - member_start[group]
        of_group[LOWEST, group] = member_start[group]
        of_group[FIRST_READY, group] = n_places
    for at in range(n_places):
        if of_place[MISSING, at] == 0:
            become_ready(at, group_of, of_place, of_group)
    n_launches = n_rows = 0
    while n_rows < n_places:
        best = choose(of_group)
        count = of_group[N_READY, best]
        if len(sizes) > 0:
            most = 1
            for size in sizes:
                if size <= count and size > most:
                    most = size
            count = most
        first_row = n_rows
        at = of_group[LOWEST, best]
        while n_rows < first_row + count:
            member = members[at]
            if of_place[IS_READY, member] == 1 and of_place[IS_TAKEN, member] == 0:
                of_place[IS_TAKEN, member] = 1
                rows[n_rows] = member
                n_rows += 1
            at += 1
        of_group[N_READY, best] -= count
        of_group[N_LEFT, best] -= count
        find_first(best, member_start, members, of_place, of_group, n_places)
        for row in range(first_row, n_rows):
            end = of_place[READER_END, rows[row] + 1] if rows[row] + 1 < n_places else total
            for edge in range(of_place[READER_END, rows[row]], end):
                reader = readers[edge]
                of_place[MISSING, reader] -= 1
                if of_place[MISSING, reader] == 0:
                    become_ready(reader, group_of, of_place, of_group)
        n_launches += 1
        start[n_launches] = n_rows
    return n_launches


@compiled
def become_ready(at: int, group_of: IntArray, of_place: IntArray, of_group: IntArray) -> None:
    """Note that a place may be launched."""
    of_place[IS_READY, at] = 1
    group = group_of[at]
    of_group[N_READY, group] += 1
    of_group[FIRST_READY, group] = min(of_group[FIRST_READY, group], at)


@compiled
def choose(of_group: IntArray) -> int:
    """Return the group of which the largest share is ready; among equals the first one given."""
    best, best_share = ABSENT, 0.0
    for group in range(of_group.shape[1]):
        if of_group[N_READY, group] > 0:
            share = of_group[N_READY, group] / of_group[N_LEFT, group]
            is_first = best < 0 or of_group[FIRST_READY, group] < of_group[FIRST_READY, best]
            if share > best_share or (share == best_share and is_first):
                best, best_share = group, share
    return best


@compiled
def find_first(
    group: int,
    member_start: IntArray,
    members: IntArray,
    of_place: IntArray,
    of_group: IntArray,
    n_places: int,
) -> None:
    """Find the first place of a group that is ready and not taken, n where there is none."""
    end, at = member_start[group + 1], of_group[LOWEST, group]
    while at < end and of_place[IS_TAKEN, members[at]] == 1:
        at += 1
    of_group[LOWEST, group] = at
    while at < end and (
        of_place[IS_READY, members[at]] == 0 or of_place[IS_TAKEN, members[at]] == 1
    ):
        at += 1
    of_group[FIRST_READY, group] = members[at] if at < end else n_places
