"""Task graphs: what one input makes a dynamic network compute.

A `TaskGraph` is frozen and holds int64 arrays (inputs and readers as CSR). Tasks are addressed by
their index 0…N-1; `ids` keeps the numbers that a file used, which error messages show.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dynpartition.errors import GraphError, did_you_mean
from dynpartition.types import IntArray, Ragged, frozen

VALUE_MAX = 10**15
"""Largest byte count or time in ns that a file may hold: sums stay far inside int64."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A submodule that is called many times."""

    name: str
    param_bytes: int = 0


CARRIED = Cell("(carried)")
"""What a task calls whose launch began before a device was lost: see `dynpartition.sim.losses`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One call of one cell."""

    id: int
    cell: str
    inputs: tuple[int, ...] = ()
    """Ids of the tasks whose outputs this one reads, in argument order; repeats allowed."""
    output_bytes: int = 0
    duration_ns: Mapping[str, int] = field(default_factory=dict)
    """Cost per device name; overrides the profile where given."""
    revealed_by: int | None = None
    """Id of the task whose result decides that this one exists; None: known from the start."""
    arrival_ns: int = 0
    request: int = 0
    host_bytes: int = 0
    """Bytes that must travel from the host device before the task can start."""
    returns: bool = False
    """Whether the output is sent back to the host device."""


