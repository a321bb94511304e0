"""Programs: a plan lowered once to integers, which every engine interprets.

Each device has a list of (opcode, operand) pairs:

    WAIT c     go on when transfer c has arrived here
    RUN l      run launch l
    RECORD l   the outputs of launch l are complete
    COPY c     push transfer c as soon as its gates are known; does not wait for it

A launch on device d becomes WAIT… RUN RECORD COPY…; the host device's program starts with the
COPYs of inputs that come from the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dynpartition.cluster import Cluster
from dynpartition.errors import PlanError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan, check_plan
from dynpartition.types import IntArray, Ragged, frozen

WAIT, RUN, RECORD, COPY = range(4)
"""Opcodes."""


@dataclass(frozen=True, eq=False)
class Program:
    """A lowered plan: L launches, C transfers, D devices.

    A transfer is *late* when its first reader is revealed, or arrives, after its producer. Launch
    and transfer numbers of a plan stay the same when launches of such readers are appended to it.
    """

    launch_device: IntArray
    """(L,) device index."""
    launch_tasks: Ragged
    """L rows of task indices."""
    launch_gates: Ragged
    """L rows of revealers that must be known before the launch is dispatched."""
    launch_cell: IntArray
    """(L,) cell index."""
    launch_arrival_ns: IntArray
    """(L,) no dispatch before all of the launch has arrived."""
    launch_waits: Ragged
    """L rows of transfers that must have arrived before the launch starts."""
    launch_copies: Ragged
    """L rows of transfers pushed when the launch ends, late ones included."""
    copy_launch: IntArray
    """(C,) the producing launch; for host inputs the launch that reads them."""
    copy_is_input: IntArray
    """(C,) 1 for inputs that come from the host device."""
    copy_src: IntArray
    """(C,) device index."""
    copy_dst: IntArray
    """(C,) device index."""
    copy_link: IntArray
    """(C,) link index."""
    copy_bytes: IntArray
    """(C,) sum of the bytes of its tasks."""
    copy_tasks: Ragged
    """C rows: tasks whose outputs travel; for host inputs the tasks that read them."""
    copy_gates: Ragged
    """C rows of revealers that must be known before the push (late transfers, host inputs)."""
    copy_due_ns: IntArray
    """(C,) no push before this time: the reader has not arrived (late transfers, host inputs)."""
    code: tuple[IntArray, ...]
    """Per device int64 (n, 2): (opcode, operand) pairs."""

    @property
    def n_launches(self) -> int:
        """Number of launches, L."""
        return len(self.launch_device)

    @property
    def n_copies(self) -> int:
        """Number of transfers, C."""
        return len(self.copy_launch)

    def is_prompt(self, copy: int) -> bool:
        """Whether the transfer is an output that has a known reader when its launch is planned."""
        late = self.copy_gates.rows[copy] or self.copy_due_ns[copy]
        return not (late or self.copy_is_input[copy])

    @cached_property
    def launch_of(self) -> dict[int, int]:
        """Task → its launch."""
        return {task: c for c, tasks in enumerate(self.launch_tasks.rows) for task in tasks}

    @cached_property
    def lists(self) -> ProgramLists:
        """The program for interpreters written in Python."""
        keys = (self.copy_launch, self.copy_dst, self.copy_is_input)
        return ProgramLists(
            code=tuple([_without_records(rows) for rows in self.code]),
            launch_device=self.launch_device.tolist(),
            launch_arrival_ns=self.launch_arrival_ns.tolist(),
            copy_key=list(zip(*[column.tolist() for column in keys], strict=True)),
            copy_link=self.copy_link.tolist(),
            copy_bytes=self.copy_bytes.tolist(),
            copy_due_ns=self.copy_due_ns.tolist(),
            held_launches=_held(self.launch_gates, self.launch_arrival_ns),
            held_copies=_held(self.copy_gates, self.copy_due_ns),
        )

    def segment(self, launches_before: int, copies_before: int) -> tuple[IntArray, ...]:
        """Return per device the code that a shorter plan's program did not have.

        Late transfers of launches that are already under way come first.
        """
        if not launches_before:
            return self.code
        return tuple(
            _code_since(rows, launches_before, copies_before, self.copy_launch)
            for rows in self.code
        )


@dataclass(frozen=True, slots=True)
class ProgramLists:
    """A program as Python objects, which an interpreter in Python reads faster than arrays."""

    code: tuple[tuple[tuple[int, int], ...], ...]
    """Per device the (opcode, operand) pairs, without RECORDs: nothing in them takes time."""
    launch_device: list[int]
    launch_arrival_ns: list[int]
    copy_key: list[tuple[int, int, int]]
    """(launch, destination, 1 for a host input): the same for copies that may travel together."""
    copy_link: list[int]
    copy_bytes: list[int]
    copy_due_ns: list[int]
    held_launches: frozenset[int]
    """Launches that may have to arrive or to become known."""
    held_copies: frozenset[int]
    """Copies whose reader may have to arrive or to become known."""


def lower(graph: TaskGraph, cluster: Cluster, plan: Plan, *, complete: bool = True) -> Program:
    """Lower `plan` to the programs of its devices.

    Raises PlanError for an illegal plan and for a transfer without a link.
    """
    check_plan(graph, cluster, plan, complete=complete)
    return _Lowering(graph, cluster, plan).program()


_Due = tuple[tuple[int, ...], int]
"""Revealers that must be known, ascending, and the arrival in ns."""


def _beyond(due: _Due, producer: _Due) -> _Due:
    """Return what a reader still waits for when the producing launch may run."""
    passed = frozenset(producer[0])  # deep in a run hundreds of values have been revealed
    gates = tuple([gate for gate in due[0] if gate not in passed])
    return gates, due[1] if due[1] > producer[1] else 0


@dataclass(slots=True)
class _Copy:
    launch: int
    is_input: bool
    src: int
    dst: int
    link: int
    tasks: list[int]
    gates: tuple[int, ...] = ()
    due_ns: int = 0


@dataclass(slots=True)
class _Step:
    device: int
    tasks: tuple[int, ...]
    gates: tuple[int, ...]
    arrival_ns: int
    waits: list[int] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)


class _Lowering:
    """Walks a plan once and collects its launches and transfers."""

    def __init__(self, graph: TaskGraph, cluster: Cluster, plan: Plan) -> None:
        self.graph = graph
        self.cluster = cluster
        self.steps: list[_Step] = []
        self.copies: list[_Copy] = []
        self.launch_of: dict[int, int] = {}
        self.copy_of: dict[tuple[int, int], int] = {}  # (task, destination) → transfer
        self.group_of: dict[tuple[int, int, tuple[int, ...], int], int] = {}
        self.host = cluster.host_index
        self.fed = set(np.flatnonzero(graph.host_bytes).tolist())
        self.host_needs = {*np.flatnonzero(graph.returns).tolist(), *graph.revealers}
        placed = [(cluster.index(launch.device), launch.tasks) for launch in plan.launches]
        self.due_of = self._first_due(placed)
        for device, tasks in placed:
            self._add_launch(device, tasks)

    def _due(self, tasks: tuple[int, ...]) -> _Due:
        """Return what a launch of `tasks` waits for besides its inputs."""
        if len(tasks) == 1:
            return self.graph.gates[tasks[0]], self.graph.available_ns[tasks[0]]
        gates = _joined(self.graph.gates, tasks)
        arrival_ns = max([self.graph.available_ns[task] for task in tasks])
        return tuple(sorted(gates)), arrival_ns

    def _first_due(
        self, placed: Sequence[tuple[int, tuple[int, ...]]]
    ) -> dict[tuple[int, int], _Due]:
        """Return (task, other device) → what the reader there that is known soonest waits for.

        Besides what the producer waits for. The first reader in plan order, unless a later one is
        known and arrives no later for sure: what a plan file hides in front of it cannot delay it.
        """
        due_of: dict[tuple[int, int], _Due] = {}
        if not self.graph.revealers and not any(self.graph.available_ns):
            return due_of  # every launch is known from the start
        made: dict[int, tuple[int, _Due]] = {}  # task → device, and what its launch waits for
        for device, tasks in placed:
            own = self._due(tasks)
            made.update(dict.fromkeys(tasks, (device, own)))
            for source in _joined(self.graph.input_lists, tasks):
                place, producer = made[source]
                if place == device:
                    continue  # nothing travels
                due = _beyond(own, producer)
                gates, arrival_ns = due_of.setdefault((source, device), due)
                if set(due[0]) <= set(gates) and due[1] <= arrival_ns:
                    due_of[source, device] = due
        return due_of

    def _add_launch(self, device: int, tasks: tuple[int, ...]) -> None:
        step = _Step(device, tasks, *self._due(tasks))
        number = len(self.steps)
        self.steps.append(step)
        self.launch_of.update(dict.fromkeys(tasks, number))
        needed = _joined(self.graph.input_lists, tasks)
        waits = [self._delivery(source, device, step) for source in needed]
        step.waits.extend(dict.fromkeys([copy for copy in waits if copy >= 0]))
        if device != self.host:
            self._add_host_input(number, step)
            self._add_answers(step)

    def _add_host_input(self, number: int, step: _Step) -> None:
        fed = [task for task in step.tasks if task in self.fed]
        if fed:
            link = self._link(self.host, step.device, "input", fed[0])
            step.waits.append(len(self.copies))
            due = (step.gates, step.arrival_ns)
            self.copies.append(_Copy(number, True, self.host, step.device, link, fed, *due))

    def _add_answers(self, step: _Step) -> None:
        """Send results that the host needs: answers, and values that reveal tasks."""
        for task in step.tasks:
            if task in self.host_needs:
                self._delivery(task, self.host, step)

    def _delivery(self, task: int, dst: int, reader: _Step) -> int:
        """Return the transfer that brings `task`'s output to `dst`; -1 when it is made there."""
        producer = self.steps[self.launch_of[task]]
        if producer.device == dst:
            return -1
        if (task, dst) not in self.copy_of:
            at_once: _Due = ((), 0)
            due = at_once if reader is producer else self.due_of.get((task, dst), at_once)
            number = self._group(task, dst, *due)
            self.copies[number].tasks.append(task)
            self.copy_of[task, dst] = number
        return self.copy_of[task, dst]

    def _group(self, task: int, dst: int, gates: tuple[int, ...], due_ns: int) -> int:
        launch = self.launch_of[task]
        key = (launch, dst, gates, due_ns)
        if key not in self.group_of:
            src = self.steps[launch].device
            link = self._link(src, dst, "output", task)
            self.group_of[key] = len(self.copies)
            self.steps[launch].copies.append(len(self.copies))
            self.copies.append(_Copy(launch, False, src, dst, link, [], gates, due_ns))
        return self.group_of[key]

    def _link(self, src: int, dst: int, what: str, task: int) -> int:
        link = self.cluster.link_index(src, dst)
        if link < 0:
            names = self.cluster.names
            raise PlanError(
                f"the {what} of {self.graph.label(task)} must travel from {names[src]} to"
                f" {names[dst]}, but the profile has no such link; add the link or place the tasks"
                " on one device"
            )
        return link

    def program(self) -> Program:
        copies, steps = self.copies, self.steps
        return Program(
            launch_device=frozen([step.device for step in steps]),
            launch_tasks=Ragged.of([step.tasks for step in steps]),
            launch_gates=Ragged.of([step.gates for step in steps]),
            launch_cell=frozen([self.graph.cell_of[step.tasks[0]] for step in steps]),
            launch_arrival_ns=frozen([step.arrival_ns for step in steps]),
            launch_waits=Ragged.of([step.waits for step in steps]),
            launch_copies=Ragged.of([step.copies for step in steps]),
            copy_launch=frozen([copy.launch for copy in copies]),
            copy_is_input=frozen([copy.is_input for copy in copies]),
            copy_src=frozen([copy.src for copy in copies]),
            copy_dst=frozen([copy.dst for copy in copies]),
            copy_link=frozen([copy.link for copy in copies]),
            copy_bytes=frozen(self._bytes()),
            copy_tasks=Ragged.of([sorted(copy.tasks) for copy in copies]),
            copy_gates=Ragged.of([copy.gates for copy in copies]),
            copy_due_ns=frozen([copy.due_ns for copy in copies]),
            code=tuple(self._code(device) for device in range(len(self.cluster.devices))),
        )

    def _bytes(self) -> list[int]:
        fed: list[int] = self.graph.host_bytes.tolist()
        made: list[int] = self.graph.output_bytes.tolist()
        sizes = [(fed if copy.is_input else made, copy.tasks) for copy in self.copies]
        return [sum([size[task] for task in tasks]) for size, tasks in sizes]

    def _code(self, device: int) -> IntArray:
        inputs = enumerate(self.copies) if device == self.host else ()
        pairs = [(COPY, number) for number, copy in inputs if copy.is_input]
        for number, step in enumerate(self.steps):
            if step.device == device:
                pairs += [(WAIT, copy) for copy in step.waits]
                pairs += [(RUN, number), (RECORD, number)]
                pairs += [(COPY, copy) for copy in self._by_destination(step.copies)]
        return frozen(np.array(pairs, dtype=np.int64).reshape(-1, 2))

    def _by_destination(self, copies: list[int]) -> list[int]:
        if len(copies) < 2:
            return copies
        return sorted(copies, key=lambda copy: (self.copies[copy].dst, copy))


