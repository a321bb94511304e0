"""Plan files: launches in global order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from dynpartition.cluster import Cluster
from dynpartition.formats.fields import Amount, Name, Record
from dynpartition.formats.files import in_file, read_bytes, write_bytes
from dynpartition.formats.layout import render
from dynpartition.formats.strict import decode
from dynpartition.formats.task_ids import TaskIds
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, check_plan

Tasks = Annotated[tuple[Amount, ...], msgspec.Meta(min_length=1)]
"""Ids of the tasks of one launch or transfer."""


class LaunchFields(Record):
    """One launch."""

    device: Name
    tasks: Tasks


class PlanFields(Record, tag_field="format", tag="dynpartition-plan"):
    """A plan file."""

    version: Literal[1]
    launches: tuple[LaunchFields, ...]


def read_plan(path: Path, graph: TaskGraph, cluster: Cluster | None = None) -> Plan:
    """Return the plan in a file, with task indices of `graph`.

    With `cluster`, the plan is also checked to be complete and legal there. FileFormatError,
    PlanError and ProfileError name file and place.
    """
    with in_file(path):
        plan = _parse(read_bytes(path), TaskIds(graph))
        if cluster is not None:
            check_plan(graph, cluster, plan)
    return plan


def write_plan(path: Path, plan: Plan, graph: TaskGraph) -> None:
    """Write `plan` with the task ids of `graph`."""
    with in_file(path):
        ids = TaskIds(graph)
        data = render(plan_fields(plan, ids))
        _parse(data, ids)
    write_bytes(path, data)


def _parse(data: bytes, ids: TaskIds) -> Plan:
    return plan_of(decode(data, PlanFields), ids)


def plan_of(fields: PlanFields, ids: TaskIds) -> Plan:
    """Return the plan of decoded fields; FileFormatError names the place."""
    return Plan(
        tuple(
            Launch(launch.device, ids.indices(launch.tasks, f"$.launches[{number}].tasks"))
            for number, launch in enumerate(fields.launches)
        )
    )


def plan_fields(plan: Plan, ids: TaskIds) -> PlanFields:
    """Return a plan as it stands in files."""
    rows = (LaunchFields(device=row.device, tasks=ids.ids(row.tasks)) for row in plan.launches)
    return PlanFields(version=1, launches=tuple(rows))
