"""Where in which arena every output, received copy and host input of a session lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.cluster import Cluster
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.hardware import placing
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.program import Program
from dynpartition.types import IntArray


@dataclass(frozen=True, eq=False)
class Placement:
    """The places of launches and transfers that are new; columns as in `placing`."""

    calls: IntArray
    """(B, 5), by launch."""
    arguments: IntArray
    """(A, 3)."""
    rows: IntArray
    """The rows that arguments read, one list behind the other."""
    span_start: IntArray
    """(C + 1,) of all transfers."""
    spans: IntArray
    """(S, 3): source offset, destination offset, bytes."""
    used_before: IntArray
    """(D,) bytes of each arena that had been given out before."""
    used: IntArray
    """(D,) the same with these places."""


@dataclass(frozen=True, eq=False)
class Places:
    """What a layout has given out."""

    used: IntArray
    """(D,) bytes."""
    output_row: IntArray
    """(D, N)"""
    input_row: IntArray
    """(D, N)"""


class Layout:
    """Rows given out so far. Memory of a session is never reused within it."""

    def __init__(self, cluster: Cluster, capacity_bytes: Sequence[int]) -> None:
        self.cluster = cluster
        self._capacity = np.array(capacity_bytes, dtype=np.int64)
        self._used = np.zeros(len(capacity_bytes), dtype=np.int64)
        self.output_row = self.input_row = np.empty((len(capacity_bytes), 0), dtype=np.int64)
        """(D, N) rows of outputs and of host inputs; what is not there is never asked for."""

    def add_tasks(self, tasks: KnownTasks, first: int) -> None:
        """Give the host inputs of tasks from number `first` on places on the host, kind by kind."""
        host, used = self.cluster.host_index, self._used.copy()
        rows = np.full(len(tasks) - first, placing.ABSENT)
        kind_of = tasks.kind_of[first:]
        for kind in np.unique(kind_of).tolist():
            row_bytes = int(tasks.host_bytes[kind])
            if row_bytes > 0:
                fed = np.flatnonzero(kind_of == kind)
                row = placing.allocate(used, self._capacity, host, row_bytes, len(fed))
                if row < 0:
                    raise self._shortage(host, "host inputs", row_bytes * len(fed))
                rows[fed] = np.arange(row, row + len(fed))
        self._used = used
        more = np.full((len(used), len(rows)), placing.ABSENT)
        self.output_row = np.concatenate([self.output_row, more], axis=1)
        more[host] = rows
        self.input_row = np.concatenate([self.input_row, more], axis=1)

    def place(self, tasks: KnownTasks, program: Program, launches: int, copies: int) -> Placement:
        """Return places for what comes after the first `launches` and `copies` of a program.

        They count as given out once they are settled. Raises OutOfDeviceMemory.
        """
        n_new = len(program.launch_tasks.values) - int(program.launch_tasks.start[launches])
        n_args = len(tasks.inputs.values) + n_new
        used = self._used.copy()
        count, failed = np.zeros(4, dtype=np.int64), np.zeros(3, dtype=np.int64)
        calls = np.empty((n_new, 5), dtype=np.int64)
        arguments = np.empty((n_args, 3), dtype=np.int64)
        rows = np.empty(n_args, dtype=np.int64)
        span_start = np.zeros(program.n_copies + 1, dtype=np.int64)
        spans = np.empty((len(program.copy_tasks.values), 3), dtype=np.int64)
        outcome = placing.place(
            tasks.kind_of,
            tasks.inputs.start,
            tasks.inputs.values,
            tasks.output_bytes,
            tasks.host_bytes,
            tasks.shape_of,
            program.launch_tasks.start,
            program.launch_tasks.values,
            program.launch_device,
            launches,
            program.copy_src,
            program.copy_dst,
            program.copy_is_input,
            program.copy_tasks.start,
            program.copy_tasks.values,
            copies,
            used,
            self._capacity,
            self.output_row,
            self.input_row,
            np.empty(len(tasks), dtype=np.int64),
            count,
            calls,
            arguments,
            rows,
            span_start,
            spans,
            failed,
        )
        if outcome != placing.FITS:
            raise self._full(tasks, program, outcome == placing.COPY_DOES_NOT_FIT, failed)
        n_calls, n_arguments, n_rows, n_spans = count.tolist()
        return Placement(
            calls[:n_calls],
            arguments[:n_arguments],
            rows[:n_rows],
            span_start,
            spans[:n_spans],
            self._used,
            used,
        )

    def places(self) -> Places:
        """Return a copy of what has been given out."""
        return Places(self._used.copy(), self.output_row.copy(), self.input_row.copy())

    def restore(self, places: Places) -> None:
        """Give out what a layout of the same tasks has given out before."""
        self._used = places.used.copy()
        self.output_row, self.input_row = places.output_row.copy(), places.input_row.copy()

    def begin_again(self, tasks: KnownTasks, rows: IntArray) -> None:
        """Keep only outputs that lie in `rows` (D, N), and the host inputs on the host."""
        host = self.cluster.host_index
        sizes = tasks.output_bytes[tasks.kind_of], tasks.host_bytes[tasks.kind_of]
        self.output_row = rows.copy()
        self.input_row[np.arange(len(rows)) != host] = placing.ABSENT
        ends = ((self.output_row + 1) * sizes[0], (self.input_row + 1) * np.maximum(sizes[1], 0))
        # What is ABSENT ends at 0.
        self._used = np.concatenate(ends, axis=1).max(axis=1)

    def settle(self, placement: Placement) -> None:
        """Take note that the places of `placement` are given out."""
        self._used = placement.used

    def _full(
        self, tasks: KnownTasks, program: Program, is_copy: bool, failed: IntArray
    ) -> OutOfDeviceMemory:
        device, number, needed_bytes = failed.tolist()
        launch = int(program.copy_launch[number]) if is_copy else number
        travelling = program.copy_tasks.rows[number] if is_copy else ()
        cell = tasks.kind(travelling[0] if is_copy else program.launch_tasks.rows[launch][0]).cell
        who = f"transfer of launch {launch} ({cell})" if is_copy else f"launch {launch} ({cell})"
        return self._shortage(device, who, needed_bytes)

    def _shortage(self, device: int, who: str, needed_bytes: int) -> OutOfDeviceMemory:
        name = self.cluster.names[device]
        capacity, used = int(self._capacity[device]), int(self._used[device])
        return OutOfDeviceMemory(
            f"{who} needs {needed_bytes:,} bytes on {name}, which has {capacity - used:,} of"
            f" {capacity:,} left; raise its cap (--devices {name}@SIZE, or arena_bytes) or place"
            " less on it"
        )
