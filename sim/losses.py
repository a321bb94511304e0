"""Lost devices: what is left of a run, as a new world that goes on from there.

What a device lost takes with it is decided from the trace so far. The rest becomes a graph of the
same tasks in which those that need not run again are *carried*: they cost nothing, stand on the
device that holds their output and have no inputs. How they stand there, at once and without host
work, only the reference engine knows: losses are too rare to need a faster one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynpartition.buffers import groups_of
from dynpartition.conditions import Conditions, Loss
from dynpartition.errors import DeviceLost, ProfileError
from dynpartition.graph import CARRIED, TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile, without_device
from dynpartition.program import lower
from dynpartition.sim.reference import Machine
from dynpartition.trace import LaunchSpan, Reveal, Trace
from dynpartition.types import IntArray, Ragged, frozen


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left to do after a loss. Task numbers are those of the graph before."""

    graph: TaskGraph
    profile: Profile
    carried: Plan
    """The launches of the tasks that are not to be placed again, where their outputs are."""
    under_way_ns: Mapping[int, int]
    """First task of a carried launch that was under way → how long that still takes."""
    copies: Mapping[int, tuple[str, ...]]
    """Carried task → other devices that hold its output."""
    kept: tuple[LaunchSpan, ...]
    """Launches, without the tasks that run again, that ended or were under way elsewhere."""
    wasted: tuple[LaunchSpan, ...]
    """Launches, with the tasks that run again, as far as they came."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A run as far as it is planned, with all that is planned but would come after the loss."""

    original: TaskGraph
    """All tasks as they were before any loss."""
    graph: TaskGraph
    """The same, with what earlier losses have carried."""
    profile: Profile
    plan: Plan
    trace: Trace
    shown: frozenset[int]
    """Tasks seen by then: those in the plan, and those shown at this very instant."""
    known: frozenset[int]
    """Revealers whose value is known by then."""
    lost: frozenset[str]
    """Devices lost before."""
    conditions: Conditions
    """With what earlier losses left under way."""


def after_loss(leg: Leg, loss: Loss) -> Rest:
    """Return what is left when `loss` cuts off a leg.

    Raises DeviceLost when the host is lost, or a device that alone can run what is left.
    """
    if loss.device == leg.profile.cluster.host:
        raise DeviceLost(
            f"{loss.device} is the host and was lost at {loss.at_ns} ns; nothing can go on"
        )
    rest = _Cut(leg, loss, _resident_then(leg, loss)).rest()
    try:
        PricedGraph(rest.graph, rest.profile)
    except ProfileError as error:
        raise DeviceLost(f"{loss.device} was lost at {loss.at_ns} ns, and now {error}") from error
    return rest


def _resident_then(leg: Leg, loss: Loss) -> list[tuple[str, ...] | None]:
    """Return per device the names of the cells that it holds at the loss; None: all."""
    if not any(device.tracks_memory for device in leg.profile.cluster.devices):
        return [None] * len(leg.profile.cluster.devices)
    # The reference can stop midway.
    program = lower(leg.graph, leg.profile.cluster, leg.plan, complete=False)
    priced = PricedGraph(leg.graph, leg.profile)
    machine = Machine(priced, program, price(program, priced, leg.conditions))
    machine.run_until(loss.at_ns)
    held = [machine.resident(device) for device in range(len(priced.cluster.devices))]
    names = leg.graph.cell_names
    return [None if cells is None else tuple(names[cell] for cell in cells) for cells in held]


