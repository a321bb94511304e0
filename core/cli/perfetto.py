"""Timelines as Chrome trace events, which Perfetto and chrome://tracing open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynpartition.cli.timeline import Run, devices_of, links_of, walks_of
from dynpartition.graph import TaskGraph
from dynpartition.trace import DispatchSpan, LaunchSpan, LoadSpan, MonitorSample, TransferSpan

Event = dict[str, object]
Span = LaunchSpan | TransferSpan | LoadSpan | DispatchSpan


def perfetto_events(graph: TaskGraph, runs: Sequence[Run]) -> dict[str, object]:
    """Return one process per run, in it one track per device, per link and per host walk.

    What GPUs said of themselves is on counter tracks.
    """
    events = [event for pid, run in enumerate(runs, start=1) for event in _process(graph, run, pid)]
    return {"displayTimeUnit": "ns", "traceEvents": events}


@dataclass(frozen=True, slots=True)
class _Bar:
    """One span and what its track says of it."""

    track: str
    span: Span
    name: str
    category: str
    facts: dict[str, object]


def _process(graph: TaskGraph, run: Run, pid: int) -> Iterator[Event]:
    yield _name("process_name", run.name, pid=pid)
    yield _order("process_sort_index", pid, pid=pid)
    lanes = _lanes(run, [*_bars(graph, run)])
    for tid, (name, _) in enumerate(lanes, start=1):
        yield _name("thread_name", name, pid=pid, tid=tid)
        yield _order("thread_sort_index", tid, pid=pid, tid=tid)
    for tid, (_, bars) in enumerate(lanes, start=1):
        yield from (_event(bar, pid, tid) for bar in bars)
    yield from _reveals(graph, run, pid)
    for sample in run.trace.monitor:
        yield from _counters(sample, pid)


def _bars(graph: TaskGraph, run: Run) -> Iterator[_Bar]:
    trace = run.trace
    for kind, launches in (("launch", trace.launches), ("wasted", trace.wasted)):
        for launch in launches:
            cell, facts = graph.cell_name(launch.tasks[0]), _tasks(graph, launch)
            yield _Bar(launch.device, launch, cell, kind, facts)
    for span in trace.transfers:
        kind = "host input" if span.host_input else "transfer"
        facts = {**_tasks(graph, span), "bytes": span.bytes}
        yield _Bar(_arrow(run.link_of(span)), span, kind, "transfer", facts)
    for load in trace.loads:
        facts = {"cell": load.cell, "bytes": load.bytes}
        yield _Bar(_arrow(run.link_of(load)), load, f"weights of {load.cell}", "load", facts)
    for walk, dispatch in run.walks():
        facts = {**_tasks(graph, dispatch), "device": dispatch.device}
        yield _Bar(walk, dispatch, "dispatch", "dispatch", facts)


def _lanes(run: Run, bars: Sequence[_Bar]) -> list[tuple[str, list[_Bar]]]:
    """Return the tracks. Spans of a track must not overlap, so a machine's copies may need two."""
    links = [_arrow(link) for link in links_of([run])]
    lanes: list[tuple[str, list[_Bar]]] = []
    for track in (*devices_of([run]), *links, *walks_of([run])):
        own = [bar for bar in bars if bar.track == track]
        for number, row in enumerate(_without_overlaps(own) or [[]]):
            lanes.append((f"{track} ({number + 1})" if number else track, row))
    return lanes


def _without_overlaps(bars: Sequence[_Bar]) -> list[list[_Bar]]:
    rows: list[list[_Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.span.start_ns, bar.span.end_ns)):
        free = (row for row in rows if row[-1].span.end_ns <= bar.span.start_ns)
        row = next(free, None)
        if row is None:
            rows.append([bar])
        else:
            row.append(bar)
    return rows


def _event(bar: _Bar, pid: int, tid: int) -> Event:
    # The format counts in µs; decimals keep the ns.
    start_ns, lasted_ns = bar.span.start_ns, bar.span.end_ns - bar.span.start_ns
    where: Event = {"ph": "X", "name": bar.name, "cat": bar.category, "pid": pid, "tid": tid}
    return {**where, "ts": start_ns / 1000, "dur": lasted_ns / 1000, "args": bar.facts}


def _reveals(graph: TaskGraph, run: Run, pid: int) -> Iterator[Event]:
    """Yield instant events that go through all tracks of the process."""
    for reveal in run.trace.reveals:
        name = f"{graph.label(reveal.task)} known"
        where: Event = {"ph": "i", "s": "p", "name": name, "cat": "reveal", "pid": pid, "tid": 1}
        task = int(graph.ids[reveal.task])
        yield {**where, "ts": reveal.known_ns / 1000, "args": {"task": task}}


def _counters(sample: MonitorSample, pid: int) -> Iterator[Event]:
    """Yield one event per quantity that is known; Perfetto draws a track per name."""
    quantities: list[tuple[str, str, float | None]] = [
        ("SM clock", "MHz", sample.sm_clock_mhz),
        ("memory clock", "MHz", sample.memory_clock_mhz),
        ("power", "W", sample.power_w),
        ("memory used", "bytes", sample.memory_used_bytes),
        ("temperature", "°C", sample.temperature_c),
        ("throttled", "reasons", len(sample.throttled)),
    ]
    for name, unit, value in quantities:
        if value is not None:
            where: Event = {"ph": "C", "name": f"{sample.device} {name}", "cat": "monitor"}
            yield {**where, "pid": pid, "ts": sample.at_ns / 1000, "args": {unit: value}}


def _name(kind: str, name: str, **where: int) -> Event:
    return {"ph": "M", "name": kind, **where, "args": {"name": name}}


def _order(kind: str, place: int, **where: int) -> Event:
    return {"ph": "M", "name": kind, **where, "args": {"sort_index": place}}


def _tasks(graph: TaskGraph, span: LaunchSpan | TransferSpan | DispatchSpan) -> dict[str, object]:
    return {"tasks": [int(graph.ids[task]) for task in span.tasks]}


def _arrow(link: tuple[str, str]) -> str:
    return f"{link[0]} → {link[1]}"
