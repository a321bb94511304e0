"""Carries outputs between the arenas of this machine and those of another.

Devices announce a transfer by its flag, as to each other. At one end the flag lets a ferry send the
bytes; at the other it writes them into the arena of the reader, and sets the flag there.

Of transfers between connected GPUs (`direct.py`) only flags and cues go this way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np

from dynpartition.hardware.control import Arrivals, Control, Cues, fence
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import CopyOrder, CopyStamp, Segment
from dynpartition.hardware.wire import CUES, DATA, READY, Frame, Wire

LOAD_BYTES = 1 << 17
"""What is ready together goes in one message, up to about this."""


class Ferry:
    """The transfers of one device that is, or whose readers are, on another machine."""

    def __init__(
        self,
        wire: Wire,
        control: Control,
        arenas: Sequence[Arena | None],
        leaves: Callable[[CopyOrder], bool],
        *,
        worker: int = 0,
        connected: Container[int] = (),
        leads: bool = False,
    ) -> None:
        """`leaves`: whether a transfer leaves this machine; of the others, some arrive here.

        `worker`: the device's. `connected`: GPUs of rank 0 whose transfers with it do not pass
        here. `leads`: whether this is the end of rank 0.
        """
        self.epoch = 0
        self._wire, self._control, self._arenas = wire, control, arenas
        self._leaves, self._connected, self._leads = leaves, connected, leads
        self._worker, self._cues = worker, Cues(control, worker, 0)
        self._flags = np.frombuffer(control.flags, dtype=np.int64)
        self._orders: dict[int, CopyOrder] = {}
        self._due = np.empty(0, dtype=np.int64)
        """Transfers that are to leave."""
        self._kept: dict[int, Segment] = {}
        self._landed: list[CopyStamp] = []
        self._lock = threading.Lock()

    def extend(self, segment: Segment) -> None:
        """Look after the transfers of a segment. Of an earlier session all has been swept."""
        whole = segment
        if segment.is_kept:
            whole = self._kept[segment.number]
        elif segment.number:
            self._kept[segment.number] = segment
        with self._lock:
            if segment.epoch != self.epoch:
                self.epoch, self._orders, self._landed = segment.epoch, {}, []
                self._due = np.empty(0, dtype=np.int64)
                self._cues = Cues(self._control, self._worker, self.epoch)
            self._orders.update((order.copy, order) for order in whole.copies)
            leaving = [order.copy for order in whole.copies if self._is_due(order)]
            self._due = np.concatenate([self._due, np.array(leaving, dtype=np.int64)])

    def _is_direct(self, order: CopyOrder) -> bool:
        return order.src in self._connected or order.dst in self._connected

    def _is_due(self, order: CopyOrder) -> bool:
        """Return whether a transfer leaves, or is said to be ready, once its flag is set."""
        return self._leaves(order) and not (self._leads and self._is_direct(order))

    def sweep(self) -> bool:
        """Send all that is ready; return whether anything was."""
        return self._send_ready() | self._send_cues()

    def _send_ready(self) -> bool:
        with self._lock:
            if not len(self._due):
                return False
            is_ready = self._flags[self._due] == self.epoch
            if not is_ready.any():
                return False
            ready, self._due = self._due[is_ready], self._due[~is_ready]
            fence()
            epoch, orders = self.epoch, [self._orders[copy] for copy in ready.tolist()]
        direct = [order.copy for order in orders if self._is_direct(order)]
        if direct:
            self._wire.send(READY, [_packed(direct)], b=epoch)
        for some in _loads([order for order in orders if not self._is_direct(order)]):
            parts: list[bytes | memoryview] = [_packed([order.copy for order in some])]
            for order in some:
                source = self._octets(order.src)
                parts += [source[src : src + size] for src, _, size in order.spans]
            self._wire.send(DATA, parts, a=len(some), b=epoch)
        return True

    def _send_cues(self) -> bool:
        """Pass on which transfers rank 0 has begun."""
        given: list[int] = []
        while self._leads and (copy := self._cues.peek()) >= 0:
            self._cues.skip()
            given.append(copy)
        if given:
            self._wire.send(CUES, [_packed(given)])
        return bool(given)

    def hear(self, frame: Frame) -> bool:
        """Take in what another ferry has sent; return whether it was that."""
        if frame.kind == DATA:
            self._land(frame)
        elif frame.kind == READY:
            arrivals = Arrivals(self._control, frame.b)
            for copy in np.frombuffer(frame.payload, dtype=np.int64).tolist():
                arrivals.set(copy)
        elif frame.kind == CUES:
            for copy in np.frombuffer(frame.payload, dtype=np.int64).tolist():
                self._cues.append(copy)
        else:
            return False
        return True

    def _land(self, frame: Frame) -> None:
        """Write what has come where it is read, and say so."""
        arrivals, at = Arrivals(self._control, frame.b), 8 * frame.a
        for copy in np.frombuffer(frame.payload[:at], dtype=np.int64).tolist():
            order = self._orders[copy]
            target = self._octets(order.dst)
            for _, dst, size in order.spans:
                target[dst : dst + size] = frame.payload[at : at + size]
                at += size
            now_ns = time.perf_counter_ns()  # before the flag: the reader may start at once
            with self._lock:
                self._landed.append(CopyStamp(copy, now_ns, now_ns))
            arrivals.set(copy)

    def landed(self) -> list[CopyStamp]:
        """Return when transfers of this session have come, by the clock of this machine."""
        with self._lock:
            return list(self._landed)

    def came_from(self, devices: Container[int], device: int) -> list[int]:
        """Return the transfers of this session to `device` that others of this machine made."""
        with self._lock:
            orders = [o for o in self._orders.values() if o.dst == device and o.src in devices]
        return [order.copy for order in orders if self._flags[order.copy] == self.epoch]

    def _octets(self, device: int) -> memoryview:
        arena = self._arenas[device]
        assert arena is not None
        return arena.octets


def _packed(numbers: Sequence[int]) -> bytes:
    return np.array(numbers, dtype=np.int64).tobytes()


def _loads(orders: Sequence[CopyOrder]) -> Iterator[list[CopyOrder]]:
    """Yield the transfers that go together: a message takes its time, however little is in it."""
    some, size = list[CopyOrder](), 0
    for order in orders:
        some.append(order)
        size += sum(span[2] for span in order.spans)
        if size >= LOAD_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
