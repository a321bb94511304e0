"""What is left of a session when a worker is lost: what still lies where, and what must run again.

Schedulers see the rest as in the simulator (`dynpartition.sim.losses`): a task that need not run
again is *carried*. It costs nothing, has no inputs, and stands where its output is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from dynpartition.buffers import groups_of
from dynpartition.cluster import Cluster
from dynpartition.graph import CARRIED, TaskGraph
from dynpartition.hardware.placing import ABSENT
from dynpartition.plan import Launch
from dynpartition.program import Program
from dynpartition.types import BoolArray, IntArray, Ragged, frozen

TO_RUN = -1
"""Place of a task that has to be launched, or launched again."""


def rows_held(
    program: Program, output_row: IntArray, before: IntArray, ended: Iterable[int], n_tasks: int
) -> IntArray:
    """Return (D, N) rows of the outputs that launches `ended` have made; ABSENT elsewhere.

    `before` (D, n) is what was there when the program began.
    """
    held = np.full((len(output_row), n_tasks), ABSENT)
    held[:, : before.shape[1]] = before
    for launch in ended:
        device, tasks = program.launch_device[launch], list(program.launch_tasks.rows[launch])
        held[device, tasks] = output_row[device, tasks]
    return held


def add_arrivals(
    held: IntArray, program: Program, output_row: IntArray, arrived: Iterable[int]
) -> None:
    """Note in `held` (D, N) which outputs have arrived on other devices."""
    for copy in arrived:
        if not program.copy_is_input[copy]:
            device, tasks = program.copy_dst[copy], list(program.copy_tasks.rows[copy])
            held[device, tasks] = output_row[device, tasks]


@dataclass(frozen=True, eq=False)
class Carried:
    """What a loss has left of the n tasks that were known then; D devices."""

    rows: IntArray
    """(D, n) where outputs lie that have survived; ABSENT elsewhere."""
    place: IntArray
    """(n,) the device that a task stands on; TO_RUN for the others."""
    returned: BoolArray
    """(n,) whether the output is on the host."""
    seen: IntArray
    """Revealing tasks whose value the model has been given."""

    @property
    def tasks(self) -> list[int]:
        """The tasks that need not run again."""
        numbers: list[int] = np.flatnonzero(self.place != TO_RUN).tolist()
        return numbers

    @property
    def again(self) -> set[int]:
        """The tasks that have to be launched, or launched again."""
        return set(np.flatnonzero(self.place == TO_RUN).tolist())

    def launches(self, cluster: Cluster) -> list[Launch]:
        """Return one for each task that need not run again, where its output is."""
        return [Launch(cluster.names[self.place[task]], (task,)) for task in self.tasks]

    def rest_of(self, graph: TaskGraph, cluster: Cluster) -> TaskGraph:
        """Return `graph` as schedulers see it now; it may hold tasks revealed since.

        Carried tasks have no inputs and cost nothing, where they stand. All that was known at the
        loss is known from the start.
        """
        n_new = len(graph) - len(self.place)
        place = np.concatenate([self.place, np.full(n_new, TO_RUN)])
        carried = place != TO_RUN
        gone = np.concatenate([(self.rows == ABSENT).all(axis=0), np.zeros(n_new, np.bool_)])
        returned = np.concatenate([self.returned, np.zeros(n_new, np.bool_)])
        is_old = np.arange(len(graph)) < len(self.place)
        return replace(
            graph,
            cells=(*graph.cells, CARRIED),
            cell_of=frozen(np.where(carried, len(graph.cells), graph.cell_of)),
            inputs=Ragged.of(
                [() if at else row for at, row in zip(carried, graph.input_lists, strict=True)]
            ),
            output_bytes=frozen(np.where(carried & gone, 0, graph.output_bytes)),
            host_bytes=frozen(np.where(carried, 0, graph.host_bytes)),
            revealed_by=frozen(np.where(is_old, -1, graph.revealed_by)),
            returns=frozen(np.where(returned, 0, graph.returns)),
            durations={
                name: frozen(np.where(place == device, 0, -1))
                for device, name in enumerate(cluster.names)
                if (place == device).any()
            },
        )


def withdrawn(
    program: Program, first: int, ended: Collection[int], lost: Collection[int]
) -> list[int]:
    """Return the tasks of launches from `first` on that devices which are left have not begun."""
    return [
        task
        for launch in range(first, program.n_launches)
        if launch not in ended and program.launch_device[launch] not in lost
        for task in program.launch_tasks.rows[launch]
    ]


def carry(
    graph: TaskGraph,
    rows: IntArray,
    host: int,
    revealing: IntArray,
    seen: Collection[int],
    left: Iterable[int] = (),
) -> Carried:
    """Return what need not run again of `graph`, of which `rows` (D, n) have survived.

    `seen`: the revealing tasks whose value the model has been given. `left`: tasks that have to
    run in any case. A task stands on the host if its output is there, else on the first device
    that holds it, and also on the host if nobody does and nobody needs it.
    """
    is_held = rows != ABSENT
    survives = is_held.any(axis=0)
    place = np.where(is_held[host] | ~survives, host, is_held.argmax(axis=0))
    given = np.isin(revealing, list(seen))
    unseen = revealing[~given].tolist()
    place[list(_to_run(graph, survives, unseen, left))] = TO_RUN
    return Carried(rows, place, is_held[host], revealing[given])


def _to_run(
    graph: TaskGraph, survives: BoolArray, unseen: Collection[int], left: Iterable[int]
) -> set[int]:
    """Return `left`, and the tasks whose output is gone and wanted, with all that they need.

    Where values are still to reveal tasks, these may read any output of their request.
    """
    group = groups_of(graph)
    is_open = {group[task] for task in unseen}
    gone = np.flatnonzero(~survives).tolist()
    waiting = [
        task
        for task in gone
        if group[task] in is_open or graph.returns[task] or not graph.reader_lists[task]
    ]
    waiting += left
    to_run: set[int] = set()
    while waiting:
        task = waiting.pop()
        if task not in to_run:
            to_run.add(task)
            waiting += [source for source in graph.input_lists[task] if not survives[source]]
    return to_run
