"""One session on the devices: hands out segments, drives the caller's own, collects reports."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from dynpartition.errors import DeviceLost
from dynpartition.hardware.blueprint import Value
from dynpartition.hardware.control import Arrivals
from dynpartition.hardware.cuda_lane import Api, CudaGroup, DeviceStreams
from dynpartition.hardware.direct import LeadingTransfers
from dynpartition.hardware.graphs import GraphCache
from dynpartition.hardware.lane import Site
from dynpartition.hardware.links import GpuLinks
from dynpartition.hardware.losses import GpusLost, Loss, WorkerLost, no_memory
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Finish, Report, Segment
from dynpartition.hardware.pacing import wait_until
from dynpartition.hardware.pool import NameCell, Pool
from dynpartition.hardware.virtual import DecisionClock
from dynpartition.hardware.walk import Walk
from dynpartition.program import Program

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
    mirrors: Mapping[int, Arena]
    """GPU → host memory for what it exchanges with other hosts; none where there are none."""
    api: Api
    streams: Mapping[int, DeviceStreams]
    graphs: Mapping[int, GraphCache]
    links: GpuLinks
    """Connections of these GPUs with those of other hosts."""
    core: int | None
    """Where the caller runs meanwhile."""
    lost_gpus: dict[int, str] = field(default_factory=dict)
    """Device index → what is known of its end."""
    full: dict[int, str] = field(default_factory=dict)
    """Devices without room for the weights of the next session, and what is known of it."""
    epochs: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Numbers for executions."""

    @property
    def host_arena(self) -> Arena:
        """Memory of the caller's own device."""
        arena = self.host.arenas[self.host.index]
        assert arena is not None
        return arena

    @property
    def working_gpus(self) -> list[Site]:
        """The CUDA devices that have not been lost."""
        return [site for site in self.cuda if site.index not in self.lost_gpus]

    @property
    def why_lost(self) -> dict[int, str]:
        """Devices with which nothing can be done, by index, and what is known of their end."""
        pool = self.pool
        return {pool.device_of[w]: why for w, why in pool.why_lost.items()} | self.lost_gpus

    def lose_gpus(self, why: str) -> None:
        """Do without CUDA from now on."""
        self.lost_gpus.update((site.index, why) for site in self.working_gpus)
        self.links.lose(why)

    def refresh(self, has_finished: bool) -> None:
        """Get ready for a session, while none is open and before anything of it is written.

        `has_finished`: whether the last session has.
        """
        self.pool.revive()
        if self.working_gpus:
            try:
                self.links.reconnect()
                self._capture_wanted(has_finished)
                self._restock()
            except RuntimeError as error:
                self.lose_gpus(str(GpusLost(error)))

    def _capture_wanted(self, has_finished: bool) -> None:
        """Capture the calls that CUDA devices were asked for, if the last session has finished."""
        for graphs in self.graphs.values():
            if has_finished:
                graphs.capture_wanted()
            graphs.wanted.clear()

    def _restock(self) -> None:
        """Bring back the weights that a session begins with, and note where there is no room.

        Workers do so by themselves when a session's first segment reaches them.
        """
        self.full.clear()
        for site in self.working_gpus:
            if site.shelf is not None:
                try:
                    site.shelf.reset()
                except torch.OutOfMemoryError as error:
                    self.full[site.index] = str(no_memory(site.name, error))

    def close(self) -> None:
        """End the workers and free everything. Idempotent."""
        if not self.pool.is_closed:
            try:
                if self.working_gpus:
                    with suppress(RuntimeError):  # of a GPU that has been lost nothing is left
                        self._release_gpus()
            finally:
                self.pool.close()

    def _release_gpus(self) -> None:
        self.links.close()
        for arena in (*self.pool.memory.arenas, *self.mirrors.values()):
            if arena is not None:
                self.api.unpin(arena.raw)
        self.api.unpin(self.pool.memory.master.raw)
        for site in self.cuda:
            if site.shelf is not None:
                site.shelf.clear()


