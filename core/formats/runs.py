"""Files of recorded runs: graphs, plans and traces, with the machine that they ran on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from dynpartition.errors import DynPartitionError, FileFormatError
from dynpartition.formats.fields import Amount, Name, Record
from dynpartition.formats.files import in_file, read_bytes, write_bytes
from dynpartition.formats.graph import GraphFields, graph_fields, graph_of
from dynpartition.formats.layout import render
from dynpartition.formats.plan import PlanFields, plan_fields, plan_of
from dynpartition.formats.strict import decode
from dynpartition.formats.task_ids import TaskIds
from dynpartition.formats.trace import TraceFields, trace_fields, trace_of
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.trace import Trace

Clock = Literal["wall", "virtual"]


@dataclass(frozen=True)
class RecordedRun:
    """One real run."""

    input: str
    """Id of the input; equal for identical ones."""
    graph: TaskGraph
    plan: Plan
    trace: Trace
    seen_ns: Mapping[int, int] = field(default_factory=dict)
    """Revealing task → when its value was seen on the host."""


@dataclass(frozen=True)
class Runs:
    """Real runs of one model on one machine."""

    model: str
    clock: Clock
    devices: Mapping[str, object]
    """Device → what is known of it."""
    versions: Mapping[str, object]
    runs: Sequence[RecordedRun]


class SeenFields(Record):
    """When a value was seen."""

    task: Amount
    at_ns: Amount


class RunFields(Record):
    """One run; `graph`, `plan` and `trace` as in their own files."""

    input: Name
    graph: GraphFields
    plan: PlanFields
    trace: TraceFields
    seen: tuple[SeenFields, ...] = ()


class RunsFields(Record, tag_field="format", tag="dynpartition-runs"):
    """A file of recorded runs."""

    version: Literal[1]
    model: Name
    clock: Clock
    devices: dict[Name, object]
    versions: dict[Name, object]
    runs: Annotated[tuple[RunFields, ...], msgspec.Meta(min_length=1)]


def read_runs(path: Path) -> Runs:
    """Return the runs in a file; errors name file and place."""
    with in_file(path):
        return runs_of(read_bytes(path))


def write_runs(path: Path, runs: Runs) -> None:
    """Write `runs`; reading the file gives equal runs."""
    with in_file(path):
        data = runs_bytes(runs)
    write_bytes(path, data)


def runs_bytes(runs: Runs) -> bytes:
    """Return the content of the file of `runs`."""
    data = render(_fields(runs))
    runs_of(data)
    return data


def runs_of(data: bytes) -> Runs:
    """Return the runs in the content of a file."""
    fields = decode(data, RunsFields)
    runs = [_run(run, number) for number, run in enumerate(fields.runs)]
    return Runs(fields.model, fields.clock, fields.devices, fields.versions, runs)


def _run(fields: RunFields, number: int) -> RecordedRun:
    try:
        graph = graph_of(fields.graph)
        ids = TaskIds(graph)
        plan, trace = plan_of(fields.plan, ids), trace_of(fields.trace, ids)
        seen = {ids.index(row.task, "$.seen"): row.at_ns for row in fields.seen}
        _check_complete(graph, plan, trace)
    except DynPartitionError as error:
        error.args = (f"run {number}: {error}",)
        raise
    return RecordedRun(fields.input, graph, plan, trace, seen)


def _check_complete(graph: TaskGraph, plan: Plan, trace: Trace) -> None:
    """Refuse a run whose trace is not of its plan, or whose plan is not of its graph."""
    planned = [(launch.device, launch.tasks) for launch in plan.launches]
    if [(span.device, span.tasks) for span in trace.launches] != planned:
        raise FileFormatError("its trace is not of its plan; record it again – at `$.trace`")
    if sorted(task for _, tasks in planned for task in tasks) != list(range(len(graph))):
        raise FileFormatError("its plan does not launch every task once – at `$.plan`")
    if trace.wasted:
        raise FileFormatError("a device was lost in it; leave it out – at `$.trace.wasted`")


def _fields(runs: Runs) -> RunsFields:
    return RunsFields(
        version=1,
        model=runs.model,
        clock=runs.clock,
        devices=dict(runs.devices),
        versions=dict(runs.versions),
        runs=tuple(_run_fields(run) for run in runs.runs),
    )


def _run_fields(run: RecordedRun) -> RunFields:
    ids = TaskIds(run.graph)
    return RunFields(
        input=run.input,
        graph=graph_fields(run.graph),
        plan=plan_fields(run.plan, ids),
        trace=trace_fields(run.trace, ids),
        seen=tuple(SeenFields(task=ids.id(t), at_ns=ns) for t, ns in run.seen_ns.items()),
    )
