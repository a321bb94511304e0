"""Transfers over links with shared resources: queues without overtaking or partial holding."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from dynpartition.profile import PricedGraph
from dynpartition.sim.clock import InstantClock

OUTPUT, HOST_INPUT, LOAD = range(3)
"""What a transfer carries. Where queues tie, outputs go first and loads last."""

NO_CELL = -1


@dataclass(slots=True, eq=False)
class Transfer:
    """What one launch sends to one destination at one instant, or weights for one launch."""

    key: tuple[int, int, int, int]
    """(ready_ns, plan position, dst, kind): its place in every queue.

    The position is that of the launch that produced it or, for host inputs and loads, needs it.
    """
    link: int
    bytes: int
    copies: tuple[int, ...] = ()
    cell: int = NO_CELL
    """Whose weights these are."""
    start_ns: int = -1
    end_ns: int = -1

    @property
    def position(self) -> int:
        """Plan position of its launch."""
        return self.key[1]

    @property
    def dst(self) -> int:
        """Device index of where it goes."""
        return self.key[2]

    @property
    def kind(self) -> int:
        """OUTPUT, HOST_INPUT or LOAD."""
        return self.key[3]


_by_key = attrgetter("key")


class Busy:
    """Which devices and link resources are taken: bit d is device d, resources come after."""

    __slots__ = ("mask",)

    def __init__(self) -> None:
        self.mask = 0


class Links:
    """Starts transfers when they are first in the queue of every resource and all are idle."""

    def __init__(self, priced: PricedGraph, clock: InstantClock, busy: Busy) -> None:
        self._priced = priced
        self._clock = clock
        self._busy = busy
        self._queue: list[Transfer] = []  # by key: of every resource at once
        self._needs = _masks(priced)
        self.history: list[Transfer] = []
        """Transfers in order of their start."""

    def push(self, transfer: Transfer) -> None:
        """Queue a transfer that has become ready."""
        insort(self._queue, transfer, key=_by_key)

    def start_ready(self) -> Sequence[Transfer]:
        """Start every transfer that may start now, and return them, in queue order."""
        if not self._queue:
            return ()
        started: list[Transfer] = []
        waiting: list[Transfer] = []
        busy = self._busy
        taken, now_ns = busy.mask, self._clock.now_ns
        for transfer in self._queue:
            needs = self._needs[transfer.link]
            if needs & taken:
                waiting.append(transfer)
            else:
                transfer.start_ns = now_ns
                transfer.end_ns = now_ns + self._priced.transfer_ns(transfer.link, transfer.bytes)
                busy.mask |= needs
                started.append(transfer)
            taken |= needs  # what a waiting transfer needs is not for those behind it
        self._queue = waiting
        self.history += started
        return started

    def end(self, transfer: Transfer) -> None:
        """Free what a transfer has held."""
        self._busy.mask ^= self._needs[transfer.link]


def _masks(priced: PricedGraph) -> list[int]:
    """Return for each link the bits of its resources and of the devices that it blocks."""
    cluster = priced.cluster
    held = [frozenset(link.held) for link in cluster.links]
    names = sorted(frozenset().union(*held))
    bit = {name: 1 << place for place, name in enumerate(names, start=len(cluster.devices))}
    masks = [sum([bit[name] for name in own]) for own in held]
    for place, link in enumerate(cluster.links):
        if link.blocks:
            masks[place] += sum([1 << cluster.index(name) for name in link.blocked_devices])
    return masks
