"""CUDA devices: their programs become enqueued work, ordered by events.

One compute stream per device, and a copy stream for each direction:

    host memory ──in stream──► arena ──compute stream──► arena ──out stream──► host memory

Between two CUDA devices the receiver's in stream copies. Bytes that come from a CPU device are
copied once its flag is set; bytes that go to one set its flag once their event has happened. Both
are looked after by `CudaGroup.pump`, which the caller's walk calls all the time.

Devices that another process drives, on this host or another, reach a GPU by its mirror: host memory
in which every byte lies where it lies in the GPU's arena. A GPU of another host may be connected
with it besides (`direct.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynpartition.hardware.compute import LaunchCall
from dynpartition.hardware.control import Arrivals, Awaited
from dynpartition.hardware.direct import DirectTransfers
from dynpartition.hardware.graphs import GraphCache
from dynpartition.hardware.lane import Lane, Site
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import (
    CopyOrder,
    CopyStamp,
    LaunchStamp,
    LoadOrder,
    LoadStamp,
    Report,
    RunOrder,
    Segment,
)
from dynpartition.hardware.streams import StreamApi, begun_by

Api = StreamApi[Any, Any]

_now_ns = time.perf_counter_ns


@dataclass(frozen=True)
class DeviceStreams:
    """The streams of one CUDA device."""

    compute: Any
    incoming: Any
    outgoing: Any


class CudaGroup:
    """What all CUDA devices of a session share: events of transfers, and transfers on their way."""

    def __init__(
        self,
        api: Api,
        streams: Mapping[int, DeviceStreams],
        graphs: Mapping[int, GraphCache],
        arenas: Sequence[Arena | None],
        arrivals: Arrivals,
        *,
        mirrors: Mapping[int, Arena],
        direct: DirectTransfers,
    ) -> None:
        """`arenas`: of the GPUs here, and of CPU devices as far as this process can reach them.

        `mirrors`: of the GPUs here, where they have some, and of those of other processes that can
        be reached. `direct`: what goes over connections.
        """
        self.api = api
        self.streams = streams
        """By device index."""
        self.graphs = graphs
        """By device index."""
        self.arrived: dict[int, Any] = {}
        """Transfer to a CUDA device → event of its arrival."""
        self.leaving: dict[int, Any] = {}
        """Transfer to a device that is not driven here → event; until its flag is set."""
        self._queues: dict[int, deque[int]] = {}
        """CUDA device → its transfers of `leaving`, which happen in this order."""
        self._mirrors = mirrors
        self._coming: dict[int, CopyOrder] = {}
        self._awaited = Awaited(arrivals)
        self._spans: list[tuple[CopyOrder, Any, Any, int, int]] = []
        """With when the host began and ended to enqueue it."""
        self._pushed_ns = 0
        self._arenas = arenas
        self._arrivals = arrivals
        self.direct = direct

    @property
    def pushed_ns(self) -> int:
        """How long the host has been busy with enqueueing transfers."""
        return self._pushed_ns + self.direct.pushed_ns

    @property
    def has_left(self) -> bool:
        """Whether all that is for devices which are not driven here has left."""
        return not self.leaving and self.direct.is_settled

    def expect(self, order: CopyOrder) -> None:
        """Fetch this transfer, from a device that is not driven here, once its flag is set."""
        if self.direct.pair_of(order) is not None:
            self.direct.expect(order)
        else:
            self._coming[order.copy] = order
            self._awaited.add(order.copy)

    def pump(self) -> None:
        """Begin the copies whose bytes are ready and set the flags of those that have arrived."""
        self.fetch()
        self.announce()

    def settle(self) -> None:
        """Note and announce what has arrived, once all devices are idle."""
        self.direct.settle()
        while self.leaving:
            self.announce()

    def arrival(self, copy: int) -> Any:
        """Return the event of a transfer's arrival on a CUDA device; None: nothing is known."""
        event = self.arrived.get(copy)
        return self.direct.arrived.get(copy) if event is None else event

    def fetch(self) -> None:
        """Begin the copies to CUDA devices whose bytes are ready."""
        for copy in self._awaited.take():
            order = self._coming.pop(copy)
            self.arrived[copy] = self.push(order, self.streams[order.dst].incoming)
        self.direct.pump()

    def announce(self) -> None:
        """Set the flags of the copies from CUDA devices that have arrived."""
        for queue in self._queues.values():
            while queue and self.api.has_happened(self.leaving[queue[0]]):
                copy = queue.popleft()
                del self.leaving[copy]
                self._arrivals.set(copy)

    def send(self, order: CopyOrder, stream: Any, after: Any) -> None:
        """Copy to a device that is not driven here, after an event; `pump` sets the flag."""
        if self.direct.pair_of(order) is not None:
            self.direct.offer(order, after)
            return
        self.leaving[order.copy] = self.push(order, stream, after)
        self._queues.setdefault(order.src, deque()).append(order.copy)

    def push(self, order: CopyOrder, stream: Any, after: Any = None) -> Any:
        """Copy on `stream`, after an event where given; return the event of the end."""
        before_ns = _now_ns()
        if after is not None:
            self.api.wait(stream, after)
        start = self.api.record(stream)
        self.api.enqueue(stream, lambda: self._copy(order))
        end = self.api.record(stream)
        after_ns = _now_ns()
        self._pushed_ns += after_ns - before_ns
        self._spans.append((order, start, end, before_ns, after_ns))
        return end

    def _copy(self, order: CopyOrder) -> None:
        source, target = self._arenas[order.src], self._arenas[order.dst]
        from_mirror, to_mirror = source is None, False
        if source is None:
            source = self._mirrors[order.dst]
        if target is None:
            target = self._mirrors.get(order.dst)
        if target is None:  # another host: its relay takes the bytes from here
            target, to_mirror = self._mirrors[order.src], True
        for src, dst, size in order.spans:
            begin, end = dst if from_mirror else src, src if to_mirror else dst
            target.raw[end : end + size].copy_(source.raw[begin : begin + size], non_blocking=True)

    def drop(self) -> None:
        """Forget all transfers: their events can be asked nothing any more."""
        for pending in (self.arrived, self.leaving, self._queues, self._coming, self._spans):
            pending.clear()
        self.direct.drop()

    def stamps(self) -> list[CopyStamp]:
        """Return when the transfers took place, once everything has ended."""
        clock = self.api.host_ns
        stamps = [
            CopyStamp(order.copy, *begun_by(clock(a), clock(b), after_ns), after_ns - before_ns)
            for order, a, b, before_ns, after_ns in self._spans
        ]
        return stamps + self.direct.stamps()


