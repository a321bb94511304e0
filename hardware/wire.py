"""Frames between two machines, over a gloo process group of two: its ranks are the two ends.

A process may have many wires, so each has a group of its own and none is the default group.

A frame holds five numbers and what fits beside them; more follows as one message. gloo writes as
much into a posted receive as was sent, so the receiver always waits with room for a whole frame:
for a message of another size both ends would have to agree first, which costs a round trip.
"""

from __future__ import annotations

import datetime
import struct
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.distributed import distributed_c10d as c10d
from torch.distributed.distributed_c10d import Store

FRAME_BYTES = 1 << 20
"""What nearly all transfers fit into."""
_HEAD = struct.Struct("=5q")
_INLINE_BYTES = FRAME_BYTES - _HEAD.size
_FOREVER = datetime.timedelta(days=1000)

HELLO, SETUP, WEIGHTS, MESSAGE, GO, STATE, DATA = range(7)
READY, CUES, PING, PONG, HERE, ENDED, BYE = range(7, 14)
"""Kinds of frames."""
HERE_EVERY_NS = 1_000_000_000
"""How often an end with nothing to say says so. The other end may be gone without a word: what a
process leaves unread when it ends makes its system send a reset, which nobody sends again when it
is lost on the way. Only who sends finds out."""

WireFailed = RuntimeError
"""What torch.distributed raises when the other end is gone."""


class Frame(NamedTuple):
    """One frame; what `a`, `b` and `c` are depends on its kind."""

    kind: int
    a: int
    b: int
    c: int
    payload: memoryview


class Wire:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, store: Store, rank: int, timeout_s: float) -> None:
        """Wait until both ends, `rank` 0 and 1, are there; WireFailed after `timeout_s`."""
        # Typed as `Any`: point-to-point calls of a group are not in PyTorch's stubs.
        limit = min(_FOREVER, datetime.timedelta(seconds=min(timeout_s, 1e9)))
        self._group: Any = c10d.ProcessGroupGloo(store, rank, 2, limit)
        self._peer = 1 - rank
        self._sending = threading.Lock()
        self._frame = torch.zeros(FRAME_BYTES, dtype=torch.uint8)
        self._coming = torch.zeros(FRAME_BYTES, dtype=torch.uint8)
        self._frame_view = self._frame.numpy().data
        self._coming_view = self._coming.numpy().data

    def send(
        self,
        kind: int,
        payload: Iterable[bytes | memoryview] = (),
        *,
        a: int = 0,
        b: int = 0,
        c: int = 0,
    ) -> None:
        """Send a frame with the parts of a payload; WireFailed when the other end is gone."""
        parts = [memoryview(part) for part in payload]
        size = sum(len(part) for part in parts)
        with self._sending:
            _HEAD.pack_into(self._frame_view, 0, kind, size, a, b, c)
            if size <= _INLINE_BYTES:
                _join(self._frame_view[_HEAD.size :], parts)
                self._transmit(self._frame[: _HEAD.size + size])
            else:
                self._transmit(self._frame[: _HEAD.size])
                more = torch.empty(size, dtype=torch.uint8)
                _join(more.numpy().data, parts)
                self._transmit(more, tag=1)

    def _transmit(self, tensor: torch.Tensor, tag: int = 0) -> None:
        self._open().send([tensor], self._peer, tag).wait(_FOREVER)

    def receive(self) -> Frame:
        """Wait for a frame, whose payload lasts until the next; WireFailed as in `send`."""
        self._fetch(self._coming)
        kind, size, a, b, c = _HEAD.unpack_from(self._coming_view)
        if size <= _INLINE_BYTES:
            payload = self._coming_view[_HEAD.size : _HEAD.size + size]
        else:
            more = torch.empty(size, dtype=torch.uint8)
            self._fetch(more, tag=1)
            payload = more.numpy().data
        return Frame(kind, a, b, c, payload)

    def _fetch(self, tensor: torch.Tensor, tag: int = 0) -> None:
        self._open().recv([tensor], self._peer, tag).wait(_FOREVER)

    def _open(self) -> Any:
        group = self._group
        if group is None:
            raise WireFailed("this end has left")
        return group

    def close(self) -> None:
        """Leave the group: with the last reference to it the connection ends."""
        self._group = None


def _join(target: memoryview, parts: Iterable[memoryview]) -> None:
    at = 0
    for part in parts:
        target[at : at + len(part)] = part
        at += len(part)
