"""The plan of a session as it grows, lowered to what each device has to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dynpartition.cluster import Cluster
from dynpartition.errors import PlanError
from dynpartition.graph import Cell, TaskGraph
from dynpartition.hardware.kept import Kept, KeptPlans
from dynpartition.hardware.layout import Layout
from dynpartition.hardware.ledger import Ledger
from dynpartition.hardware.messages import Segment, Stock
from dynpartition.hardware.orders import segments
from dynpartition.hardware.recovery import Carried
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.hardware.tracing import Ran
from dynpartition.lowering import lower_quickly
from dynpartition.models import TaskBlock
from dynpartition.models.tasks import Tensors
from dynpartition.plan import Launch, Plan
from dynpartition.program import Program
from dynpartition.types import IntArray, frozen


class HostInputs(NamedTuple):
    """Host inputs of tasks of one kind, and the row of the host's arena where the first goes."""

    row: int
    tensors: Tensors


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
        self,
        cluster: Cluster,
        cells: Sequence[Cell],
        capacity_bytes: Sequence[int],
        name: str,
        stocks: Mapping[int, Stock],
        plans: KeptPlans | None = None,
    ) -> None:
        """`plans`: where plans of shapes seen before are found and kept."""
        self.cluster = cluster
        self.tasks = KnownTasks()
        self.plan = Plan()
        self.program: Program | None = None
        self.layout = Layout(cluster, capacity_bytes)
        self._ledger = Ledger(cluster, cells, stocks)
        # Which weights a device must load depends on what it holds, not on the plan alone.
        self._plans = None if stocks else plans
        self._cells = cells
        self._name = name
        self._graph: TaskGraph | None = None
        self.lost: Mapping[str, str] = {}
        """Device that may not be used → what is known of its end."""
        self.carried: Carried | None = None
        """What the last loss of this session has left; None: there was none."""

    @property
    def graph(self) -> TaskGraph:
        """The tasks as schedulers see them."""
        if self._graph is None:
            self._graph = self.whole_graph()
            if self.carried is not None:
                self._graph = self.carried.rest_of(self._graph, self.cluster)
        return self._graph

    def whole_graph(self) -> TaskGraph:
        """Return the tasks as the model has revealed them, whatever was lost."""
        return self.tasks.graph(self._cells, self._name)

    @property
    def n_carried(self) -> int:
        """How many launches at the beginning of the plan stand for what ran before a loss."""
        return 0 if self.carried is None else len(self.carried.tasks)

    def leave_out(self, cluster: Cluster, lost: Mapping[str, str]) -> None:
        """Refuse lost devices from now on; `cluster` is what is left, with the same devices."""
        self.cluster, self.lost = cluster, lost

    def begin_again(self, carried: Carried, stocks: Mapping[int, Stock]) -> None:
        """Forget the plan; go on with what a loss has left, and with the weights in `stocks`."""
        self.carried, self._graph = carried, None
        self.plan, self.program = Plan(tuple(carried.launches(self.cluster))), None
        self.layout.begin_again(self.tasks, carried.rows)
        self._ledger = Ledger(self.cluster, self._cells, stocks)

    @property
    def is_planned(self) -> bool:
        """Whether every task that is known is in the plan."""
        return sum(len(launch.tasks) for launch in self.plan.launches) == len(self.tasks)

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
        if self.lost:
            self._refuse_lost(launches)
        is_first = not self.plan and not self.lost
        plans = self._plans if is_first else None
        kept = plans.find(self.tasks, launches) if plans is not None else None
        if kept is not None:
            self.layout.restore(kept.places)
            self.plan, self.program = kept.plan, kept.program
            return list(kept.segments)
        new = self._lowered_too(launches)
        if plans is not None and self.program is not None:
            places = self.layout.places()
            kept = Kept(tuple(launches), self.plan, self.program, places, new)
            plans.keep(self.tasks, kept)
        return new

    def _lowered_too(self, launches: Sequence[Launch]) -> list[Segment]:
        """Lower the plan with `launches` and return what is new."""
        plan = self.plan + launches
        program = lower_quickly(self._executed_graph(), self.cluster, plan)
        copies_before = 0 if self.program is None else self.program.n_copies
        new = segments(
            self.tasks, program, self.layout, self._ledger, len(self.plan), copies_before
        )
        self.plan, self.program = plan, program
        return new

    def _refuse_lost(self, launches: Sequence[Launch]) -> None:
        for number, launch in enumerate(launches, len(self.plan)):
            if launch.device in self.lost:
                raise PlanError(
                    f"launch {number} on {launch.device}: this device was lost"
                    f" ({self.lost[launch.device]}); place its tasks on another one"
                )

    def _executed_graph(self) -> TaskGraph:
        """Return the graph with every revealing task returning to the host.

        What a task will reveal is not in the graph yet, but its output has to come to the host.
        """
        revealing = self.tasks.where(reveals=True)
        if self.carried is not None:
            revealing = np.setdiff1d(revealing, self.carried.seen)
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
        program, host = self.lowered(), self.cluster.host_index
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
        return Ran(
            self.whole_graph() if self.carried else self.graph,
            self.cluster,
            self.plan,
            self.lowered(),
            origin_ns,
            known_ns,
            self.n_carried,
        )

    def lowered(self) -> Program:
        """Return the program of the plan."""
        assert self.program is not None, "nothing has been planned"
        return self.program
