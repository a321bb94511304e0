"""Timelines as Chrome trace events, which Perfetto and chrome://tracing open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynpartition.cli.timeline import Run, devices_of, links_of
from dynpartition.graph import TaskGraph
from dynpartition.trace import DispatchSpan, LaunchSpan, Trace, TransferSpan

Event = dict[str, object]


def perfetto_events(graph: TaskGraph, runs: Sequence[Run]) -> dict[str, object]:
    """Return one process per run, in it one track per device, per link and for dispatches."""
    events = [event for pid, run in enumerate(runs, start=1) for event in _process(graph, run, pid)]
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _process(graph: TaskGraph, run: Run, pid: int) -> Iterator[Event]:
    yield _name("process_name", run.name, pid=pid)
    tracks = _tracks(run.trace)
    for name, tid in tracks.items():
        yield _name("thread_name", name, pid=pid, tid=tid)
        sort = {"sort_index": tid}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": sort}
    for launch in run.trace.launches:
        cell = graph.cell_name(launch.tasks[0])
        yield _span(launch, cell, "launch", pid=pid, tid=tracks[launch.device]) | _args(
            tasks=_ids(graph, launch.tasks)
        )
    for transfer in run.trace.transfers:
        tid = tracks[f"{transfer.src} → {transfer.dst}"]
        name = "host input" if transfer.host_input else "transfer"
        yield _span(transfer, name, "transfer", pid=pid, tid=tid) | _args(
            tasks=_ids(graph, transfer.tasks), bytes=transfer.bytes
        )
    yield from _host_events(graph, run.trace, tracks, pid)


def _host_events(
    graph: TaskGraph, trace: Trace, tracks: dict[str, int], pid: int
) -> Iterator[Event]:
    for dispatch in trace.dispatches:
        yield _span(dispatch, "dispatch", "dispatch", pid=pid, tid=tracks["host dispatch"]) | _args(
            tasks=_ids(graph, dispatch.tasks), device=dispatch.device
        )
    for reveal in trace.reveals:
        name = f"{graph.label(reveal.task)} known"
        yield {
            "ph": "i",
            "s": "p",
            "name": name,
            "pid": pid,
            "tid": 1,
            "ts": reveal.known_ns / 1000,
        }


def _tracks(trace: Trace) -> dict[str, int]:
    names = [*devices_of([trace]), *(f"{src} → {dst}" for src, dst in links_of([trace]))]
    names += ["host dispatch"] if trace.dispatches else []
    return {name: tid for tid, name in enumerate(names, start=1)}


def _name(kind: str, name: str, **where: int) -> Event:
    return {"ph": "M", "name": kind, **where, "args": {"name": name}}


def _span(
    span: LaunchSpan | TransferSpan | DispatchSpan, name: str, category: str, **where: int
) -> Event:
    # The format counts in µs; decimals keep the ns.
    times = {"ts": span.start_ns / 1000, "dur": (span.end_ns - span.start_ns) / 1000}
    return {"ph": "X", "name": name, "cat": category, **where, **times}


def _args(**values: object) -> Event:
    return {"args": values}


def _ids(graph: TaskGraph, tasks: Sequence[int]) -> list[int]:
    return [int(graph.ids[task]) for task in tasks]