def graphs_of(api: Api, stream: Any, site: Site) -> GraphCache:
    """Return the captured calls of a device, none so far; `stream`: where it computes."""
    arena = site.arenas[site.index]
    assert arena is not None
    some_go = site.shelf is not None and not site.shelf.holds_all_at_first
    unsteady = set(site.cells) if some_go else set()
    return GraphCache(api, stream, site.cells, arena, unsteady=unsteady)


class CudaLane(Lane):
    """A program that is enqueued as it is interpreted."""

    def __init__(self, site: Site, epoch: int, group: CudaGroup) -> None:
        super().__init__(site, epoch)
        self._group = group
        self._api = group.api
        self._streams = group.streams[site.index]
        self._begun: list[tuple[int, Any, int, int]] = []
        self._dispatch_ns: dict[int, int] = {}
        self._spent_ns = 0
        """By the host, since the last launch was enqueued."""
        self._ended: dict[int, Any] = {}
        self._loaded: list[tuple[str, Any, Any]] = []

    @property
    def _version(self) -> int:
        return self._group.graphs[self.site.index].version

    def _prepared(self, runs: Sequence[RunOrder]) -> dict[int, LaunchCall]:
        return self._group.graphs[self.site.index].launches(runs, self.site.name)

    def extend(self, segment: Segment) -> None:
        """Append a segment and look out for what CPU devices will send."""
        leaving = [cell for order in segment.loads for cell in order.evict]
        self._group.graphs[self.site.index].forget(leaving)
        super().extend(segment)
        for order in segment.copies:
            if order.dst == self.site.index and order.src not in self._group.streams:
                self._group.expect(order)

    @property
    def is_idle(self) -> bool:
        """Whether all launches that were enqueued have ended."""
        return not self._begun or self._api.has_happened(self._ended[self._begun[-1][0]])

    def _has_arrived(self, copy: int) -> bool:
        event = self._group.arrival(copy)
        if event is None:
            return False
        self._api.wait(self._streams.compute, event)
        return True

    def _run(self, launch: int, call: LaunchCall) -> None:
        shelf = self.site.shelf
        assert shelf is None or call.cell in shelf.held, f"{call.cell} is not there"
        repeats = self.site.repeater.next()
        start = self._api.record(self._streams.compute)
        self._api.enqueue(self._streams.compute, lambda: call.run(repeats))
        self._begun.append((launch, start, repeats, _now_ns()))

    def _record(self, launch: int) -> None:
        self._ended[launch] = self._api.record(self._streams.compute)

    def _copy(self, order: CopyOrder, launch: int) -> None:
        # What ran before a loss has ended: there is no event to wait for.
        group, after = self._group, self._ended.get(launch)
        if order.dst in group.streams:
            stream = group.streams[order.dst].incoming
            group.arrived[order.copy] = group.push(order, stream, after)
        else:
            group.send(order, self._streams.outgoing, after)

    def _load(self, order: LoadOrder) -> None:
        api, compute, incoming = self._api, self._streams.compute, self._streams.incoming
        shelf = self.site.shelf
        assert shelf is not None
        # Until then launches read what is evicted now, and the device has not come to this one.
        api.wait(incoming, api.record(compute))
        for cell in order.evict:
            shelf.evict(cell)
        if order.cell:
            start = api.record(incoming)
            shelf.load(order.cell)
            end = api.record(incoming)
            api.wait(compute, end)
            self._loaded.append((order.cell, start, end))
        shelf.check(order.arena_bytes)

    def spend(self, host_ns: int) -> None:
        """Charge time of the host, transfers aside, to the launch that it is for."""
        self._spent_ns += host_ns
        if self._begun and self._begun[-1][0] not in self._dispatch_ns:
            self._dispatch_ns[self._begun[-1][0]] = self._spent_ns
            self._spent_ns = 0

    def report(self) -> Report:
        """Return when launches ran and weights came; transfers are the group's."""
        clock = self._api.host_ns
        stamps = [
            LaunchStamp(
                launch,
                *begun_by(clock(start), clock(self._ended[launch]), enqueued_ns),
                repeats,
                0,
                self._dispatch_ns.get(launch, 0),
            )
            for launch, start, repeats, enqueued_ns in self._begun
        ]
        loads = [
            LoadStamp(self.site.index, cell, clock(start), clock(end))
            for cell, start, end in self._loaded
        ]
        return Report(self.epoch, stamps, [], loads)
