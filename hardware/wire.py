"""Frames between two machines, over a gloo process group of two: its ranks are the two ends.

A frame of FRAME_BYTES holds five numbers and what fits beside them; more follows as one message.
"""

from __future__ import annotations

import datetime
import struct
import threading
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

FRAME_BYTES = 2048
"""The outputs of one task mostly fit; an Ethernet of 1 Gbit/s needs 16 µs for it."""
_HEAD = struct.Struct("=5q")
_INLINE_BYTES = FRAME_BYTES - _HEAD.size
_KEPT_BYTES = 1 << 23
"""Memory for messages up to this is kept: new pages cost as much as the copy into them."""
_FOREVER = datetime.timedelta(days=1000)

HELLO, SETUP, WEIGHTS, MESSAGE, GO, STATE, DATA, PING, PONG, ENDED, BYE = range(11)
"""Kinds of frames."""

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

    def __init__(self, store: Store, rank: int) -> None:
        """Wait until both ends, `rank` 0 and 1, are there."""
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=_FOREVER)
        self._peer = 1 - rank
        self._sending = threading.Lock()
        self._frame = torch.zeros(FRAME_BYTES, dtype=torch.uint8)
        self._coming = torch.zeros(FRAME_BYTES, dtype=torch.uint8)
        self._frame_view = self._frame.numpy().data
        self._coming_view = self._coming.numpy().data
        self._more, self._more_coming = _Buffer(), _Buffer()

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
                self._transmit(self._frame)
            else:
                self._transmit(self._frame)
                more = self._more.of(size)
                _join(more.numpy().data, parts)
                self._transmit(more, tag=1)

    def _transmit(self, tensor: torch.Tensor, tag: int = 0) -> None:
        work = dist.isend(tensor, self._peer, tag=tag)
        assert work is not None
        work.wait()

    def receive(self) -> Frame:
        """Wait for a frame, whose payload lasts until the next; WireFailed as in `send`."""
        self._fetch(self._coming)
        kind, size, a, b, c = _HEAD.unpack_from(self._coming_view)
        if size <= _INLINE_BYTES:
            payload = self._coming_view[_HEAD.size : _HEAD.size + size]
        else:
            more = self._more_coming.of(size)
            self._fetch(more, tag=1)
            payload = more.numpy().data
        return Frame(kind, a, b, c, payload)

    def _fetch(self, tensor: torch.Tensor, tag: int = 0) -> None:
        work = dist.irecv(tensor, self._peer, tag=tag)
        assert work is not None
        work.wait()

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


class _Buffer:
    """Memory for one message at a time."""

    def __init__(self) -> None:
        self._kept = torch.empty(0, dtype=torch.uint8)

    def of(self, size: int) -> torch.Tensor:
        """Return uint8 (size,), which lasts until the next."""
        if size > _KEPT_BYTES:
            return torch.empty(size, dtype=torch.uint8)
        if size > len(self._kept):
            self._kept = torch.empty(size, dtype=torch.uint8)
        return self._kept[:size]


def _join(target: memoryview, parts: Iterable[memoryview]) -> None:
    at = 0
    for part in parts:
        target[at : at + len(part)] = part
        at += len(part)
