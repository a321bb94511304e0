"""Graph files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from dynpartition.formats.fields import Amount, Name, Record
from dynpartition.formats.files import in_file, read_bytes, write_bytes
from dynpartition.formats.layout import render
from dynpartition.formats.strict import decode
from dynpartition.graph import Cell, Task, TaskGraph


class CellFields(Record):
    """One cell."""

    name: Name
    param_bytes: Amount = 0


class TaskFields(Record):
    """One task; ids may be any unique numbers."""

    id: Amount
    cell: Name
    inputs: tuple[Amount, ...]
    output_bytes: Amount
    duration_ns: dict[Name, Amount] = msgspec.field(default_factory=dict)
    revealed_by: Amount | None = None
    arrival_ns: Amount = 0
    request: Amount = 0
    host_bytes: Amount = 0
    returns: bool = False


class GraphFields(Record, tag_field="format", tag="dynpartition-graph"):
    """A graph file."""

    version: Literal[1]
    name: Name
    cells: tuple[CellFields, ...]
    tasks: tuple[TaskFields, ...]


def read_graph(path: Path) -> TaskGraph:
    """Return the graph in a file; FileFormatError or GraphError names file and place."""
    with in_file(path):
        return _parse(read_bytes(path))


def write_graph(path: Path, graph: TaskGraph) -> None:
    """Write `graph`; reading the file gives an equal graph."""
    with in_file(path):
        data = render(graph_fields(graph))
        _parse(data)
    write_bytes(path, data)


def _parse(data: bytes) -> TaskGraph:
    return graph_of(decode(data, GraphFields))


def graph_of(fields: GraphFields) -> TaskGraph:
    """Return the graph of decoded fields; GraphError names the place."""
    cells = [Cell(cell.name, cell.param_bytes) for cell in fields.cells]
    return TaskGraph.from_tasks(fields.name, cells, [_task(task) for task in fields.tasks])


def _task(fields: TaskFields) -> Task:
    return Task(**msgspec.structs.asdict(fields))


def graph_fields(graph: TaskGraph) -> GraphFields:
    """Return a graph as it stands in files."""
    return GraphFields(
        version=1,
        name=graph.name,
        cells=tuple(CellFields(name=c.name, param_bytes=c.param_bytes) for c in graph.cells),
        tasks=tuple(_task_fields(task) for task in graph.tasks()),
    )


def _task_fields(task: Task) -> TaskFields:
    return TaskFields(
        id=task.id,
        cell=task.cell,
        inputs=task.inputs,
        output_bytes=task.output_bytes,
        duration_ns=dict(task.duration_ns),
        revealed_by=task.revealed_by,
        arrival_ns=task.arrival_ns,
        request=task.request,
        host_bytes=task.host_bytes,
        returns=task.returns,
    )
