"""Trace files: what happened, in ns since the start of the run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import msgspec

from dynpartition.errors import FileFormatError, did_you_mean
from dynpartition.formats.fields import Amount, Name, Record, Watts
from dynpartition.formats.files import in_file, read_bytes, write_bytes
from dynpartition.formats.layout import render
from dynpartition.formats.plan import Tasks
from dynpartition.formats.strict import decode
from dynpartition.formats.task_ids import TaskIds
from dynpartition.graph import VALUE_MAX, TaskGraph
from dynpartition.trace import (
    DispatchSpan,
    LaunchSpan,
    LoadSpan,
    MonitorSample,
    Reveal,
    Trace,
    TransferSpan,
)


class SpanFields(Record):
    """A launch, or the host time that dispatching it took."""

    device: Name
    tasks: Tasks
    start_ns: Amount
    end_ns: Amount


class TransferFields(Record):
    """A transfer; `host_input` when the tasks read what travels instead of producing it."""

    src: Name
    dst: Name
    tasks: Tasks
    bytes: Amount
    start_ns: Amount
    end_ns: Amount
    host_input: bool = False


class LoadFields(Record):
    """The weights of a cell on their way to a device."""

    device: Name
    cell: Name
    bytes: Amount
    start_ns: Amount
    end_ns: Amount


class RevealFields(Record):
    """When a revealing task ended, and when its value was known."""

    task: Amount
    end_ns: Amount
    known_ns: Amount


class MonitorFields(Record):
    """What a GPU said of itself at one moment."""

    device: Name
    at_ns: Amount
    sm_clock_mhz: Amount | None = None
    memory_clock_mhz: Amount | None = None
    power_w: Watts | None = None
    memory_used_bytes: Amount | None = None
    temperature_c: Amount | None = None
    throttled: tuple[Name, ...] = ()


class TraceFields(Record, tag_field="format", tag="dynpartition-trace"):
    """A trace file."""

    version: Literal[1]
    makespan_ns: Amount
    launches: tuple[SpanFields, ...]
    transfers: tuple[TransferFields, ...]
    dispatches: tuple[SpanFields, ...]
    loads: tuple[LoadFields, ...]
    reveals: tuple[RevealFields, ...]
    wasted: tuple[SpanFields, ...] = ()
    monitor: tuple[MonitorFields, ...] = ()


def read_trace(path: Path, graph: TaskGraph) -> Trace:
    """Return the trace in a file, with task indices of `graph`."""
    with in_file(path):
        return _parse(read_bytes(path), TaskIds(graph))


def write_trace(path: Path, trace: Trace, graph: TaskGraph) -> None:
    """Write `trace` with the task ids of `graph`."""
    with in_file(path):
        _check_length(trace)
        ids = TaskIds(graph)
        data = render(trace_fields(trace, ids))
        _parse(data, ids)
    write_bytes(path, data)


def _check_length(trace: Trace) -> None:
    """Refuse a trace whose times do not fit into a file."""
    spans: list[LaunchSpan | TransferSpan | DispatchSpan | LoadSpan] = [
        *trace.launches,
        *trace.transfers,
        *trace.dispatches,
        *trace.loads,
    ]
    last_ns = max((span.end_ns for span in spans), default=0)
    if last_ns > VALUE_MAX:
        raise FileFormatError(
            f"the run lasts {last_ns:,} ns, but files hold times up to {VALUE_MAX:,} ns; check the"
            " durations and bandwidths, or leave the file out"
        )


def _parse(data: bytes, ids: TaskIds) -> Trace:
    return trace_of(decode(data, TraceFields), ids)


def trace_of(fields: TraceFields, ids: TaskIds) -> Trace:
    """Return the trace of decoded fields; FileFormatError names the place."""
    return Trace(
        fields.makespan_ns,
        tuple(
            LaunchSpan(span.device, _tasks(span, f"$.launches[{n}]", ids), *_times(span))
            for n, span in enumerate(fields.launches)
        ),
        tuple(
            _transfer(span, _tasks(span, f"$.transfers[{n}]", ids))
            for n, span in enumerate(fields.transfers)
        ),
        tuple(
            DispatchSpan(span.device, _tasks(span, f"$.dispatches[{n}]", ids), *_times(span))
            for n, span in enumerate(fields.dispatches)
        ),
        tuple(_reveal(row, f"$.reveals[{n}]", ids) for n, row in enumerate(fields.reveals)),
        tuple(_load(span, f"$.loads[{n}]", ids) for n, span in enumerate(fields.loads)),
        tuple(
            LaunchSpan(span.device, _tasks(span, f"$.wasted[{n}]", ids), *_times(span))
            for n, span in enumerate(fields.wasted)
        ),
        tuple(MonitorSample(**msgspec.structs.asdict(sample)) for sample in fields.monitor),
    )


def _tasks(span: SpanFields | TransferFields, place: str, ids: TaskIds) -> tuple[int, ...]:
    _check_times(span.start_ns, "start_ns", span.end_ns, "end_ns", place=place)
    return ids.indices(span.tasks, f"{place}.tasks")


def _check_times(first: int, first_name: str, last: int, last_name: str, *, place: str) -> None:
    if last < first:
        raise FileFormatError(
            f"{last_name} {last} is before {first_name} {first}; time goes forward – at `{place}`"
        )


def _times(span: SpanFields) -> tuple[int, int]:
    return span.start_ns, span.end_ns


def _transfer(span: TransferFields, tasks: tuple[int, ...]) -> TransferSpan:
    return TransferSpan(
        span.src, span.dst, tasks, span.bytes, span.start_ns, span.end_ns, span.host_input
    )


def _reveal(row: RevealFields, place: str, ids: TaskIds) -> Reveal:
    _check_times(row.end_ns, "end_ns", row.known_ns, "known_ns", place=place)
    return Reveal(ids.index(row.task, f"{place}.task"), row.end_ns, row.known_ns)


def _load(span: LoadFields, place: str, ids: TaskIds) -> LoadSpan:
    _check_times(span.start_ns, "start_ns", span.end_ns, "end_ns", place=place)
    if span.cell not in ids.graph.cell_names:
        remedy = did_you_mean(span.cell, ids.graph.cell_names)
        raise FileFormatError(f"no cell is named {span.cell!r}; {remedy} – at `{place}.cell`")
    return LoadSpan(span.device, span.cell, span.bytes, span.start_ns, span.end_ns)


def trace_fields(trace: Trace, ids: TaskIds) -> TraceFields:
    """Return a trace as it stands in files."""
    return TraceFields(
        version=1,
        makespan_ns=trace.makespan_ns,
        launches=tuple(_span_fields(span, ids) for span in trace.launches),
        transfers=tuple(_transfer_fields(span, ids) for span in trace.transfers),
        dispatches=tuple(_span_fields(span, ids) for span in trace.dispatches),
        loads=tuple(LoadFields(**asdict(span)) for span in trace.loads),
        wasted=tuple(_span_fields(span, ids) for span in trace.wasted),
        reveals=tuple(
            RevealFields(task=ids.id(row.task), end_ns=row.end_ns, known_ns=row.known_ns)
            for row in trace.reveals
        ),
        monitor=tuple(MonitorFields(**asdict(sample)) for sample in trace.monitor),
    )


def _span_fields(span: LaunchSpan | DispatchSpan, ids: TaskIds) -> SpanFields:
    return SpanFields(
        device=span.device,
        tasks=ids.ids(span.tasks),
        start_ns=span.start_ns,
        end_ns=span.end_ns,
    )


def _transfer_fields(span: TransferSpan, ids: TaskIds) -> TransferFields:
    return TransferFields(
        src=span.src,
        dst=span.dst,
        tasks=ids.ids(span.tasks),
        bytes=span.bytes,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        host_input=span.host_input,
    )
