"""What the validator looks up: one trace and what the plan says about it, indexed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from dynpartition.cluster import Link
from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import Profile
from dynpartition.trace import DispatchSpan, LaunchSpan, LoadSpan, Trace, TransferSpan

Span = LaunchSpan | TransferSpan | LoadSpan | DispatchSpan
Moved = TransferSpan | LoadSpan
"""What a link carries."""


class Case:
    """One trace and its plan; tasks and devices are known, the plan is legal."""

    def __init__(
        self,
        graph: TaskGraph,
        profile: Profile,
        plan: Plan,
        trace: Trace,
        *,
        tolerance_ns: int = 0,
        conditions: Conditions = GOOD_DAY,
    ) -> None:
        self.graph = graph
        self.profile = profile
        self.cluster = profile.cluster
        self.host = profile.cluster.host
        self.plan = plan
        self.trace = trace
        self.tolerance_ns = tolerance_ns
        self.conditions = conditions
        self.number_of = {launch.tasks: i for i, launch in enumerate(plan.launches)}
        self.launch_of = {task: i for i, row in enumerate(plan.launches) for task in row.tasks}
        self.device_of = plan.placement()
        self.span_of: dict[int, LaunchSpan] = {}
        for span in trace.launches:
            if span.tasks in self.number_of:
                self.span_of.setdefault(self.number_of[span.tasks], span)

    def label(self, number: int) -> str:
        """Return how messages name a planned launch."""
        launch = self.plan.launches[number]
        return f"launch {number} ({_names(self.graph, launch.tasks)} on {launch.device})"

    def early(self, time_ns: int, bound_ns: int) -> bool:
        """Return whether `time_ns` lies before `bound_ns` by more than the tolerance."""
        return time_ns < bound_ns - self.tolerance_ns

    @cached_property
    def spans(self) -> list[tuple[int, LaunchSpan]]:
        """Plan number and span of every planned launch that the trace has, in plan order."""
        return sorted(self.span_of.items())

    @cached_property
    def before(self) -> dict[int, int]:
        """Planned launch → the one before it on its device, where there is one."""
        last: dict[str, int] = {}
        before: dict[int, int] = {}
        for number, launch in enumerate(self.plan.launches):
            if launch.device in last:
                before[number] = last[launch.device]
            last[launch.device] = number
        return before

    @cached_property
    def runs_of(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """(device, cell) → (start, planned number) of its launches there, ascending."""
        runs: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for number, span in self.spans:
            cell = self.graph.cell_name(span.tasks[0])
            runs.setdefault((span.device, cell), []).append((span.start_ns, number))
        return {key: sorted(row) for key, row in runs.items()}

    @cached_property
    def gates(self) -> list[frozenset[int]]:
        """Planned launch → revealers that must be known before it."""
        rows = self.graph.gates
        return [frozenset(g for t in row.tasks for g in rows[t]) for row in self.plan.launches]

    @cached_property
    def arrived_ns(self) -> list[int]:
        """Planned launch → when all its tasks have arrived, with what they read or wait for."""
        available_ns = self.graph.available_ns
        return [max(available_ns[task] for task in row.tasks) for row in self.plan.launches]

    @cached_property
    def moved(self) -> tuple[Moved, ...]:
        """Everything that travels over links."""
        return (*self.trace.transfers, *self.trace.loads)

    @property
    def on_links(self) -> tuple[Moved, ...]:
        """What holds the resources of its link, and the devices that the link blocks.

        On a real machine loads do not: a device fetches its weights itself, from shared memory.
        """
        return self.trace.transfers if self.tolerance_ns else self.moved

    @cached_property
    def known_ns(self) -> dict[int, int]:
        """Revealer → when its result was known."""
        return {reveal.task: reveal.known_ns for reveal in self.trace.reveals}

    @cached_property
    def asked_by(self) -> dict[tuple[int, str], int]:
        """(task, other device that needs its output) → the launch that asks for it first.

        In plan order, but for launches further behind that are known and arrive no later for sure.
        The host asks for answers and for values that reveal tasks with the launch itself.
        """
        asked: dict[tuple[int, str], int] = {}
        revealers = set(self.graph.revealers)
        for number, launch in enumerate(self.plan.launches):
            for task in launch.tasks:
                for source in self.graph.input_lists[task]:
                    before = asked.setdefault((source, launch.device), number)
                    made = self.launch_of[source]
                    is_known = self.gates[number] <= self.gates[before] | self.gates[made]
                    arrived_ns = max(self.arrived_ns[before], self.arrived_ns[made])
                    if is_known and self.arrived_ns[number] <= arrived_ns:
                        asked[source, launch.device] = number
                if self.graph.returns[task] or task in revealers:
                    asked[task, self.host] = number
        return {key: number for key, number in asked.items() if self.device_of[key[0]] != key[1]}

    @cached_property
    def fed_from(self) -> dict[tuple[int, str], int]:
        """(task that needs a host input, its device) → its launch."""
        fed = [task for task in range(len(self.graph)) if self.graph.host_bytes[task] > 0]
        placed = [(task, self.device_of[task]) for task in fed]
        return {key: self.launch_of[key[0]] for key in placed if key[1] != self.host}

    @cached_property
    def deliveries(self) -> dict[tuple[int, str], list[TransferSpan]]:
        """(task, destination) → the transfers that bring its output there."""
        return _by_task_and_destination(self.trace.transfers, host_input=False)

    @cached_property
    def feeds(self) -> dict[tuple[int, str], list[TransferSpan]]:
        """(task, destination) → the transfers that bring its host input there."""
        return _by_task_and_destination(self.trace.transfers, host_input=True)

    def link(self, span: Moved) -> Link | None:
        """Return the link that a transfer or a load used; None when there is none."""
        ends = (self.host, span.device) if isinstance(span, LoadSpan) else (span.src, span.dst)
        index = self.cluster.link_index(*(self.cluster.index(end) for end in ends))
        return None if index < 0 else self.cluster.links[index]

    def late_gates(self, task: int, dst: str) -> frozenset[int]:
        """Return the gates of the asking launch that the producer's launch does not have."""
        return self.gates[self.asked_by[task, dst]] - self.gates[self.launch_of[task]]

    def late_arrival_ns(self, task: int, dst: str) -> int:
        """Return when the asking launch arrives if the producer's launch was there before; or 0."""
        asked_ns = self.arrived_ns[self.asked_by[task, dst]]
        return asked_ns if asked_ns > self.arrived_ns[self.launch_of[task]] else 0

    def is_late(self, task: int, dst: str) -> bool:
        """Return whether the output gains its first reader there after its launch was planned."""
        return bool(self.late_gates(task, dst) or self.late_arrival_ns(task, dst))


Check = Callable[[Case], Iterator[str]]
"""Yields a message per violation of one rule."""


def _by_task_and_destination(
    transfers: Iterable[TransferSpan], *, host_input: bool
) -> dict[tuple[int, str], list[TransferSpan]]:
    table: dict[tuple[int, str], list[TransferSpan]] = {}
    for span in transfers:
        if span.host_input is host_input:
            for task in span.tasks:
                table.setdefault((task, span.dst), []).append(span)
    return table


def _names(graph: TaskGraph, tasks: Sequence[int]) -> str:
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return f"{graph.label(tasks[0])}{more}"


def label(case: Case, span: Span) -> str:
    """Return how messages name a span."""
    if isinstance(span, LoadSpan):
        return f"load of {span.cell} to {span.device}"
    names = _names(case.graph, span.tasks)
    if isinstance(span, TransferSpan):
        what = "host input" if span.host_input else "transfer"
        return f"{what} of {names} {span.src}->{span.dst}"
    what = "dispatch" if isinstance(span, DispatchSpan) else "launch"
    return f"{what} of {names} on {span.device}"
