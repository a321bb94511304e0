"""Transfers over links with shared resources: queues without overtaking or partial holding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dynpartition.profile import PricedGraph
from dynpartition.sim.clock import InstantClock
from dynpartition.trace import TransferSpan

Resource = str | int
"""A link resource by name, or a device's engine by device index."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one launch sends to one destination at one instant."""

    ready_ns: int
    position: int
    """Plan position of the launch that produced it or, for a host input, will read it."""
    dst: int
    link: int
    copies: tuple[int, ...]
    tasks: tuple[int, ...]
    bytes: int
    is_input: bool

    @property
    def key(self) -> tuple[int, int, int, bool]:
        """The order in every queue."""
        return (self.ready_ns, self.position, self.dst, self.is_input)


class Links:
    """Starts transfers when they are first in the queue of every resource and all are idle."""

    def __init__(
        self,
        priced: PricedGraph,
        clock: InstantClock,
        occupied: set[Resource],
        arrive: Callable[[Transfer], None],
    ) -> None:
        self._priced = priced
        self._clock = clock
        self._occupied = occupied
        self._arrive = arrive
        self._queue: list[Transfer] = []
        self.spans: list[tuple[Transfer, TransferSpan]] = []
        cluster = priced.cluster
        self._resources: list[frozenset[Resource]] = [
            frozenset((*link.held, *(cluster.index(name) for name in link.blocked_devices)))
            for link in cluster.links
        ]

    def push(self, transfer: Transfer) -> None:
        """Queue a transfer that has become ready."""
        self._queue.append(transfer)
        self._queue.sort(key=lambda queued: queued.key)

    def start_ready(self) -> None:
        """Start every transfer that may start now, in queue order."""
        waiting: list[Transfer] = []
        claimed: set[Resource] = set()  # by transfers further ahead in a queue
        for transfer in self._queue:
            needed = self._resources[transfer.link]
            if needed.isdisjoint(self._occupied) and needed.isdisjoint(claimed):
                self._start(transfer, needed)
            else:
                claimed |= needed
                waiting.append(transfer)
        self._queue = waiting

    def _start(self, transfer: Transfer, needed: frozenset[Resource]) -> None:
        duration_ns = self._priced.transfer_ns(transfer.link, transfer.bytes)
        link = self._priced.cluster.links[transfer.link]
        start_ns = self._clock.now_ns
        span = TransferSpan(
            link.src,
            link.dst,
            transfer.tasks,
            transfer.bytes,
            start_ns,
            start_ns + duration_ns,
            transfer.is_input,
        )
        self.spans.append((transfer, span))
        self._occupied |= needed

        def end() -> None:
            self._occupied.difference_update(needed)
            self._arrive(transfer)

        self._clock.after(duration_ns, end)
