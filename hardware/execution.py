"""One session on the devices: hands out segments, drives the caller's own, collects reports."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynpartition.errors import DeviceLost
from dynpartition.hardware.blueprint import Value
from dynpartition.hardware.control import Arrivals
from dynpartition.hardware.cuda_lane import Api, CudaGroup, DeviceStreams
from dynpartition.hardware.graphs import GraphCache
from dynpartition.hardware.lane import Site
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Finish, Report, Segment
from dynpartition.hardware.patience import Patience
from dynpartition.hardware.pool import NameCell, Pool
from dynpartition.hardware.walk import Walk

ABORT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Machine:
    """All devices of a backend."""

    pool: Pool
    host: Site
    """The caller's own CPU device."""
    cuda: Sequence[Site]
    arenas: Sequence[Arena | None]
    """Of all devices."""
    api: Api
    streams: Mapping[int, DeviceStreams]
    graphs: Mapping[int, GraphCache]
    core: int | None
    """Where the caller runs meanwhile."""
    polite: bool

    @property
    def host_arena(self) -> Arena:
        """Memory of the caller's own device."""
        arena = self.host.arenas[self.host.index]
        assert arena is not None
        return arena

    def capture_wanted(self) -> None:
        """Capture the calls that CUDA devices were asked for; while no session is open."""
        for graphs in self.graphs.values():
            graphs.capture_wanted()

    def close(self) -> None:
        """End the workers and free everything. Idempotent."""
        if not self.pool.is_closed:
            try:
                for arena in self.pool.memory.arenas if self.cuda else ():
                    if arena is not None:
                        self.api.unpin(arena.raw)
            finally:
                self.pool.close()


class Execution:
    """One session's share of the machine."""

    def __init__(self, machine: Machine, epoch: int, name_cell: NameCell) -> None:
        self._pool = machine.pool
        self._api = machine.api
        self._epoch = epoch
        self._name_cell = name_cell
        self._patience = Patience(polite=machine.polite)
        self._arrivals = Arrivals(machine.pool.control, epoch)
        group = CudaGroup(
            machine.api, machine.streams, machine.graphs, machine.arenas, self._arrivals
        )
        self._walk = Walk(machine.host, machine.cuda, epoch, group)
        self.origin_ns = 0
        """When the clock started; 0 before."""
        self.is_over = False

    def append(self, segments: Sequence[Segment]) -> None:
        """Give every device its segment; the first time, start the clock when all have it."""
        is_first = self.origin_ns == 0
        for segment in segments:
            segment.epoch = self._epoch
        for worker, device in enumerate(self._pool.device_of):
            if is_first or segments[device].code:
                self._pool.send(worker, segments[device], self._name_cell)
        self._walk.extend(segments)
        if is_first:
            self._start_clock()

    def _start_clock(self) -> None:
        control = self._pool.control
        for worker in range(len(self._pool.workers)):
            while not control.is_ready(worker, self._epoch):
                self._pause()
        self._api.start_clock()
        self.origin_ns = time.perf_counter_ns()
        control.go(self._epoch)

    def run_until(self, values: Sequence[Value]) -> list[Value]:
        """Go on until some of `values` are there and return them; without any, to the end."""
        walk, patience = self._walk, self._patience
        patience.reset()
        while True:
            # What has run is stamped, and what others wait for leaves, before the scheduler gets
            # the thread.
            if values and not walk.must_go_on:
                there = [value for value in values if self._is_there(value)]
                if there:
                    return there
            if walk.step():
                patience.reset()
            elif walk.is_done and not values:
                return []
            else:
                self._pause()

    def _is_there(self, value: Value) -> bool:
        if value.copy < 0:
            return value.launch not in self._walk.host.unrecorded
        return self._arrivals.has(value.copy)

    def _pause(self) -> None:
        self._patience.pause()
        self._pool.check(self._name_cell)

    def finish(self) -> list[Report]:
        """Wait for all devices and return what they did."""
        self._ask_to_finish(drain=True)
        reports = self._worker_reports()
        self._walk.settle()
        self.is_over = True
        return [*self._walk.reports(), *reports]

    def abort(self) -> None:
        """Drop what has not begun and wait for the rest; DeviceLost when it takes too long."""
        if self.origin_ns and not self.is_over:
            self._ask_to_finish(drain=False)
            self._worker_reports(ABORT_TIMEOUT_S)
            self._walk.settle()
        self.is_over = True

    def _ask_to_finish(self, *, drain: bool) -> None:
        for worker in range(len(self._pool.workers)):
            self._pool.send(worker, Finish(self._epoch, drain), self._name_cell)

    def _worker_reports(self, timeout_s: float = math.inf) -> list[Report]:
        return [self._report(worker, timeout_s) for worker in range(len(self._pool.workers))]

    def _report(self, worker: int, timeout_s: float) -> Report:
        message = self._pool.receive(worker, self._patience, self._name_cell, timeout_s)
        if not isinstance(message, Report) or message.epoch != self._epoch:
            raise DeviceLost(f"worker {worker} answered out of turn; open a new backend")
        return message
