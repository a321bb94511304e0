"""Buffers: where the outputs of a program live, who reads them, and when they may be freed."""

from __future__ import annotations

from dataclasses import dataclass

from dynpartition.graph import TaskGraph
from dynpartition.program import Program
from dynpartition.types import IntArray, Ragged, frozen

NO_GROUP = -1
"""Group of a host input: nothing hidden can read it."""


@dataclass(frozen=True, eq=False)
class Buffers:
    """U buffers, each one output (or one launch's host input) on one device; G request groups.

    A buffer is reserved when what makes it starts and freed when all that reads it has ended and
    its group is closed: its revealers are known and all its tasks have arrived.
    """

    device: IntArray
    """(U,) device index."""
    bytes: IntArray
    """(U,)"""
    group: IntArray
    """(U,) or NO_GROUP."""
    launch_makes: Ragged
    """L rows of buffers."""
    launch_reads: Ragged
    """L rows of buffers, without repeats."""
    copy_makes: Ragged
    """C rows of buffers, on the destination."""
    copy_reads: Ragged
    """C rows of buffers, on the source."""
    group_revealers: Ragged
    """G rows of revealers that must be known before a group closes."""
    group_arrival_ns: IntArray
    """(G,) when the last task of a group has arrived."""

    def n_readers(self) -> list[int]:
        """Return how many launches and transfers read each buffer."""
        count = [0] * len(self.device)
        for reads in (*self.launch_reads.rows, *self.copy_reads.rows):
            for buffer in reads:
                count[buffer] += 1
        return count


def find_buffers(program: Program, graph: TaskGraph) -> Buffers:
    """Return the buffers of a program for `graph`."""
    return _Collector(program, graph).buffers()


def groups_of(graph: TaskGraph) -> list[int]:
    """Return the group of each task: its request, or one for all if anything joins two requests."""
    requests = graph.request.tolist()
    edges = [
        (task, other)
        for task, inputs in enumerate(graph.input_lists)
        for other in (*inputs, int(graph.revealed_by[task]))
        if other >= 0
    ]
    if any(requests[task] != requests[other] for task, other in edges):
        return [0] * len(graph)
    number = {request: index for index, request in enumerate(dict.fromkeys(requests))}
    return [number[request] for request in requests]


class _Collector:
    def __init__(self, program: Program, graph: TaskGraph) -> None:
        self.program = program
        self.graph = graph
        self.group_of = groups_of(graph)
        self.device: list[int] = []
        self.bytes: list[int] = []
        self.group: list[int] = []
        self.made_at: dict[tuple[int, int], int] = {}  # (task, device) → its buffer

    def _outputs(self, tasks: tuple[int, ...], device: int) -> list[int]:
        made = []
        for task in tasks:
            self.made_at[task, device] = len(self.device)
            made.append(self._add(device, int(self.graph.output_bytes[task]), self.group_of[task]))
        return made

    def _add(self, device: int, size_bytes: int, group: int) -> int:
        self.device.append(device)
        self.bytes.append(size_bytes)
        self.group.append(group)
        return len(self.device) - 1

    def buffers(self) -> Buffers:
        program, made_at = self.program, self.made_at
        device_of = program.launch_device.tolist()
        launch_makes = [
            self._outputs(tasks, device)
            for tasks, device in zip(program.launch_tasks.rows, device_of, strict=True)
        ]
        launch_reads = [
            [made_at[source, device] for source in self._local_inputs(launch, device)]
            for launch, device in enumerate(device_of)
        ]
        copy_makes, copy_reads = [], []
        for copy in range(program.n_copies):
            made = self._made_by(copy)
            copy_makes.append(made)
            src = int(program.copy_src[copy])
            copy_reads.append([] if program.copy_is_input[copy] else self._sent(copy, src))
        for launch, waits in enumerate(program.launch_waits.rows):
            launch_reads[launch] += self._fetched(launch, waits, copy_makes)
        revealers, arrivals = self._groups()
        return Buffers(
            device=frozen(self.device),
            bytes=frozen(self.bytes),
            group=frozen(self.group),
            launch_makes=Ragged.of(launch_makes),
            launch_reads=Ragged.of(launch_reads),
            copy_makes=Ragged.of(copy_makes),
            copy_reads=Ragged.of(copy_reads),
            group_revealers=revealers,
            group_arrival_ns=arrivals,
        )

    def _inputs(self, launch: int) -> list[int]:
        tasks = self.program.launch_tasks.rows[launch]
        return list(dict.fromkeys(s for task in tasks for s in self.graph.input_lists[task]))

    def _local_inputs(self, launch: int, device: int) -> list[int]:
        return [source for source in self._inputs(launch) if (source, device) in self.made_at]

    def _made_by(self, copy: int) -> list[int]:
        program, dst = self.program, int(self.program.copy_dst[copy])
        if program.copy_is_input[copy]:
            return [self._add(dst, int(program.copy_bytes[copy]), NO_GROUP)]
        return self._outputs(program.copy_tasks.rows[copy], dst)

    def _sent(self, copy: int, src: int) -> list[int]:
        return [self.made_at[task, src] for task in self.program.copy_tasks.rows[copy]]

    def _fetched(
        self, launch: int, waits: tuple[int, ...], copy_makes: list[list[int]]
    ) -> list[int]:
        """Return the buffers that transfers made for `launch`: not all that came with them."""
        wanted = set(self._inputs(launch))
        found = []
        for copy in waits:
            is_input = self.program.copy_is_input[copy]
            pairs = zip(self.program.copy_tasks.rows[copy], copy_makes[copy], strict=False)
            found += copy_makes[copy] if is_input else [b for task, b in pairs if task in wanted]
        return found

    def _groups(self) -> tuple[Ragged, IntArray]:
        n_groups = max(self.group_of) + 1
        revealers: list[list[int]] = [[] for _ in range(n_groups)]
        arrival = [0] * n_groups
        for task in self.graph.revealers:
            revealers[self.group_of[task]].append(task)
        for task, group in enumerate(self.group_of):
            arrival[group] = max(arrival[group], self.graph.available_ns[task])
        return Ragged.of(revealers), frozen(arrival)
