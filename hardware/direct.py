"""Outputs that go straight from a GPU to one of another host, in one session.

Two connected GPUs must begin the same transfers in the same order, and each occupies its GPU until
the other end has begun it too. A plan fixes no order, so rank 0 leads: it begins what is ready, one
after the other, and a chain of cues tells each worker elsewhere what to begin.

    from rank 0's GPU:  ready ─► cue, begins to send ────────────────► rank K begins to receive
    from rank K's GPU:  ready ── flag ──► rank 0: cue, begins to receive ──► rank K begins to send

So there is one order for all GPUs, and each begins its part of it in that order. Whatever a host
waits for meanwhile (CUDA waits for the whole GPU to load a kernel late, or to give memory back), a
transfer that all before have passed can go on, and with it its hosts: no circle can close. Relay
and server pass cues and flags on, in the order in which they were given.

An output counts as there once its transfer has ended, not once it has begun as on one host: the
other end may be lost meanwhile.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynpartition.hardware.control import Arrivals, Awaited, Control, Cues
from dynpartition.hardware.losses import WorkerLost, is_of_cuda
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import CopyOrder, CopyStamp
from dynpartition.hardware.peer import Peer
from dynpartition.hardware.streams import StreamApi, begun_by

Pair = tuple[int, int]
"""The GPU here and the one of the other host, by device index."""


@dataclass(frozen=True, eq=False)
class GpuLink:
    """A connection."""

    peer: Peer
    stream: Any
    """For all of its transfers, one after the other."""
    worker: int
    """That of the other rank, whose cues the transfers follow."""


@dataclass(frozen=True, eq=False)
class Passage:
    """One end of a transfer, once it has begun."""

    order: CopyOrder
    pair: Pair
    start: Any
    """Event; of what leaves the end of its launch."""
    end: Any
    """Event."""
    before_ns: int
    after_ns: int
    """When the host began and ended to enqueue it."""


class DirectTransfers(ABC):
    """The transfers of one session over connections of GPUs here."""

    def __init__(
        self,
        api: StreamApi[Any, Any],
        links: Mapping[Pair, GpuLink],
        arenas: Sequence[Arena | None],
        control: Control,
        epoch: int,
    ) -> None:
        """`links` may lose some meanwhile: those whose other end is gone."""
        self._api, self._links, self._arenas = api, links, arenas
        self._control, self._epoch = control, epoch
        self._arrivals = Arrivals(control, epoch)
        self._awaited = Awaited(self._arrivals)
        self.arrived: dict[int, Any] = {}
        """Transfer to a GPU here → event of its arrival, once that has happened."""
        self._expected: dict[int, CopyOrder] = {}
        self._offered: dict[Pair, deque[tuple[CopyOrder, Any]]] = {}
        """What leaves once an event has happened; within a pair they happen in this order."""
        self._cues: dict[int, Cues] = {}
        """By worker."""
        self._announced: dict[int, CopyOrder] = {}
        """What is to leave another rank than 0, as rank 0 has been told."""
        self._ended: dict[int, Any] = {}
        """Transfer that leaves → the end of its launch, in this session."""
        self._landing: list[Passage] = []
        self._leaving: list[Passage] = []
        self._passed: list[Passage] = []
        self.pushed_ns = 0
        """How long the host has been busy with enqueueing transfers."""

    def pair_of(self, order: CopyOrder) -> Pair | None:
        """Return the connection that a transfer goes over; None: it goes another way."""
        for pair in ((order.src, order.dst), (order.dst, order.src)):
            if pair in self._links:
                return pair
        return None

    def expect(self, order: CopyOrder) -> None:
        """Receive this transfer when its turn has come."""
        self._expected[order.copy] = order
        self._awaited.add(order.copy)

    def offer(self, order: CopyOrder, after: Any) -> None:
        """Send the outputs of a launch that ends with the event `after`; None: it has ended."""
        pair = order.src, order.dst
        self._offered.setdefault(pair, deque()).append((order, after))

    def pump(self) -> None:
        """Begin what can begin, and note what has come."""
        if self._links:
            self._begin()
            self.land()

    @abstractmethod
    def _begin(self) -> None:
        """Begin what can begin."""

    def _cues_of(self, worker: int) -> Cues:
        """Return where this session is in a worker's cues."""
        if worker not in self._cues:
            self._cues[worker] = Cues(self._control, worker, self._epoch)
        return self._cues[worker]

    def _ready(self, queue: deque[tuple[CopyOrder, Any]]) -> CopyOrder | None:
        """Take the first of what is offered, if its launch has ended."""
        if not queue or not (queue[0][1] is None or self._api.has_happened(queue[0][1])):
            return None
        order, after = queue.popleft()
        if after is not None:
            self._ended[order.copy] = after
        return order

    def _enqueue(self, order: CopyOrder, pair: Pair) -> None:
        """Begin this end of a transfer."""
        api, link, (here, _) = self._api, self._links[pair], pair
        is_coming = order.dst == here
        before_ns = time.perf_counter_ns()
        start = api.record(link.stream)
        blocks = self._blocks(order, here)
        if blocks:  # outputs without elements have none, at both ends
            (link.peer.receive if is_coming else link.peer.send)(link.stream, blocks)
        end = api.record(link.stream)
        after_ns = time.perf_counter_ns()
        self.pushed_ns += after_ns - before_ns
        start = self._ended.get(order.copy, start)
        under_way = self._landing if is_coming else self._leaving
        under_way.append(Passage(order, pair, start, end, before_ns, after_ns))

    def _blocks(self, order: CopyOrder, here: int) -> list[Tensor]:
        """Return where the bytes of a transfer lie here."""
        arena = self._arenas[here]
        assert arena is not None
        ends = 1 if order.dst == here else 0
        places = [(span[ends], span[2]) for span in order.spans if span[2]]
        return [arena.raw[begin : begin + size] for begin, size in places]

    def land(self) -> None:
        """Note what has come, and what has left."""
        for under_way in (self._landing, self._leaving):
            ended = [passage for passage in under_way if self._api.has_happened(passage.end)]
            for passage in ended:
                under_way.remove(passage)
                self._note(passage)

    def _note(self, passage: Passage) -> None:
        self._passed.append(passage)
        if passage.order.dst == passage.pair[0]:
            self.arrived[passage.order.copy] = passage.end

    @property
    def is_settled(self) -> bool:
        """Whether all that was offered has left."""
        return not (self._leaving or self._announced or any(self._offered.values()))

    def settle(self) -> None:
        """Note what has come and left, once all devices are idle; forget what has not begun."""
        for passage in (*self._landing, *self._leaving):
            self._note(passage)
        self._landing.clear()
        self._leaving.clear()
        for pending in (self._expected, self._offered, self._announced):
            pending.clear()

    def drop(self) -> None:
        """Forget all transfers: their events can be asked nothing any more."""
        for passages in (self._landing, self._leaving, self._passed):
            passages.clear()
        for pending in (self._expected, self._offered, self.arrived):
            pending.clear()

    def forget(self, pair: Pair) -> None:
        """Forget what is under way over a connection that is to be cut."""
        self.land()
        for under_way in (self._landing, self._leaving):
            under_way[:] = [passage for passage in under_way if passage.pair != pair]
        self._offered.pop(pair, None)
        self._expected = {
            copy: order for copy, order in self._expected.items() if self.pair_of(order) != pair
        }

    def stamps(self) -> list[CopyStamp]:
        """Return when transfers left or came, once everything has ended.

        When one has come only the end that receives it can tell.
        """
        return [self._stamp(passage) for passage in self._passed]

    def _stamp(self, passage: Passage) -> CopyStamp:
        clock, copy = self._api.host_ns, passage.order.copy
        dispatch_ns, start_ns = passage.after_ns - passage.before_ns, clock(passage.start)
        if passage.order.src == passage.pair[0]:
            return CopyStamp(copy, start_ns, start_ns, dispatch_ns)
        came = begun_by(start_ns, clock(passage.end), passage.after_ns)
        return CopyStamp(copy, *came, dispatch_ns)


