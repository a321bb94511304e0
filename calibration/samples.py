"""What one real run tells about costs: stamps taken in place, turned into samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dynpartition.graph import TaskGraph
from dynpartition.trace import LaunchSpan, Trace

KeyT = TypeVar("KeyT")
Lists = dict[KeyT, list[int]]


@dataclass(slots=True)
class Samples:
    """Measured times in ns, by what they are a measurement of."""

    launches: Lists[tuple[str, str, int]] = field(default_factory=lambda: defaultdict(list))
    """(cell, device, tasks in the launch) → durations."""
    transfers: Lists[tuple[str, str, int]] = field(default_factory=lambda: defaultdict(list))
    """(source, destination, bytes) → durations."""
    gaps: Lists[str] = field(default_factory=lambda: defaultdict(list))
    """Device → time between an end and the next start, when nothing was waited for."""
    waits: Lists[str] = field(default_factory=lambda: defaultdict(list))
    """Device → time between a transfer's end and the start of the launch that waited for it."""
    dispatches: Lists[tuple[str, str]] = field(default_factory=lambda: defaultdict(list))
    """(cell, device) → time that the caller's thread took to start a launch; CUDA devices only."""
    pushes: list[int] = field(default_factory=list)
    """Time that the caller's thread took to start a transfer from or to a CUDA device."""
    syncs: list[int] = field(default_factory=list)
    """Time between a revealer's output being on the host and its value being seen."""
    decisions: list[int] = field(default_factory=list)
    """Time between a value being seen and what it revealed being planned."""
    dropped: int = 0
    """Launches left out because the thread did not run all the time."""

    def add_launches(self, graph: TaskGraph, trace: Trace, run_delay_ns: Sequence[int]) -> None:
        """Add the launches of one run.

        `run_delay_ns`: per launch, how long its thread was ready but not running; such launches
        measure the machine's other work, not the cell.
        """
        for span, delay_ns in zip(trace.launches, run_delay_ns, strict=True):
            # The entry is made in any case: what is always dropped must show as missing.
            times = self.launches[graph.cell_name(span.tasks[0]), span.device, len(span.tasks)]
            if delay_ns > 0:
                self.dropped += 1
            else:
                times.append(span.end_ns - span.start_ns)

    def fewest(self) -> int:
        """Return how often the launch of one task that was measured least was measured."""
        return min((len(ns) for (_, _, k), ns in self.launches.items() if k == 1), default=0)

    def add_surroundings(
        self, graph: TaskGraph, trace: Trace, host: str, seen_ns: Mapping[int, int]
    ) -> None:
        """Add what lies between the launches of one run: transfers, gaps, waits, reveals.

        `seen_ns`: revealing task → when its value was seen, before anything was decided.
        The run must not have been sampled for run-queue delay, which takes time between launches.
        """
        for move in trace.transfers:
            self.transfers[move.src, move.dst, move.bytes].append(move.end_ns - move.start_ns)
        for load in trace.loads:  # the same link carries them, and they are the largest
            self.transfers[host, load.device, load.bytes].append(load.end_ns - load.start_ns)
        self._add_starts(graph, trace)
        self._add_reveals(trace, host, seen_ns)

    def add_dispatches(
        self,
        graph: TaskGraph,
        trace: Trace,
        dispatch_ns: Sequence[int],
        push_ns: Sequence[int],
    ) -> None:
        """Add what the host did for CUDA devices: per launch and per transfer of the trace."""
        for span, host_ns in zip(trace.launches, dispatch_ns, strict=True):
            if host_ns:
                self.dispatches[graph.cell_name(span.tasks[0]), span.device].append(host_ns)
        self.pushes += [host_ns for host_ns in push_ns if host_ns]

    def _add_starts(self, graph: TaskGraph, trace: Trace) -> None:
        """Tell executor overhead (nothing waited for) from hand-offs (waited for a transfer)."""
        arrivals = _arrivals(trace)
        busy_until = _busy_until(trace)
        for span, before_ns in zip(trace.launches, busy_until, strict=True):
            if before_ns is None or _loaded_between(trace, span, before_ns):
                continue
            arrived_ns = _last_arrival(graph, span, arrivals)
            if arrived_ns <= before_ns:
                self.gaps[span.device].append(max(0, span.start_ns - before_ns))
            else:
                self.waits[span.device].append(max(0, span.start_ns - arrived_ns))

    def _add_reveals(self, trace: Trace, host: str, seen_ns: Mapping[int, int]) -> None:
        at_host = {t: m.end_ns for m in trace.transfers if m.dst == host for t in m.tasks}
        for reveal in trace.reveals:
            seen = seen_ns[reveal.task]
            self.syncs.append(seen - at_host.get(reveal.task, reveal.end_ns))
            self.decisions.append(reveal.known_ns - seen)


def _loaded_between(trace: Trace, span: LaunchSpan, before_ns: int) -> bool:
    """Return whether its device loaded weights between its last work and a launch."""
    return any(
        load.device == span.device and before_ns <= load.start_ns <= span.start_ns
        for load in trace.loads
    )


def _arrivals(trace: Trace) -> dict[tuple[int, str, bool], int]:
    """(task, destination, host input) → when it arrived."""
    return {
        (task, move.dst, move.host_input): move.end_ns
        for move in trace.transfers
        for task in move.tasks
    }


def _last_arrival(
    graph: TaskGraph, span: LaunchSpan, arrivals: dict[tuple[int, str, bool], int]
) -> int:
    sources = [(s, span.device, False) for task in span.tasks for s in graph.input_lists[task]]
    sources += [(task, span.device, True) for task in span.tasks]
    return max((arrivals.get(source, 0) for source in sources), default=0)


def _busy_until(trace: Trace) -> list[int | None]:
    """Per launch: when its device had finished what it did before; None for its first work."""
    work: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for span in trace.launches:
        work[span.device].append((span.start_ns, span.end_ns))
    for move in trace.transfers:
        work[move.src].append((move.start_ns, move.end_ns))
    before: dict[tuple[str, int], int | None] = {}
    for device, spans in work.items():
        latest: int | None = None
        for start_ns, end_ns in sorted(spans):
            before[device, start_ns] = latest
            latest = end_ns if latest is None else max(latest, end_ns)
    return [before[span.device, span.start_ns] for span in trace.launches]