class _Cut:
    """The state of a run at the time of a loss."""

    def __init__(self, leg: Leg, loss: Loss, resident: list[tuple[str, ...] | None]) -> None:
        self.leg = leg
        self.graph = leg.original
        self.profile = leg.profile
        self.host = leg.profile.cluster.host
        self.loss = loss
        self.resident = resident
        self.shown = leg.shown
        self.trace = trace = leg.trace
        self.device_of = leg.plan.placement()
        self.span_of = {task: span for span in trace.launches for task in span.tasks}
        self.delivered = self._deliveries()
        self.known = leg.known
        self.open = self._open_groups()
        self.holders = {task: list(self._holders(task)) for task in self.span_of}
        self.again = self._tasks_to_run_again()

    def _deliveries(self) -> dict[tuple[int, str], int]:
        """Return (task, destination) → when its output is there."""
        copies = self.leg.conditions.copies
        there_before = {(task, dst): 0 for task, names in copies.items() for dst in names}
        return there_before | {
            (task, span.dst): span.end_ns
            for span in self.trace.transfers
            if not span.host_input
            for task in span.tasks
        }

    def _open_groups(self) -> list[bool]:
        """Return per task whether outputs of its request may still gain readers."""
        groups, at_ns = groups_of(self.graph), self.loss.at_ns
        is_open = [False] * (max(groups) + 1)
        for task in set(self.graph.revealers) - self.known:
            is_open[groups[task]] = True
        for task, available_ns in enumerate(self.graph.available_ns):
            is_open[groups[task]] |= available_ns > at_ns
        return [is_open[group] for group in groups]

    def _ended(self, task: int) -> bool:
        return task in self.span_of and self.span_of[task].end_ns <= self.loss.at_ns

    def _goes_on(self, task: int) -> bool:
        """Return whether the launch of a task is under way on a device that is left."""
        span = self.span_of.get(task)
        return (
            span is not None
            and span.device != self.loss.device
            and self._has_begun(span)
            and span.end_ns > self.loss.at_ns
        )

    def _has_begun(self, span: LaunchSpan) -> bool:
        """Return whether a launch was under way before; not one that would start at the loss."""
        went_on = span.tasks[0] in self.leg.conditions.under_way_ns  # from an earlier loss
        return span.start_ns < self.loss.at_ns or went_on

    def _holders(self, task: int) -> Iterator[str]:
        """Yield the devices that hold the output of an ended task, the one that made it first."""
        if not self._ended(task):
            return
        home, at_ns = self.device_of[task], self.loss.at_ns
        there = [dst for (t, dst), ns in self.delivered.items() if t == task and ns <= at_ns]
        for device in (home, *sorted(there, key=self.profile.cluster.index)):
            if self.open[task] or self._is_needed_on(task, device):
                yield device

    def _is_needed_on(self, task: int, device: str) -> bool:
        """Return whether a planned reader, or a transfer from here, had not ended by then."""
        readers = [r for r in self.graph.reader_lists[task] if r in self.shown]
        if any(self._reads_on(reader, device) for reader in readers):
            return True
        return device == self.device_of[task] and any(
            self.delivered.get((task, dst), self.loss.at_ns + 1) > self.loss.at_ns
            for dst in self._destinations(task, readers)
        )

    def _reads_on(self, reader: int, device: str) -> bool:
        """Return whether a reader that has not ended may read on `device`; unplaced ones may."""
        return not self._ended(reader) and self.device_of.get(reader, device) == device

    def _destinations(self, task: int, readers: Sequence[int]) -> set[str]:
        waiting = [r for r in readers if r in self.device_of and not self._ended(r)]
        wanted = {self.device_of[reader] for reader in waiting}
        if self.leg.graph.returns[task] or task in set(self.graph.revealers) - self.known:
            wanted.add(self.host)
        return wanted - {self.device_of[task]}

    def _survivors(self, task: int) -> list[str]:
        return [device for device in self.holders.get(task, []) if device != self.loss.device]

    def _tasks_to_run_again(self) -> set[int]:
        """Return the tasks that must be placed: not done, gone, or needed by such and gone."""
        left = [t for t in sorted(self.shown) if not (self._ended(t) or self._goes_on(t))]
        gone = [t for t, held in self.holders.items() if held and not self._survivors(t)]
        again: set[int] = set()
        waiting = [*left, *gone]
        while waiting:
            task = waiting.pop()
            if task not in again:
                again.add(task)
                inputs = self.graph.input_lists[task]
                waiting += [s for s in inputs if not (self._survivors(s) or self._goes_on(s))]
        return again

    def rest(self) -> Rest:
        """Return what is left to do."""
        done = [t for t in self.span_of if not (t in self.again or self._goes_on(t))]
        done.sort(key=lambda task: self.span_of[task].end_ns)
        under_way = [span for span in self.trace.launches if self._goes_on(span.tasks[0])]
        places = {task: self._place(task) for task in done}
        launches = [Launch(places[task], (task,)) for task in done]
        launches += [Launch(span.device, span.tasks) for span in under_way]
        places |= {task: span.device for span in under_way for task in span.tasks}
        copies = {task: tuple(self._survivors(task)[1:]) for task in done}
        return Rest(
            graph=self._graph(places),
            profile=without_device(self.profile, self.loss.device, self.resident),
            carried=Plan(tuple(launches)),
            under_way_ns={span.tasks[0]: span.end_ns - self.loss.at_ns for span in under_way},
            copies={task: names for task, names in copies.items() if names},
            kept=tuple(self._parts(lambda task: task not in self.again)),
            wasted=tuple(self._wasted()),
        )

    def _place(self, task: int) -> str:
        return next(iter(self._survivors(task)), self.host)  # or gone, and nobody needs it

    def _parts(self, belongs: Callable[[int], bool]) -> Iterator[LaunchSpan]:
        for span in self.trace.launches:
            tasks = tuple(task for task in span.tasks if belongs(task))
            if tasks:
                yield replace(span, tasks=tasks)

    def _wasted(self) -> Iterator[LaunchSpan]:
        for span in self._parts(lambda task: task in self.again):
            if self._has_begun(span) or span.end_ns <= self.loss.at_ns:
                yield replace(span, end_ns=min(span.end_ns, self.loss.at_ns))

    def _graph(self, places: Mapping[int, str]) -> TaskGraph:
        graph, n_tasks = self.graph, len(self.graph)
        is_carried = np.zeros(n_tasks, dtype=bool)
        is_carried[list(places)] = True
        is_done = is_carried & ~np.array([self._goes_on(task) for task in range(n_tasks)])
        cells = graph.cells if CARRIED in graph.cells else (*graph.cells, CARRIED)
        has_output = [bool(self._survivors(t)) or self._goes_on(t) for t in range(n_tasks)]
        revealed_by = [-1 if r in self.known else r for r in graph.revealed_by.tolist()]
        return replace(
            graph,
            cells=cells,
            cell_of=frozen(np.where(is_done, cells.index(CARRIED), graph.cell_of)),
            inputs=Ragged.of([[] if t in places else r for t, r in enumerate(graph.input_lists)]),
            output_bytes=frozen(
                np.where(is_carried & ~np.array(has_output), 0, graph.output_bytes)
            ),
            host_bytes=frozen(np.where(is_carried, 0, graph.host_bytes)),
            arrival_ns=frozen(np.maximum(graph.arrival_ns, self.loss.at_ns)),
            revealed_by=frozen([-1 if t in places else r for t, r in enumerate(revealed_by)]),
            returns=frozen([self._must_return(task) for task in range(n_tasks)]),
            durations=self._durations(places),
        )

    def _must_return(self, task: int) -> bool:
        """Return whether a task has not been answered, in this leg or one before."""
        delivered_ns = self.delivered.get((task, self.host), self.loss.at_ns + 1)
        at_host = self._ended(task) and self.device_of[task] == self.host
        answered = at_host or delivered_ns <= self.loss.at_ns
        return bool(self.leg.graph.returns[task]) and not answered

    def _durations(self, places: Mapping[int, str]) -> dict[str, IntArray]:
        """Return the tasks' own costs: none for carried ones, and nowhere on the lost device."""
        rows = {}
        for device in self.profile.cluster.names:
            own = self.graph.durations.get(device)
            row = np.full(len(self.graph), -1) if own is None else own.copy()
            if device in {self.loss.device, *self.leg.lost}:
                row[:] = -1
            for task, place in places.items():
                row[task] = 0 if place == device else -1
            if (row >= 0).any():
                rows[device] = frozen(row)
        return rows


