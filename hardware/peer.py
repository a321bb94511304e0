"""A GPU of another process, as one here exchanges with it; and a stand-in without a GPU.

Both ends enqueue the same transfers in one order. One that has been enqueued at one end only holds
up its stream, and with NCCL a share of its GPU.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynpartition.errors import DeviceError
from dynpartition.hardware.messages import Pause

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_LOOK_S = 0.001
_CUT_TIMEOUT_S = 10.0


class Peer(ABC):
    """One end of a connection of two GPUs."""

    @abstractmethod
    def send(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Enqueue on `stream`: the other end gets `blocks`, uint8.

        It receives them into as many, of the same sizes.
        """

    @abstractmethod
    def receive(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Enqueue on `stream`: what the other end sends is written into `blocks`, uint8."""

    @abstractmethod
    def cut(self) -> None:
        """Leave, whatever is enqueued: streams that wait for the other end go on.

        What was to be received is not there. Cutting twice does nothing. May wait for the device,
        and that for other connections that are to be cut: see `Cutting`.
        """


class FakePeer(Peer):
    """A stand-in whose ends meet in a store, and that fails when they disagree.

    As with NCCL neither end gets past a transfer before the other has come to it.
    """

    def __init__(self, store: Store, rank: int) -> None:
        """`rank`: 0 or 1, one for each end."""
        self.store, self.rank = store, rank
        self.is_cut = False
        self.count = 0
        """Transfers that were enqueued."""

    def send(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Let the stream stand still until the other end has come to receive."""
        stream.work.append(self._step(blocks, sends=True))

    def receive(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Let the stream stand still until the other end has sent."""
        stream.work.append(self._step(blocks, sends=False))

    def _step(self, blocks: Sequence[Tensor], *, sends: bool) -> Step:
        self.count += 1
        return Step(self, self.count, blocks, sends)

    def cut(self) -> None:
        """Let all streams go on."""
        self.is_cut = True


class Step:
    """One end of one transfer of a stand-in, which its stream has come to."""

    def __init__(self, peer: FakePeer, number: int, blocks: Sequence[Tensor], sends: bool) -> None:
        self._peer, self._number = peer, number
        self._blocks, self._sends = blocks, sends
        self._has_said = False

    def is_over(self) -> bool:
        """Do what can be done by now; return whether the stream may go on."""
        peer = self._peer
        if peer.is_cut:
            return True
        if not self._has_said:
            self._has_said = True
            said: Any = self._said(self._sends) + self._bytes()  # its type is too narrow
            peer.store.set(self._key(peer.rank), said)
        theirs = self._key(1 - peer.rank)
        if not peer.store.check([theirs]):
            return False
        self._take(peer.store.get(theirs))
        return True

    def _key(self, rank: int) -> str:
        return f"{self._number}/{rank}"

    def _said(self, sends: bool) -> bytes:
        sizes = [len(block) for block in self._blocks]
        return f"{'sends' if sends else 'receives'} {sizes}:".encode()

    def _bytes(self) -> bytes:
        if not self._sends:
            return b""
        return b"".join(block.numpy().tobytes() for block in self._blocks)

    @torch.inference_mode()  # where the memory may come from
    def _take(self, theirs: bytes) -> None:
        expected = self._said(not self._sends)
        assert theirs.startswith(expected), (
            f"transfer {self._number}: the other end {theirs[:100]!r}, not {expected!r}"
        )
        if self._sends:
            return
        rest = bytearray(theirs[len(expected) :])
        for block in self._blocks:
            block.copy_(torch.frombuffer(rest[: len(block)], dtype=torch.uint8))
            del rest[: len(block)]


def meet(store: Store, rank: int, timeout_s: float, pause: Pause) -> None:
    """Wait until the other end, which calls this too, is there; DeviceError when it is not."""
    store.set(f"here/{rank}", "")
    deadline_s = time.monotonic() + timeout_s
    while not store.check([f"here/{1 - rank}"]):
        if time.monotonic() > deadline_s:
            raise DeviceError(f"the other end does not come within {timeout_s:g} s")
        pause()
        time.sleep(_LOOK_S)


class Cutting:
    """Connections that are cut, each in a thread: one may come free only when others are cut."""

    def __init__(self) -> None:
        self._threads: list[tuple[Peer, threading.Thread]] = []
        self._deadline_s = time.monotonic() + _CUT_TIMEOUT_S

    def add(self, peer: Peer) -> None:
        """Begin to cut one more."""
        thread = threading.Thread(target=_cut, args=(peer,), daemon=True)
        self._threads.append((peer, thread))
        thread.start()

    def is_over(self) -> bool:
        """Wait a moment; return whether all are cut. RuntimeError when that takes too long."""
        held = [peer for peer, thread in self._threads if thread.is_alive()]
        if not held:
            return True
        if time.monotonic() > self._deadline_s:
            raise RuntimeError(f"{held[0]} does not let go within {_CUT_TIMEOUT_S:g} s")
        time.sleep(_LOOK_S)
        return False


def _cut(peer: Peer) -> None:
    with suppress(RuntimeError):  # it was broken anyway
        peer.cut()


def cut_all(peers: Iterable[Peer]) -> None:
    """Cut connections; RuntimeError when a device does not come free."""
    cutting = Cutting()
    for peer in peers:
        cutting.add(peer)
    while not cutting.is_over():
        pass


def in_time(work: Callable[[], None], timeout_s: float, pause: Pause) -> None:
    """Do `work` in a thread, and leave it behind with TimeoutError when it takes too long.

    Nothing else ends a call that waits inside of NCCL. Raises what `work` or `pause` raises.
    """
    errors: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 – raised again by who waits
            errors.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + timeout_s
    while thread.is_alive():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no end within {timeout_s:.2g} s")
        pause()
        thread.join(_LOOK_S)
    if errors:
        raise errors[0]