class LeadingTransfers(DirectTransfers):
    """Those of rank 0."""

    def _begin(self) -> None:
        for copy in self._awaited.take():
            order = self._expected.pop(copy, None)
            if order is not None:  # or its connection has been cut
                self._lead(order)
        for queue in self._offered.values():
            while (order := self._ready(queue)) is not None:
                self._lead(order)
                self._arrivals.set(order.copy)  # what rank K is told it fetches before it reports

    def _lead(self, order: CopyOrder) -> None:
        pair = self.pair_of(order)
        assert pair is not None
        worker = self._links[pair].worker
        # First the cue: with CUDA_LAUNCH_BLOCKING the other end is waited for here.
        self._cues_of(worker).append(order.copy)
        try:
            self._enqueue(order, pair)
        except RuntimeError as error:
            if is_of_cuda(error):
                raise
            what = str(error).strip().partition("\n")[0]
            raise WorkerLost(f"the connection with a GPU is gone: {what}", worker) from error


class FollowingTransfers(DirectTransfers):
    """Those of another rank's worker."""

    def _begin(self) -> None:
        for queue in self._offered.values():
            while (order := self._ready(queue)) is not None:
                self._announced[order.copy] = order
                self._arrivals.set(order.copy)
        (worker,) = {link.worker for link in self._links.values()}
        cues = self._cues_of(worker)
        while (copy := cues.peek()) >= 0:
            known = self._expected if copy in self._expected else self._announced
            order = known.pop(copy, None)
            if order is None:
                return  # it is of a segment that has not been read yet
            cues.skip()
            pair = self.pair_of(order)
            assert pair is not None
            self._enqueue(order, pair)
