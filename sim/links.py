"""Transfers over links with shared resources: queues without overtaking or partial holding."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from dynpartition.profile import PricedGraph
from dynpartition.sim.clock import InstantClock

OUTPUT, HOST_INPUT, LOAD = range(3)
"""What a transfer carries. Where queues tie, outputs go first and loads last."""

NO_CELL = -1


@dataclass(slots=True, eq=False)
class Transfer:
    """What one launch sends to one destination at one instant, or weights for one launch."""

    ready_ns: int
    position: int
    """Plan position of the launch that produced it or, for host inputs and loads, needs it."""
    dst: int
    link: int
    kind: int
    bytes: int
    copies: tuple[int, ...] = ()
    cell: int = NO_CELL
    """Whose weights these are."""
    start_ns: int = -1
    end_ns: int = -1
    key: tuple[int, int, int, int] = field(init=False)
    """The order in every queue."""

    def __post_init__(self) -> None:
        self.key = (self.ready_ns, self.position, self.dst, self.kind)


class Busy:
    """Which devices and link resources are taken: bit d is device d, resources come after."""

    __slots__ = ("mask",)

    def __init__(self) -> None:
        self.mask = 0


class Links:
    """Starts transfers when they are first in the queue of every resource and all are idle."""

    def __init__(
        self,
        priced: PricedGraph,
        clock: InstantClock,
        busy: Busy,
        started: Callable[[Transfer], None],
        ended: Callable[[Transfer], None],
    ) -> None:
        self._priced = priced
        self._clock = clock
        self._busy = busy
        self._started = started
        self._ended = ended
        self._queue: list[Transfer] = []  # by key: of every resource at once
        self._needs = _masks(priced)
        self.history: list[Transfer] = []
        """Transfers in order of their start."""

    def push(self, transfer: Transfer) -> None:
        """Queue a transfer that has become ready."""
        insort(self._queue, transfer, key=attrgetter("key"))

    def start_ready(self) -> None:
        """Start every transfer that may start now, in queue order."""
        if not self._queue:
            return
        waiting: list[Transfer] = []
        claimed = 0  # by transfers further ahead in a queue
        for transfer in self._queue:
            needs = self._needs[transfer.link]
            if needs & (self._busy.mask | claimed):
                claimed |= needs
                waiting.append(transfer)
            else:
                self._start(transfer, needs)
        self._queue = waiting

    def _start(self, transfer: Transfer, needs: int) -> None:
        duration_ns = self._priced.transfer_ns(transfer.link, transfer.bytes)
        transfer.start_ns = self._clock.now_ns
        transfer.end_ns = transfer.start_ns + duration_ns
        self.history.append(transfer)
        self._busy.mask |= needs
        self._started(transfer)

        def end() -> None:
            self._busy.mask ^= needs
            self._ended(transfer)

        self._clock.after(duration_ns, end)


def _masks(priced: PricedGraph) -> list[int]:
    """Return for each link the bits of its resources and of the devices that it blocks."""
    cluster = priced.cluster
    held = dict.fromkeys(name for link in cluster.links for name in link.held)
    bit = {name: 1 << index for index, name in enumerate(held, start=len(cluster.devices))}
    return [
        sum(bit[name] for name in dict.fromkeys(link.held))
        + sum(1 << cluster.index(name) for name in link.blocked_devices)
        for link in cluster.links
    ]