@dataclass(frozen=True, eq=False)
class TaskGraph:
    """Tasks and edges of one input; build one with `TaskGraph.from_tasks`.

    N tasks, E edges. `ids`, `cell_of`, `output_bytes`, `host_bytes`, `arrival_ns`, `request`,
    `revealed_by` (-1: none), `returns`: int64 (N,). `inputs`: N rows of task indices, E in all.
    """

    name: str
    cells: tuple[Cell, ...]
    ids: IntArray
    cell_of: IntArray
    inputs: Ragged
    output_bytes: IntArray
    host_bytes: IntArray
    arrival_ns: IntArray
    request: IntArray
    revealed_by: IntArray
    returns: IntArray
    durations: Mapping[str, IntArray]
    """Device name → int64 (N,) own cost in ns, -1 where the profile decides."""

    @staticmethod
    def from_tasks(name: str, cells: Iterable[Cell], tasks: Iterable[Task]) -> TaskGraph:
        """Return the graph of `tasks`, ordered by id.

        Raises GraphError for duplicate ids or cells, unknown cells, inputs or revealers,
        negative or huge numbers, cycles, and an empty list.
        """
        ordered = sorted(tasks, key=lambda task: task.id)
        cell_list = tuple(cells)
        _check_tasks(name, cell_list, ordered)
        index = {task.id: position for position, task in enumerate(ordered)}
        cell_index = {cell.name: position for position, cell in enumerate(cell_list)}
        graph = TaskGraph(
            name=name,
            cells=cell_list,
            ids=frozen([task.id for task in ordered]),
            cell_of=frozen([cell_index[task.cell] for task in ordered]),
            inputs=Ragged.of([[index[i] for i in task.inputs] for task in ordered]),
            output_bytes=frozen([task.output_bytes for task in ordered]),
            host_bytes=frozen([task.host_bytes for task in ordered]),
            arrival_ns=frozen([task.arrival_ns for task in ordered]),
            request=frozen([task.request for task in ordered]),
            revealed_by=frozen(
                [-1 if task.revealed_by is None else index[task.revealed_by] for task in ordered]
            ),
            returns=frozen([task.returns for task in ordered]),
            durations=_own_durations(ordered),
        )
        # Computed here, so that a graph that exists has no cycle.
        assert len(graph.topological_order) == len(ordered)
        return graph

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Names of the cells, in cell order."""
        return tuple(cell.name for cell in self.cells)

    def cell_name(self, task: int) -> str:
        """Return the name of the cell that `task` calls."""
        return self.cells[int(self.cell_of[task])].name

    def label(self, task: int) -> str:
        """Return how messages name a task: `task 7 (composer)`."""
        return f"task {self.ids[task]} ({self.cell_name(task)})"

    @property
    def input_lists(self) -> tuple[tuple[int, ...], ...]:
        """Task index → indices of its inputs, in argument order."""
        return self.inputs.rows

    @cached_property
    def reader_lists(self) -> tuple[tuple[int, ...], ...]:
        """Task index → indices of the tasks that read its output, ascending, without repeats."""
        readers: list[list[int]] = [[] for _ in range(len(self))]
        for task, inputs in enumerate(self.input_lists):
            for source in dict.fromkeys(inputs):
                readers[source].append(task)
        return tuple(tuple(row) for row in readers)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """Every task after its inputs and its revealer; the smallest index first among equals."""
        return _topological_order(self)

    @cached_property
    def gates(self) -> tuple[tuple[int, ...], ...]:
        """Task index → all revealers that must be known before the task is (ascending).

        A task is hidden by its own revealer, by what hides that revealer, and by what hides any
        of its inputs.
        """
        nothing: frozenset[int] = frozenset()
        gates = [nothing] * len(self)
        revealed_by, inputs = self.revealed_by.tolist(), self.input_lists
        rows: dict[frozenset[int], tuple[int, ...]] = {}
        for task in self.topological_order:
            own, found = revealed_by[task], nothing
            for source in inputs[task]:
                if not gates[source] <= found:
                    found = found | gates[source]
            if own >= 0:
                found = found | gates[own] | {own}
            gates[task] = found
        for found in set(gates):
            rows[found] = tuple(sorted(found))
        return tuple([rows[found] for found in gates])

    @cached_property
    def available_ns(self) -> tuple[int, ...]:
        """Task index → when it and everything before it (inputs, revealers) have arrived."""
        available = [int(arrival) for arrival in self.arrival_ns]
        for task in self.topological_order:
            before = [*self.input_lists[task], int(self.revealed_by[task])]
            available[task] = max(available[task], *(available[b] for b in before if b >= 0), 0)
        return tuple(available)

    @cached_property
    def revealers(self) -> tuple[int, ...]:
        """Indices of the tasks whose result decides that others exist, ascending."""
        return tuple(np.unique(self.revealed_by[self.revealed_by >= 0]).tolist())

    @cached_property
    def digest(self) -> str:
        """Content hash (sha256): equal for graphs that differ in name only."""
        hasher = hashlib.sha256()
        hasher.update(repr([(cell.name, cell.param_bytes) for cell in self.cells]).encode())
        for array in self._content():
            hasher.update(f"{array.shape}".encode())
            hasher.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        for device in sorted(self.durations):
            hasher.update(device.encode())
            hasher.update(np.ascontiguousarray(self.durations[device], dtype="<i8").tobytes())
        return hasher.hexdigest()

    def _content(self) -> tuple[IntArray, ...]:
        return (
            self.ids,
            self.cell_of,
            self.inputs.start,
            self.inputs.values,
            self.output_bytes,
            self.host_bytes,
            self.arrival_ns,
            self.request,
            self.revealed_by,
            self.returns,
        )

    def task(self, index: int) -> Task:
        """Return task `index` as a record; ids, not indices, in `inputs` and `revealed_by`."""
        revealer = int(self.revealed_by[index])
        own = {d: int(row[index]) for d, row in self.durations.items() if row[index] >= 0}
        return Task(
            id=int(self.ids[index]),
            cell=self.cell_name(index),
            inputs=tuple(int(self.ids[i]) for i in self.input_lists[index]),
            output_bytes=int(self.output_bytes[index]),
            duration_ns=own,
            revealed_by=None if revealer < 0 else int(self.ids[revealer]),
            arrival_ns=int(self.arrival_ns[index]),
            request=int(self.request[index]),
            host_bytes=int(self.host_bytes[index]),
            returns=bool(self.returns[index]),
        )

    def tasks(self) -> tuple[Task, ...]:
        """Return all tasks as records, in index order."""
        return tuple(self.task(index) for index in range(len(self)))

    def subgraph(self, chosen: Sequence[int]) -> TaskGraph:
        """Return the graph of the `chosen` tasks, renumbered 0…n-1 in the order given.

        The chosen set must be closed: inputs and revealers of a chosen task are chosen too.
        """
        number = {old: new for new, old in enumerate(chosen)} | {-1: -1}
        rows, index = self.inputs.rows, np.asarray(chosen, dtype=np.int64)
        return TaskGraph(
            name=self.name,
            cells=self.cells,
            ids=frozen(range(len(chosen))),
            cell_of=frozen(self.cell_of[index]),
            inputs=Ragged.of([[number[i] for i in rows[old]] for old in chosen]),
            output_bytes=frozen(self.output_bytes[index]),
            host_bytes=frozen(self.host_bytes[index]),
            arrival_ns=frozen(self.arrival_ns[index]),
            request=frozen(self.request[index]),
            revealed_by=frozen([number[r] for r in self.revealed_by[index].tolist()]),
            returns=frozen(self.returns[index]),
            durations=_chosen_durations(self.durations, index),
        )


def _chosen_durations(durations: Mapping[str, IntArray], index: IntArray) -> dict[str, IntArray]:
    rows = {device: frozen(row[index]) for device, row in durations.items()}
    return {device: row for device, row in rows.items() if (row >= 0).any()}


def _own_durations(tasks: Sequence[Task]) -> dict[str, IntArray]:
    devices = sorted({device for task in tasks for device in task.duration_ns})
    return {d: frozen([task.duration_ns.get(d, -1) for task in tasks]) for d in devices}


def _check_tasks(name: str, cells: Sequence[Cell], tasks: Sequence[Task]) -> None:
    if not tasks:
        raise GraphError(f"graph {name!r} has no tasks; give it at least one")
    known: set[str] = set()
    for cell in cells:
        _check_number(cell.param_bytes, f"cell {cell.name!r}", "param_bytes")
        if cell.name == CARRIED.name:
            raise GraphError(f"cell {cell.name!r}: this name is reserved; choose another")
        if cell.name in known:
            raise GraphError(f"cell {cell.name!r} is listed twice; give each cell one entry")
        known.add(cell.name)
    ids = {task.id for task in tasks}
    previous: int | None = None
    for task in tasks:
        place = f"task {task.id} ({task.cell})"
        if task.id == previous:
            raise GraphError(f"task id {task.id} is used twice; ids must be unique")
        previous = task.id
        if task.cell not in known:
            remedy = did_you_mean(task.cell, known)
            raise GraphError(f"{place}: no cell is named {task.cell!r}; {remedy}")
        _check_references(task, ids, place)
        _check_task_numbers(task, place)


def _check_references(task: Task, ids: set[int], place: str) -> None:
    for source in task.inputs:
        if source == task.id:
            raise GraphError(f"{place} reads its own output; remove {source} from its inputs")
        if source not in ids:
            raise GraphError(f"{place}: input {source} is no task of this graph")
    revealer = task.revealed_by
    if revealer is not None and (revealer not in ids or revealer == task.id):
        raise GraphError(f"{place}: revealed_by {revealer} is no other task of this graph")


def _check_task_numbers(task: Task, place: str) -> None:
    for field_name in ("id", "output_bytes", "arrival_ns", "request", "host_bytes"):
        _check_number(getattr(task, field_name), place, field_name)
    for device, duration in task.duration_ns.items():
        _check_number(duration, place, f"duration_ns[{device!r}]")


def _check_number(value: int, place: str, what: str) -> None:
    if not 0 <= value <= VALUE_MAX:
        raise GraphError(f"{place}: {what} is {value}; it must be between 0 and 10^15")


def _topological_order(graph: TaskGraph) -> tuple[int, ...]:
    reader_of = np.repeat(np.arange(len(graph)), np.diff(graph.inputs.start))  # (E,)
    in_order = (graph.inputs.values < reader_of).all()
    if in_order and (graph.revealed_by < np.arange(len(graph))).all():
        return tuple(range(len(graph)))  # as model runs number their tasks
    followers: list[list[int]] = [[] for _ in range(len(graph))]
    missing = [0] * len(graph)
    for task, inputs in enumerate(graph.input_lists):
        own = int(graph.revealed_by[task])
        for source in {*inputs, own} - {-1}:
            followers[source].append(task)
            missing[task] += 1
    ready = [task for task in range(len(graph)) if missing[task] == 0]
    order: list[int] = []
    while ready:
        task = heapq.heappop(ready)
        order.append(task)
        for follower in followers[task]:
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(ready, follower)
    if len(order) < len(graph):
        raise GraphError(_describe_cycle(graph, missing))
    return tuple(order)


def _describe_cycle(graph: TaskGraph, missing: Sequence[int]) -> str:
    """Name the tasks of one cycle: walk backwards among tasks that never became ready."""
    task = next(i for i in range(len(graph)) if missing[i] > 0)
    seen: dict[int, int] = {}  # task → position on the walk
    while task not in seen:
        seen[task] = len(seen)
        before = {*graph.input_lists[task], int(graph.revealed_by[task])} - {-1}
        task = min(source for source in before if missing[source] > 0)
    cycle = [*list(seen)[seen[task] :], task][::-1]
    names = [str(graph.ids[i]) for i in cycle]
    shown = names if len(names) <= 12 else [*names[:11], "…", names[-1]]
    return f"tasks form a cycle: {' → '.join(shown)}; remove one of these edges"
