"""Nodes of another tool's graph become tasks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from dynpartition.calibration.operators import Work
from dynpartition.errors import GraphError, ProfileError
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.interop.costs import Pricer, pricers
from dynpartition.profile import Profile

Durations = Mapping[Hashable, Mapping[str, int]]
"""Node → device → ns: what the user knows better than any model."""


class Imported(NamedTuple):
    """A graph, and which node of the other tool each of its tasks is."""

    graph: TaskGraph
    nodes: tuple[Hashable, ...]
    """Task id → node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node will be as a task."""

    key: Hashable
    """Its name in the other tool."""
    cell: str
    inputs: tuple[Hashable, ...]
    output_bytes: int
    param_bytes: int = 0
    work: Work | None = None
    """What it computes; None: not known."""
    host_bytes: int = 0
    returns: bool = False


def import_nodes(
    name: str, nodes: Sequence[Node], profile: Profile | None, durations: Durations | None
) -> Imported:
    """Return the graph of `nodes`, task 0, 1, … in their order.

    A task's durations are the user's, else those that the profile has for its cell, else what the
    profile's operator models say. Without a profile, tasks have no durations but the user's.

    Raises GraphError for nodes that do not form a graph and durations of nodes that there are not,
    and ProfileError where a node cannot be priced.
    """
    number = {node.key: at for at, node in enumerate(nodes)}
    own = dict(durations or {})
    for key in own.keys() - number.keys():
        raise GraphError(f"durations are given for {key!r}, which is no node that becomes a task")
    find_price = partial(_durations, own, profile, {})
    tasks = [
        Task(
            id=number[node.key],
            cell=node.cell,
            inputs=tuple(number[source] for source in node.inputs),
            output_bytes=node.output_bytes,
            duration_ns=find_price(node),
            host_bytes=node.host_bytes,
            returns=node.returns,
        )
        for node in nodes
    ]
    cells = {node.cell: Cell(node.cell, node.param_bytes) for node in nodes}
    return Imported(TaskGraph.from_tasks(name, cells.values(), tasks), tuple(number))


def _durations(
    own: Durations, profile: Profile | None, known: dict[str, Pricer], node: Node
) -> dict[str, int]:
    if node.key in own:
        return dict(own[node.key])
    if profile is None or node.cell in profile.cells:
        return {}
    if node.work is None:
        raise ProfileError(
            f"node {node.key!r} (cell {node.cell}) has no cost: the profile does not know the cell;"
            " add the cell to the profile, or give the node durations"
        )
    if not known:
        try:
            known.update(pricers(profile))
        except ProfileError as error:
            raise ProfileError(f"node {node.key!r} (cell {node.cell}): {error}") from None
    return {device: price(node.work) for device, price in known.items()}