class History:
    """What happened before the losses of a run."""

    def __init__(self) -> None:
        self.kept: dict[int, LaunchSpan] = {}
        """Carried task → the launch that made it, in plan order."""
        self.past = Trace(0, ())
        """Everything else that is over."""

    def add(self, rest: Rest, trace: Trace, at_ns: int) -> None:
        """Take in the leg that a loss at `at_ns` has cut off."""
        past = self.past
        self.past = Trace(
            makespan_ns=0,
            launches=(),
            transfers=(*past.transfers, *(s for s in trace.transfers if s.end_ns <= at_ns)),
            dispatches=(*past.dispatches, *(s for s in trace.dispatches if s.end_ns <= at_ns)),
            reveals=(*past.reveals, *(r for r in self._reveals(trace) if r.known_ns <= at_ns)),
            loads=(*past.loads, *(s for s in trace.loads if s.end_ns <= at_ns)),
            wasted=(*past.wasted, *self._wasted(rest)),
        )
        self.kept = {task: self.kept.get(task, span) for span in rest.kept for task in span.tasks}

    def _wasted(self, rest: Rest) -> Iterator[LaunchSpan]:
        """Yield the launches that really ran, where what they made was carried so far."""
        tasks = [task for span in rest.wasted for task in span.tasks]
        for span in _launches_of({task: self.kept[task] for task in tasks if task in self.kept}):
            end_ns = {t: wasted.end_ns for wasted in rest.wasted for t in wasted.tasks}
            yield replace(span, end_ns=min(span.end_ns, end_ns[span.tasks[0]]))
        for span in rest.wasted:
            fresh = tuple(task for task in span.tasks if task not in self.kept)
            if fresh:
                yield replace(span, tasks=fresh)

    def _reveals(self, trace: Trace) -> Iterator[Reveal]:
        """Yield the reveals of a leg, with the end of the launch that really ran."""
        for reveal in trace.reveals:
            span = self.kept.get(reveal.task)
            yield replace(reveal, end_ns=span.end_ns) if span else reveal

    def whole(self, last: Trace, end_ns: int, first_arrival_ns: int) -> tuple[Plan, Trace]:
        """Return the plan and trace of the whole run, given its last leg and when that ended."""
        old = sorted(_launches_of(self.kept), key=lambda span: span.start_ns)
        new = [span for span in last.launches if span.tasks[0] not in self.kept]
        launches, past = (*old, *new), self.past
        trace = Trace(
            makespan_ns=max([end_ns, *(span.end_ns for span in old)]) - first_arrival_ns,
            launches=launches,
            transfers=(*past.transfers, *last.transfers),
            dispatches=(*past.dispatches, *last.dispatches),
            reveals=(*past.reveals, *self._reveals(last)),
            loads=(*past.loads, *last.loads),
            wasted=past.wasted,
        )
        return Plan(tuple(Launch(span.device, span.tasks) for span in launches)), trace


def _launches_of(kept: Mapping[int, LaunchSpan]) -> Iterator[LaunchSpan]:
    """Yield the launches of tasks, without the tasks that are not asked for."""
    for span in dict.fromkeys(kept.values()):
        yield replace(span, tasks=tuple(task for task in span.tasks if kept.get(task) == span))
