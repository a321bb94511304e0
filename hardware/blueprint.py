"""The plan of a session as it grows, lowered to what each device has to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dynpartition.cluster import Cluster
from dynpartition.graph import Cell, TaskGraph
from dynpartition.hardware.layout import Layout
from dynpartition.hardware.messages import Segment
from dynpartition.hardware.orders import segments
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.hardware.tracing import Ran
from dynpartition.lowering import lower_quickly
from dynpartition.models import TaskBlock
from dynpartition.plan import Launch, Plan
from dynpartition.program import Program
from dynpartition.types import IntArray, frozen


class HostInputs(NamedTuple):
    """Host inputs of tasks of one kind, and the row of the host's arena where the first goes."""

    row: int
    tensors: Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Value:
    """An output that the caller waits for."""

    task: int
    launch: int
    copy: int
    """Transfer that brings it to the host; -1: it is made there."""


class Blueprint:
    """Tasks revealed so far, their plan, its program, and where everything lies.

    `extend` either succeeds or leaves everything as it was.
    """

    def __init__(
        self, cluster: Cluster, cells: Sequence[Cell], capacity_bytes: Sequence[int], name: str
    ) -> None:
        self.cluster = cluster
        self.tasks = KnownTasks()
        self.plan = Plan()
        self.program: Program | None = None
        self.layout = Layout(cluster, capacity_bytes)
        self._cells = cells
        self._name = name
        self._graph: TaskGraph | None = None

    @property
    def graph(self) -> TaskGraph:
        """The tasks as schedulers see them."""
        if self._graph is None:
            self._graph = self.tasks.graph(self._cells, self._name)
        return self._graph

    def reveal(self, block: TaskBlock, revealer: int = -1) -> list[HostInputs]:
        """Append tasks and return where their host inputs go. OutOfDeviceMemory if too big."""
        first = len(self.tasks)
        kinds = self.tasks.append(block, revealer)
        self._graph = None
        self.layout.add_tasks(self.tasks, first)
        host_row = self.layout.input_row[self.cluster.host_index]
        fed = []
        for kind, tensors in block.host_inputs.items():
            if len(tensors) and self.tasks.host_bytes[kinds[kind]] > 0:
                number = first + int(np.argmax(block.kind_of == kind))
                fed.append(HostInputs(int(host_row[number]), tensors))
        return fed

    def extend(self, launches: Sequence[Launch]) -> list[Segment]:
        """Append launches and return the new code of every device (epoch still 0).

        Raises PlanError for an illegal plan, OutOfDeviceMemory for one that does not fit.
        """
        plan = self.plan + launches
        program = lower_quickly(self._executed_graph(), self.cluster, plan)
        copies_before = 0 if self.program is None else self.program.n_copies
        new = segments(self.tasks, program, self.layout, len(self.plan), copies_before)
        self.plan, self.program = plan, program
        return new

    def _executed_graph(self) -> TaskGraph:
        """Return the graph with every revealing task returning to the host.

        What a task will reveal is not in the graph yet, but its output has to come to the host.
        """
        revealing = self.tasks.where(reveals=True)
        if not len(revealing):
            return self.graph
        returns = self.graph.returns.copy()
        returns[revealing] = 1
        return dataclasses.replace(self.graph, returns=frozen(returns))

    def awaited(self, seen: Container[int]) -> list[Value]:
        """Return the values not `seen` yet that will reveal tasks, by task number."""
        due = [task for task in self.tasks.where(reveals=True).tolist() if task not in seen]
        if not due:
            return []
        program, host = self._lowered(), self.cluster.host_index
        arrivals = {
            task: copy
            for copy, tasks in enumerate(program.copy_tasks.rows)
            if program.copy_dst[copy] == host and not program.copy_is_input[copy]
            for task in tasks
        }
        return [Value(task, program.launch_of[task], arrivals.get(task, -1)) for task in due]

    def host_rows(self) -> IntArray:
        """Return (N,) the row of the host's arena where each output lies that is there."""
        rows: IntArray = self.layout.output_row[self.cluster.host_index]
        return rows

    def name_cell(self, launch: int) -> str:
        """Return words for messages about a launch; none for one that is not in the plan."""
        if not 0 <= launch < len(self.plan):
            return ""
        return f" at launch {launch} ({self.tasks.kind(self.plan.launches[launch].tasks[0]).cell})"

    def ran(self, origin_ns: int, known_ns: Mapping[int, int]) -> Ran:
        """Return the plan as a run that has finished."""
        return Ran(self.graph, self.cluster, self.plan, self._lowered(), origin_ns, known_ns)

    def _lowered(self) -> Program:
        assert self.program is not None, "nothing has been planned"
        return self.program
