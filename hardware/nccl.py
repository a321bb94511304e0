"""NCCL through PyTorch: two GPUs of two processes exchange without host memory between them."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed import distributed_c10d as c10d
from torch.distributed.distributed_c10d import Store

from dynpartition.errors import DeviceError
from dynpartition.hardware.messages import Pause, wait_on
from dynpartition.hardware.peer import Peer, meet

_FOREVER = datetime.timedelta(days=1000)
_CUT_TIMEOUT_S = 10.0
_LOOK_S = 0.01
_CALM = {
    # By default PyTorch ends the process when the other end is gone, and when CUDA has failed. Here
    # runs go on without the devices concerned, and who watches over them are others.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    # Waits are for streams, never for the host.
    "TORCH_NCCL_BLOCKING_WAIT": "0",
}
"""Read when a group is made (PyTorch's "ProcessGroupNCCL Environment Variables")."""

Enter = Callable[[Any], None]
"""Makes a stream the one that PyTorch launches on."""


class NcclPeer(Peer):
    """A process group of two. Each transfer is one NCCL group call, however many blocks it has."""

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
            raise DeviceError("this PyTorch has no NCCL; exchange by way of host memory")
        self._device, self._peer, self._enter = device, 1 - rank, enter
        self._group: Any = None
        deadline_s = time.monotonic() + timeout_s
        meet(store, rank, timeout_s, pause)

        def connect() -> None:
            self._group = _group_of_two(device, store, rank)
            self._shake_hands()

        try:
            in_time(connect, deadline_s - time.monotonic(), pause)
        except (RuntimeError, TimeoutError) as error:
            what = str(error).strip().partition("\n")[0]
            raise DeviceError(f"NCCL does not connect: {what}") from error

    def _shake_hands(self) -> None:
        """Exchange a byte in both directions: NCCL connects when something is sent first."""
        mine = torch.full((1,), 1 - self._peer, dtype=torch.uint8, device=self._device)
        theirs = torch.empty_like(mine)
        self._at_once([(self._group.send, mine), (self._group.recv, theirs)])
        if theirs.item() != self._peer:
            raise RuntimeError(f"{self._device} received what was not sent")

    def send(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Enqueue that the other end gets `blocks`."""
        self._enter(stream)
        self._at_once([(self._group.send, block) for block in blocks])

    def receive(self, stream: Any, blocks: Sequence[Tensor]) -> None:
        """Enqueue that `blocks` are received."""
        self._enter(stream)
        self._at_once([(self._group.recv, block) for block in blocks])

    def _at_once(self, calls: Sequence[tuple[Callable[..., Any], Tensor]]) -> None:
        """Make calls as one: a kernel for all of them, on a stream of the group's own.

        It begins when the current stream has come to it, which goes on when it has ended.
        """
        group = self._group
        group._start_coalescing(self._device)
        for call, block in calls:
            call([block], self._peer, 0)
        group._end_coalescing(self._device).wait()

    def cut(self) -> None:
        """Abort the communicator: its kernels end, whatever they wait for."""
        group, self._group = self._group, None
        if group is None:
            return
        try:
            in_time(group.abort, _CUT_TIMEOUT_S, wait_on)
        except TimeoutError:
            raise RuntimeError(f"NCCL does not let go of {self._device}") from None


def _group_of_two(device: torch.device, store: Store, rank: int) -> Any:
    """Return a process group that is registered nowhere: a process may have many."""
    group = c10d.ProcessGroup(store, rank, 2)
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = _FOREVER
    with environment(_CALM):
        backend = c10d.ProcessGroupNCCL(store, rank, 2, options)
    kind = c10d.ProcessGroup.BackendType.NCCL
    group._set_default_backend(kind)
    group._register_backend(torch.device(device.type), kind, backend)
    return group


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
            raise TimeoutError(f"no end within {timeout_s:g} s")
        pause()
        thread.join(_LOOK_S)
    if errors:
        raise errors[0]