class Execution:
    """One session's share of the machine, or what is left of it after a loss.

    Methods raise a Loss when devices are gone; `rescue` is what can be done then.
    """

    def __init__(
        self,
        machine: Machine,
        name_cell: NameCell,
        origin_ns: int = 0,
        veterans: Collection[int] = (),
    ) -> None:
        """`origin_ns`: when the session's clock started, 0: it has not.

        `veterans`: workers that hold outputs of the session already.
        """
        self._machine = machine
        self._pool = machine.pool
        self._graphs = machine.graphs
        self._epoch = next(machine.epochs)
        self._name_cell = name_cell
        self._veterans = veterans
        self._arrivals = Arrivals(
            machine.pool.control, self._epoch, paced=machine.host.waits_for_times
        )
        self._group = CudaGroup(
            *(machine.api, machine.streams, machine.graphs, machine.arenas, self._arrivals),
            mirrors=machine.mirrors,
            direct=LeadingTransfers(
                *(machine.api, machine.links.of, machine.arenas, machine.pool.control, self._epoch)
            ),
        )
        self._walk = Walk(machine.host, machine.working_gpus, self._epoch, self._group)
        self.clock = DecisionClock("virtual" if machine.host.virtual else "wall")
        self._has_begun = False
        self._given: set[int] = set()
        self._done_here: list[Report] = []
        self.reported: dict[int, Report] = {}
        """Worker → what it has done, as far as they have reported."""
        self.origin_ns = origin_ns
        """When the clock started; 0 before."""
        self.is_over = False

    def append(self, segments: Sequence[Segment], known_ns: int = 0) -> None:
        """Give every device its segment; the first time, start the clock when all have it.

        `known_ns`: when a later segment became known, in virtual time.
        """
        is_first, pool = not self._has_begun, self._pool
        for segment in segments:
            segment.epoch = self._epoch
            segment.known_ns = known_ns if self._has_begun else 0
        for worker in pool.alive:
            segment = segments[pool.device_of[worker]]
            if is_first or segment.code:
                segment.goes_on = worker in self._veterans
                pool.send(worker, pool.shortened(worker, segment), self._name_cell)
                self._given.add(worker)
        self._walk.extend(segments)
        if is_first:
            self._start_clock()
            self._has_begun = True

    def _start_clock(self) -> None:
        control = self._pool.control
        for worker in self._pool.alive:
            while not control.is_ready(worker, self._epoch):
                self._pause(owing=worker)
        if not self.origin_ns:
            self._walk.start_clock()
            self.origin_ns = self.clock.start_ns()
        control.go(self._epoch)

    def run_until(self, values: Sequence[Value]) -> list[Value]:
        """Go on until some of `values` are there and return them; without any, to the end."""
        walk, patience, pool = self._walk, self._pool.patience, self._pool
        now_ns, waited = pool.clock.now_ns, False
        patience.reset()
        while True:
            # What has run is stamped, and what others wait for leaves, before the scheduler gets
            # the thread.
            if values and not walk.must_go_on:
                there = [value for value in values if self._is_there(value)]
                if there:
                    return there
            if walk.step():
                if waited:
                    patience.reset()
                    waited = False
                if now_ns() > pool.check_due_ns:
                    pool.check(self._name_cell)
            elif walk.is_done and not values:
                return []
            else:
                waited = True
                self._pause()

    def _is_there(self, value: Value) -> bool:
        if value.copy < 0:
            return value.launch not in self._walk.host.unrecorded
        return self._arrivals.has(value.copy)

    def seen_ns(self, value: Value) -> int:
        """Return when a value that is there is seen: now or, in virtual time, when it came."""
        came_ns = 0
        if self.clock.is_virtual:
            own, host = value.copy < 0, self._walk.host
            host.stand_still()
            came_ns = host.ended_ns(value.launch) if own else self._arrivals.time_ns(value.copy)
        return self.clock.seen_ns(came_ns)

    def _pause(self, owing: int = -1) -> None:
        self._pool.patience.pause()
        self._pool.check(self._name_cell, owing)

    def finish(self) -> list[Report]:
        """Wait for all devices and return what they did."""
        for worker in self._owing():
            self._pool.send(worker, Finish(self._epoch, drain=True), self._name_cell)
        for worker in self._owing():
            self.reported[worker] = self._report(worker, math.inf)
        self._settle()
        self.is_over = True
        reports = self.reports()
        if self._machine.host.waits_for_times:  # answers come when their links have brought them
            wait_until(max((s.end_ns for report in reports for s in report.copies), default=0))
        return reports

    def rescue(self, loss: Loss) -> None:
        """After a loss: let all others drop what they have not begun, and wait for the rest.

        Afterwards no device works and nothing is under way. More may be found to be lost by then.
        """
        try:
            self._give_up(loss)
            self._come_to_rest()
        except GpusLost as another:
            self._give_up(another)
            self._come_to_rest()
        for graphs in self._graphs.values():
            graphs.wanted.clear()  # what dropped calls would read may never have been written
        self.is_over = True

    def _give_up(self, loss: Loss) -> None:
        if isinstance(loss, WorkerLost):
            self._pool.discard(loss.worker, str(loss))
            self._walk.part_from(self._machine.links)
        elif isinstance(loss, GpusLost):
            self._machine.lose_gpus(str(loss))
            self._walk.drop_gpus()

    def _come_to_rest(self) -> None:
        while self._walk.must_go_on:
            try:
                self._walk.step()
            except WorkerLost as another:
                self._give_up(another)
        self._stop(math.inf)
        self._settle()

    def _settle(self) -> None:
        """Wait until the CUDA devices are idle, and ask what was done here."""
        self._rest()
        self._done_here = self._walk.reports()

    def _rest(self) -> None:
        """Wait until the CUDA devices are idle; nothing comes from devices that are gone."""
        self._walk.part_from(self._machine.links)
        self._walk.settle()

    def abort(self) -> None:
        """Drop what has not begun and wait for the rest; a worker that takes too long is ended."""
        if self._given and not self.is_over:
            self._stop(ABORT_TIMEOUT_S)
            try:
                self._rest()
            except GpusLost as loss:
                self._give_up(loss)
        self.is_over = True

    def reports(self) -> list[Report]:
        """Return what all devices did, as far as it is known; only when nothing is under way."""
        return [*self._done_here, *self.reported.values()]

    def arrived(self, program: Program) -> list[int]:
        """Return the transfers that have arrived; only when nothing is under way."""
        driven = {stamp.copy for report in self._done_here for stamp in report.copies}
        flagged = program.copy_dst.tolist()
        return [
            copy
            for copy, dst in enumerate(flagged)
            if copy in driven or (dst not in self._group.streams and self._arrivals.has(copy))
        ]

    def _owing(self) -> list[int]:
        """Return the workers that have something of this session and have not reported."""
        given = self._given.difference(self.reported)
        return [worker for worker in self._pool.alive if worker in given]

    def _stop(self, timeout_s: float) -> None:
        """Let workers drop what they have not begun, and wait; one that does not answer is lost."""
        for worker in self._owing():
            try:
                self._pool.send(worker, Finish(self._epoch, drain=False), self._name_cell)
            except WorkerLost as loss:
                self._pool.discard(loss.worker, str(loss))
        while owing := self._owing():
            try:
                self.reported[owing[0]] = self._report(owing[0], timeout_s)
            except WorkerLost as loss:
                self._pool.discard(loss.worker, str(loss))

    def _report(self, worker: int, timeout_s: float) -> Report:
        while True:
            message = self._pool.receive(worker, self._name_cell, timeout_s)
            if not isinstance(message, Report) or message.epoch > self._epoch:
                raise DeviceLost(f"worker {worker} answered out of turn; open a new backend")
            if message.epoch == self._epoch:
                return message
