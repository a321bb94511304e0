"""The plan of a session as it grows, lowered to what each device has to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from dynpartition.cluster import Cluster
from dynpartition.graph import Cell, TaskGraph
from dynpartition.hardware.layout import Layout, input_slot
from dynpartition.hardware.messages import Segment, Slot
from dynpartition.hardware.orders import Orders
from dynpartition.hardware.tracing import Ran
from dynpartition.models import NewTask, graph_of
from dynpartition.plan import Launch, Plan
from dynpartition.program import Program, lower
from dynpartition.types import frozen


@dataclass(frozen=True, slots=True)
class Value:
    """An output that the caller waits for."""

    task: int
    launch: int
    copy: int
    """Transfer that brings it to the host; -1: it is made there."""


class Blueprint:
    """Tasks revealed so far, their plan, its program, and where everything lies.

    `extend` and `reveal` either succeed or leave everything as it was.
    """

    def __init__(
        self, cluster: Cluster, cells: Sequence[Cell], capacity_bytes: Sequence[int], name: str
    ) -> None:
        self.cluster = cluster
        self.tasks: list[NewTask] = []
        self.plan = Plan()
        self.program: Program | None = None
        self.layout = Layout.empty(cluster, capacity_bytes)
        self._cells = cells
        self._name = name
        self._revealed_by: list[int] = []
        self.graph: TaskGraph = graph_of(cells, [], [], name=name)

    def reveal(self, tasks: Sequence[NewTask], revealer: int = -1) -> None:
        """Append tasks; their host inputs get places on the host. OutOfDeviceMemory if too big."""
        first = len(self.tasks)
        layout = self.layout.copy()
        fed = [number for number, task in enumerate(tasks, first) if task.host_input is not None]
        slots = [input_slot(tasks[number - first]) for number in fed]
        layout.place_inputs(self.cluster.host_index, fed, slots, "host inputs")
        self.layout = layout
        self.tasks += tasks
        self._revealed_by += [revealer] * len(tasks)
        self.graph = graph_of(self._cells, self.tasks, self._revealed_by, name=self._name)

    def extend(self, launches: Sequence[Launch]) -> list[Segment]:
        """Append launches and return the new code of every device (epoch still 0).

        Raises PlanError for an illegal plan, OutOfDeviceMemory for one that does not fit.
        """
        plan = self.plan + launches
        program = lower(self._executed_graph(), self.cluster, plan)
        copies_before = 0 if self.program is None else self.program.n_copies
        orders = Orders(self.tasks, program, self.layout.copy())
        segments = orders.segments(len(self.plan), copies_before)
        self.plan, self.program, self.layout = plan, program, orders.layout
        return segments

    def _executed_graph(self) -> TaskGraph:
        """Return the graph with every revealing task returning to the host.

        What a task will reveal is not in the graph yet, but its output has to come to the host.
        """
        returns = [task.returns or task.reveals for task in self.tasks]
        return dataclasses.replace(self.graph, returns=frozen(returns))

    def awaited(self, seen: Container[int]) -> list[Value]:
        """Return the values not `seen` yet that will reveal tasks, by task number."""
        program, host = self._lowered(), self.cluster.host_index
        arrivals = {
            task: copy
            for copy, tasks in enumerate(program.copy_tasks.rows)
            if program.copy_dst[copy] == host and not program.copy_is_input[copy]
            for task in tasks
        }
        launch_of = {t: n for n, row in enumerate(program.launch_tasks.rows) for t in row}
        return [
            Value(number, launch_of[number], arrivals.get(number, -1))
            for number, task in enumerate(self.tasks)
            if task.reveals and number not in seen
        ]

    def host_output(self, task: int) -> Slot:
        """Return where the output of `task` lies on the host."""
        return self.layout.outputs[self.cluster.host_index, task]

    def host_input(self, task: int) -> Slot:
        """Return where the host input of `task` lies on the host."""
        return self.layout.inputs[self.cluster.host_index, task]

    def name_cell(self, launch: int) -> str:
        """Return words for messages about a launch; none for one that is not in the plan."""
        if not 0 <= launch < len(self.plan):
            return ""
        return f" at launch {launch} ({self.tasks[self.plan.launches[launch].tasks[0]].cell})"

    def ran(self, origin_ns: int, known_ns: Mapping[int, int]) -> Ran:
        """Return the plan as a run that has finished."""
        return Ran(self.graph, self.cluster, self.plan, self._lowered(), origin_ns, known_ns)

    def _lowered(self) -> Program:
        assert self.program is not None, "nothing has been planned"
        return self.program
