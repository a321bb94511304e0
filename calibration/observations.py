"""What real runs tell about costs: stamps taken in place, turned into observations.

An observation knows which run and which part of it it came from, so that one that comes twice is
recognised, and what is wrong with it can be said by name.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from dynpartition.cluster import Cluster
from dynpartition.device_spec import host_of
from dynpartition.graph import TaskGraph
from dynpartition.trace import LaunchSpan, Trace, TransferSpan


class Launched(NamedTuple):
    """How long one launch kept its device, from the moment at which it could start."""

    run: int
    number: int
    """Plan position."""
    cell: str
    device: str
    size: int
    """Tasks in the launch."""
    ns: float
    gap_ns: float
    """The part before the launch itself."""
    copies_in: int = 0
    """Inputs that came from other devices, once per edge."""
    bytes_in: int = 0
    copies_out: int = 0
    """Outputs that other devices read."""
    waited: bool = False
    """Whether it waited for a transfer, not for its device."""
    is_first: bool = False
    """Whether it is the first launch of its cell on its device in this run."""

    @property
    def what(self) -> str:
        """Words for messages."""
        return f"launches of {self.size} × {self.cell} on {self.device}"


class Moved(NamedTuple):
    """How long one transfer, or load of weights, took."""

    run: int
    number: int
    src: str
    dst: str
    bytes: int
    ns: float

    @property
    def what(self) -> str:
        """Words for messages."""
        return f"transfers from {self.src} to {self.dst} of {self.bytes} bytes"


class Noted(NamedTuple):
    """One time that belongs to nothing that can be priced by shape or size."""

    run: int
    number: int
    what: str
    """`sync`, `decision`, `start` (from known to running), `push`, `dispatch of CELL on DEVICE`."""
    ns: float


Observation = TypeVar("Observation", Launched, Moved, Noted)


@dataclass(slots=True)
class Observations:
    """Observations of many runs."""

    launches: list[Launched] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)
    notes: list[Noted] = field(default_factory=list)
    late: list[Launched] = field(default_factory=list)
    """Launches that had waited for a value and the scheduler: `ns` is what they took themselves,
    since nobody knows which part of the time before was theirs. Enough where there are no others:
    some cells only ever run behind values."""

    def __iadd__(self, other: Observations) -> Observations:
        self.launches += other.launches
        self.late += other.late
        self.moves += other.moves
        self.notes += other.notes
        return self

    def cleaned(self) -> tuple[Observations, dict[str, int]]:
        """Return the observations that can be right, and what is wrong with the others.

        The second value tells by name how many were left out and why: not a number, negative, or
        seen before.
        """
        wrong: Counter[str] = Counter()
        kept = Observations(
            *(_cleaned(self.launches, wrong), _cleaned(self.moves, wrong)),
            *(_cleaned(self.notes, wrong), _cleaned(self.late, wrong)),
        )
        return kept, dict(sorted(wrong.items()))


def _cleaned(rows: Iterable[Observation], wrong: Counter[str]) -> list[Observation]:
    seen: set[tuple[object, ...]] = set()
    kept: list[Observation] = []
    for row in rows:
        key = (row.run, row.number, row.what)
        reason = "seen before" if key in seen else _fault(row.ns)
        seen.add(key)
        if reason:
            wrong[f"{row.what}: {reason}"] += 1
        else:
            kept.append(row)
    return kept


def _fault(ns: float) -> str:
    if not math.isfinite(ns):
        return "not a number"
    return "negative" if ns < 0 else ""


class HostTimes(NamedTuple):
    """What a run tells besides its trace; see `HardwareSession`."""

    seen_ns: Mapping[int, int]
    """Revealer → when its value was seen."""
    dispatch_ns: Sequence[int] = ()
    """Per launch: what the caller did for a CUDA device."""
    push_ns: Sequence[int] = ()
    """Per transfer: the same."""


def observe(
    run: int, graph: TaskGraph, cluster: Cluster, trace: Trace, times: HostTimes
) -> Observations:
    """Return what one run tells. `run`: its number, unique among runs that are put together."""
    found = Observations()
    busy = _Busy(trace, cluster)
    rows = list(_launches(run, graph, cluster, trace, busy))
    found.launches = [row for row, is_late in rows if not is_late]
    found.late = [row for row, is_late in rows if is_late]
    found.moves = list(_moves(run, graph, cluster, trace, busy))
    found.notes = [
        *_reveals(run, graph, cluster, trace, times, busy),
        *_host_work(run, graph, trace, times),
    ]
    return found


class _Busy:
    """When each device had finished what it did before an item of the trace."""

    def __init__(self, trace: Trace, cluster: Cluster) -> None:
        blocks = {(link.src, link.dst): link.blocked_devices for link in cluster.links}
        work: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for span in trace.launches:
            work[span.device].append((span.start_ns, span.end_ns))
        for move in trace.transfers:
            for device in blocks.get((move.src, move.dst), ()):
                work[device].append((move.start_ns, move.end_ns))
        for load in trace.loads:
            work[load.device].append((load.start_ns, load.end_ns))
        self._before: dict[tuple[str, int], int] = {}
        for device, spans in work.items():
            latest_ns = 0
            for start_ns, end_ns in sorted(spans):
                self._before[device, start_ns] = latest_ns
                latest_ns = max(latest_ns, end_ns)

    def knows(self, device: str, start_ns: int) -> bool:
        """Return whether `device` began something at `start_ns`."""
        return (device, start_ns) in self._before

    def before(self, device: str, start_ns: int) -> int:
        """Return when `device` was done with what it did before what it began at `start_ns`."""
        return self._before[device, start_ns]


def _launches(
    run: int, graph: TaskGraph, cluster: Cluster, trace: Trace, busy: _Busy
) -> Iterable[tuple[Launched, bool]]:
    """Yield the launches of a run, and whether they waited for a value and the scheduler."""
    arrived = _arrivals(trace)
    place = {task: span.device for span in trace.launches for task in span.tasks}
    known = {reveal.task: reveal.known_ns for reveal in trace.reveals}
    used: set[tuple[str, str]] = set()
    for number, span in enumerate(trace.launches):
        device, cell = span.device, graph.cell_name(span.tasks[0])
        is_first = (cell, device) not in used
        used.add((cell, device))
        remote = [
            source
            for task in span.tasks
            for source in graph.input_lists[task]
            if place[source] != device
        ]
        fed = [t for t in span.tasks if graph.host_bytes[t] > 0 and device != cluster.host]
        due_ns = _due_ns(graph, span, arrived)
        before_ns = busy.before(device, span.start_ns)
        could_ns = max(before_ns, due_ns)
        is_late = _known_ns(graph, span.tasks, known) > could_ns
        if is_late:
            could_ns = span.start_ns  # what came before is told by `_reveals`
        sizes = [int(graph.output_bytes[s]) for s in remote]
        sizes += [int(graph.host_bytes[t]) for t in fed]
        read_elsewhere = [
            t
            for t in span.tasks
            if any(place.get(r, device) != device for r in graph.reader_lists[t])
        ]
        launched = Launched(
            *(run, number, cell, device, len(span.tasks)),
            *(span.end_ns - could_ns, span.start_ns - could_ns),
            copies_in=len(sizes),
            bytes_in=sum(sizes),
            copies_out=len(read_elsewhere),
            waited=due_ns > before_ns and not is_late,
            is_first=is_first,
        )
        yield launched, is_late


def _arrivals(trace: Trace) -> dict[tuple[int, str, bool], int]:
    """(task, destination, host input) → when it arrived."""
    return {
        (task, move.dst, move.host_input): move.end_ns
        for move in trace.transfers
        for task in move.tasks
    }


def _due_ns(
    graph: TaskGraph, span: LaunchSpan, arrived: Mapping[tuple[int, str, bool], int]
) -> int:
    """Return when the last input of a launch arrived; 0 when all were there."""
    sources = [(s, span.device, False) for task in span.tasks for s in graph.input_lists[task]]
    sources += [(task, span.device, True) for task in span.tasks]
    return max((arrived.get(source, 0) for source in sources), default=0)


def _known_ns(graph: TaskGraph, tasks: Iterable[int], known: Mapping[int, int]) -> int:
    """Return when the last of `tasks` was known; 0 when all were from the start."""
    return max((known.get(int(graph.revealed_by[task]), 0) for task in tasks), default=0)


def _moves(
    run: int, graph: TaskGraph, cluster: Cluster, trace: Trace, busy: _Busy
) -> Iterable[Moved]:
    blocks = {(link.src, link.dst): link.blocked_devices for link in cluster.links}
    place = {task: span.device for span in trace.launches for task in span.tasks}
    known = {reveal.task: reveal.known_ns for reveal in trace.reveals}
    joined = _joined(trace)
    for number, move in enumerate(trace.transfers):
        if number in joined:
            continue
        start_ns = move.start_ns
        if move.src in blocks.get((move.src, move.dst), ()):
            # The device goes on to the copy at once, so what lies before it is a part of it, unless
            # nobody knew before that it would be needed.
            before_ns = busy.before(move.src, start_ns)
            asked_ns = _asked_ns(graph, move, place, known)
            start_ns = before_ns if asked_ns <= before_ns else start_ns
        yield Moved(run, number, move.src, move.dst, move.bytes, move.end_ns - start_ns)
    for number, load in enumerate(trace.loads, len(trace.transfers)):
        # The same link carries them, and they are the largest.
        yield Moved(run, number, cluster.host, load.device, load.bytes, load.end_ns - load.start_ns)


def _joined(trace: Trace) -> set[int]:
    """Return the transfers between hosts, by number, that began when those before had come.

    What is ready together travels in one message there: their own times are a few microseconds, and
    tell nothing of what a transfer takes that has the link for itself.
    """
    between = [m for m in trace.transfers if host_of(m.src) != host_of(m.dst)]
    ends = {(move.src, move.dst, move.end_ns) for move in between}
    starts = [(move.src, move.dst, move.start_ns) for move in trace.transfers]
    return {number for number, start in enumerate(starts) if start in ends}


def _asked_ns(
    graph: TaskGraph, move: TransferSpan, place: Mapping[int, str], known: Mapping[int, int]
) -> int:
    """Return when it was known that a transfer would be needed; 0: from the start."""
    readers = list(move.tasks)
    if not move.host_input:
        readers = [
            r for task in move.tasks for r in graph.reader_lists[task] if place.get(r) == move.dst
        ]
    return min((_known_ns(graph, [task], known) for task in readers), default=0)


def _reveals(
    run: int, graph: TaskGraph, cluster: Cluster, trace: Trace, times: HostTimes, busy: _Busy
) -> Iterable[Noted]:
    at_host = {t: m.end_ns for m in trace.transfers if m.dst == cluster.host for t in m.tasks}
    for reveal in trace.reveals:
        seen_ns = times.seen_ns.get(reveal.task)
        if seen_ns is not None:
            came_ns = at_host.get(reveal.task, reveal.end_ns)
            yield Noted(run, reveal.task, "sync", seen_ns - came_ns)
            yield Noted(run, reveal.task, "decision", reveal.known_ns - seen_ns)
    arrived = _arrivals(trace)
    known = {reveal.task: reveal.known_ns for reveal in trace.reveals}
    for number, span in enumerate(trace.launches):
        known_ns = _known_ns(graph, span.tasks, known)
        due_ns, before_ns = _due_ns(graph, span, arrived), busy.before(span.device, span.start_ns)
        if known_ns > max(due_ns, before_ns):
            yield Noted(run, number, "start", span.start_ns - known_ns)
    place = {task: span.device for span in trace.launches for task in span.tasks}
    for number, move in enumerate(trace.transfers, len(trace.launches)):
        asked_ns = _asked_ns(graph, move, place, known)
        if busy.knows(move.src, move.start_ns) and asked_ns > busy.before(move.src, move.start_ns):
            yield Noted(run, number, "start", move.start_ns - asked_ns)


def _host_work(run: int, graph: TaskGraph, trace: Trace, times: HostTimes) -> Iterable[Noted]:
    for number, (span, ns) in enumerate(zip(trace.launches, times.dispatch_ns, strict=False)):
        if ns:
            cell = graph.cell_name(span.tasks[0])
            yield Noted(run, number, f"dispatch of {cell} on {span.device}", ns)
    for number, ns in enumerate(times.push_ns):
        if ns:
            yield Noted(run, number, "push", ns)
