"""NCCL through PyTorch: two GPUs of two processes exchange without host memory between them."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.distributed import distributed_c10d as c10d
from torch.distributed.distributed_c10d import Store

from dynpartition.errors import DeviceError
from dynpartition.hardware.messages import Pause
from dynpartition.hardware.peer import Peer, cut_all, in_time, meet

_FOREVER = datetime.timedelta(days=1000)
_UNWATCHED = {"TORCH_NCCL_BLOCKING_WAIT": "1"}
"""Read when a group is made. By default PyTorch watches over it, and ends the process when the
other end is gone; with this nobody would. What it is named for is that `wait` waits for the device;
`synchronize`, which is used here, only lets a stream wait."""

Enter = Callable[[Any], None]
"""Makes a stream the one that PyTorch launches on."""


class NcclPeer(Peer):
    """A process group of two, registered nowhere: a process may have many."""

    def __init__(
        self,
        device: torch.device,
        store: Store,
        rank: int,
        enter: Enter,
        *,
        timeout_s: float,
        pause: Pause,
    ) -> None:
        """Connect; DeviceError when that cannot be done within `timeout_s`."""
        if not c10d.is_nccl_available():
            raise DeviceError("this PyTorch has no NCCL")
        self._device, self._peer, self._enter = device, 1 - rank, enter
        self._group: Any = None
        deadline_s = time.monotonic() + timeout_s
        meet(store, rank, timeout_s, pause)
        try:
            self._group = _group_of_two(store, rank)
            in_time(self._shake_hands, deadline_s - time.monotonic(), pause)
        except BaseException as error:
            # Or its kernel would occupy the GPU for good, in case the other end is gone.
            with suppress(RuntimeError):
                cut_all([self])
            if isinstance(error, RuntimeError | TimeoutError):
                what = str(error).strip().partition("\n")[0]
                raise DeviceError(f"NCCL does not connect: {what}") from error
            raise

    def _shake_hands(self) -> None:
        """Exchange a byte in both directions: NCCL connects when something is sent first."""
        mine = torch.full((1,), 1 - self._peer, dtype=torch.uint8, device=self._device)
        theirs = torch.empty_like(mine)
        steps = [(self._group.send, mine), (self._group.recv, theirs)]
        for call, byte in steps if self._peer else reversed(steps):
            self._call(call, byte)
        if theirs.item() != self._peer:
            raise RuntimeError(f"{self._device} received what was not sent")

    def send(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Enqueue that the other end gets `blocks`, as one message."""
        self._enter(stream)
        self._call(self._group.send, blocks[0] if len(blocks) == 1 else torch.cat(list(blocks)))

    def receive(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Enqueue that `blocks` are received."""
        self._enter(stream)
        if len(blocks) == 1:
            self._call(self._group.recv, blocks[0])
            return
        sizes = [len(block) for block in blocks]
        packed = torch.empty(sum(sizes), dtype=torch.uint8, device=self._device)
        self._call(self._group.recv, packed)
        for block, part in zip(blocks, torch.split(packed, sizes), strict=True):
            block.copy_(part)

    def _call(self, call: Callable[..., Any], tensor: Tensor) -> None:
        """Let NCCL begin when the current stream has come to it, and that stream go on after it."""
        try:
            work = call([tensor], self._peer, 0)
        except RuntimeError:
            # PyTorch leaves NCCL's group open then, and nothing that this thread asks of any
            # communicator would be begun before it is closed.
            with suppress(RuntimeError):
                self._group._group_end()
            raise
        work.synchronize()

    def cut(self) -> None:
        """Abort the communicator: its kernels end, whatever they wait for."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()

    def __str__(self) -> str:
        return f"NCCL on {self._device}"


def _group_of_two(store: Store, rank: int) -> Any:
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = _FOREVER
    with environment(_UNWATCHED):
        # Typed as `Any`: point-to-point calls of a group are not in PyTorch's stubs.
        return c10d.ProcessGroupNCCL(store, rank, 2, options)


@contextmanager
def environment(words: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside a block."""
    before = {name: os.environ.get(name) for name in words}
    os.environ.update(words)
    try:
        yield
    finally:
        for name, word in before.items():
            if word is None:
                del os.environ[name]
            else:
                os.environ[name] = word
