"""The machines that torchrun has started this program on: rank K is `hostK`, rank 0 drives.

Rank 0 runs the command or script. The other ranks serve: each runs its devices for the backends
that rank 0 opens, until rank 0 ends. They meet through torchrun's store.
"""

from __future__ import annotations

import datetime
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynpartition.errors import DeviceError
from dynpartition.hardware.process import GPU_WORKER, starting_thread

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

ANSWER_TIMEOUT_S = 60.0
"""How long a rank may take to answer, by default."""
_FOREVER_S = 1000 * 86_400.0
_OPEN, _GONE, _END = "open", "gone", "end"
"""What rank 0 wants, or wants no longer, of a rank."""


@dataclass(frozen=True)
class World:
    """Which of how many ranks this process is."""

    rank: int
    size: int
    local_rank: int
    """Among those of this machine."""
    local_size: int


ALONE = World(0, 1, 0, 1)


def world() -> World:
    """Return what torchrun says in the environment; without it this process is alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" not in os.environ or any(name not in os.environ for name in names):
        return ALONE
    return World(*(int(os.environ[name]) for name in names))


def store() -> Store:
    """Return a new connection to the store that all ranks share."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import PrefixStore

    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise DeviceError(
            "this torchrun keeps no store of its own; start it with --standalone, or with"
            " --rdzv-backend c10d"
        )
    return PrefixStore("dynpartition", TCPStore(*where, is_master=False, wait_for_workers=False))


def check_hosts(names: list[str], hosts: list[int]) -> None:
    """Raise DeviceError for devices of hosts that are not there. By index: names, and hosts."""
    size = world().size
    for name, host in zip(names, hosts, strict=True):
        if host and host >= size:
            last = f", the last one host{size - 1}" if size > 1 else ""
            raise DeviceError(
                f"{name} is not there: this run has {size} rank{'s' * (size > 1)}{last}; start it"
                f" by `torchrun --standalone --nproc-per-node {host + 1} -m dynpartition …`, or on"
                " several machines with --nnodes"
            )


def dial(host: int, timeout_s: float) -> Store:
    """Call a host for one device of a backend; return the store where both ends of its wire meet.

    Raises DeviceError when the host does not answer within `timeout_s`.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    shared = store()
    number = shared.add(f"dials/{host}", 1)
    shared.set(f"dial/{host}/{number}", _OPEN)
    limit = datetime.timedelta(seconds=min(timeout_s, _FOREVER_S))
    try:
        shared.wait([f"answer/{host}/{number}"], limit)
    except RuntimeError:
        shared.set(f"dial/{host}/{number}", _GONE)
        raise DeviceError(
            f"host{host} does not answer within {timeout_s:g} s; look at what its rank wrote"
        ) from None
    return PrefixStore(f"wire/{host}/{number}", shared)


def meeting(place: str, part: int) -> Store:
    """Return a store in which two processes meet that know `place` and `part`, and nobody else."""
    from torch.distributed.distributed_c10d import PrefixStore

    return PrefixStore(f"meeting/{place}/{part}", store())


def serve(gpu_worker: str = GPU_WORKER) -> None:
    """Serve rank 0 until it ends; to be called by all other ranks instead of their program.

    `gpu_worker`: the module that is run for each GPU; tests have one that needs none.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    from dynpartition.hardware.host_memory import HostMemories
    from dynpartition.hardware.host_server import serve_device, start_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is rank 0's to handle
    own, shared, number = world().rank, store(), 0
    memories, start = HostMemories({starting_thread()}), start_process(gpu_worker)
    devices: list[threading.Thread] = []

    def answer(number: int) -> None:
        # A connection of its own: one that waits lets nobody else ask.
        serve_device(PrefixStore(f"wire/{own}/{number}", store()), memories, start)

    while True:
        number += 1
        key = f"dial/{own}/{number}"
        shared.wait([key], datetime.timedelta(seconds=_FOREVER_S))
        wanted = shared.get(key).decode()
        if wanted == _END:
            break
        if wanted == _GONE:
            continue
        shared.set(f"answer/{own}/{number}", _OPEN)
        devices = [device for device in devices if device.is_alive()]
        devices.append(threading.Thread(target=answer, args=(number,)))
        devices[-1].start()
    for device in devices:
        device.join()


def release() -> None:
    """Let the other ranks end; to be called by rank 0 when it does."""
    there = world()
    if there.rank or there.size == 1:
        return
    with suppress(RuntimeError):  # torchrun has gone, and has ended them
        shared = store()
        for host in range(1, there.size):
            number = shared.add(f"dials/{host}", 1)
            shared.set(f"dial/{host}/{number}", _END)