def _joined(rows: Sequence[tuple[int, ...]], tasks: tuple[int, ...]) -> Iterable[int]:
    """Return what stands in the rows of `tasks`, once each, in order."""
    if len(tasks) == 1:
        return dict.fromkeys(rows[tasks[0]])
    return dict.fromkeys([value for task in tasks for value in rows[task]])


def _without_records(rows: IntArray) -> tuple[tuple[int, int], ...]:
    return tuple([(opcode, operand) for opcode, operand in rows.tolist() if opcode != RECORD])


def _held(gates: Ragged, from_ns: IntArray) -> frozenset[int]:
    """Return the numbers of those that have gates or a time before which they may not go."""
    return frozenset(np.flatnonzero((np.diff(gates.start) > 0) | (from_ns > 0)).tolist())


def _code_since(
    rows: IntArray, launches_before: int, copies_before: int, copy_launch: IntArray
) -> IntArray:
    late, fresh = [], []
    current = -1  # the launch that the row belongs to; WAITs precede its RUN
    for opcode, operand in reversed(rows.tolist()):
        if opcode in (RUN, RECORD):
            current = operand
        launch = int(copy_launch[operand]) if opcode == COPY else current
        if opcode == COPY and operand >= copies_before and launch < launches_before:
            late.append((opcode, operand))
        elif launch >= launches_before:
            fresh.append((opcode, operand))
    return frozen(np.array(late[::-1] + fresh[::-1], dtype=np.int64).reshape(-1, 2))
