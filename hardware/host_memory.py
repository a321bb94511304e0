"""The memory that the devices of one host share with each other, for one backend of rank 0."""

from __future__ import annotations

import threading
from collections.abc import Collection

from dynpartition.device_spec import host_of, is_gpu
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.devices import available_cores
from dynpartition.hardware.messages import Setup
from dynpartition.hardware.settings import PreferredThreads
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.wire import HELLO, WEIGHTS, Wire


class HostMemory:
    """Flags, weights, and per device its arena or, of a GPU, its mirror.

    There as long as any device of the backend is, so that one that is started again finds it.
    """

    def __init__(self, setup: Setup) -> None:
        """`setup`: of any of the devices."""
        names, host = setup.names, host_of(setup.names[setup.device])
        self.devices = frozenset(i for i, name in enumerate(names) if host_of(name) == host)
        self.gpus = frozenset(i for i in self.devices if is_gpu(names[i]))
        self._n_devices = len(names)
        self._control_block = SharedBlock.create(CONTROL_BYTES)
        self.control = Control(self._control_block)
        self._master = SharedBlock.create(setup.master[1])
        self.blocks = {i: SharedBlock.create(setup.arena_bytes[i]) for i in sorted(self.devices)}
        self._filling = threading.Lock()
        self._has_weights = False
        self._going = threading.Lock()
        self._gone_epoch = 0

    def fill(self, wire: Wire) -> None:
        """Ask rank 0 for the weights, for the first of the devices, and tell the others so."""
        with self._filling:
            wire.send(HELLO if self._has_weights else WEIGHTS)
            if not self._has_weights:
                self._master.view[:] = wire.receive().payload
                self._has_weights = True

    def go(self, epoch: int) -> None:
        """Let the workers begin a session, unless a later one has begun: each wire says so."""
        with self._going:
            if epoch > self._gone_epoch:
                self._gone_epoch = epoch
                self.control.go(epoch)

    @property
    def fds(self) -> list[int]:
        """The files that workers map."""
        return [block.fd for block in self._all()]

    def given_to(self, device: int) -> dict[str, object]:
        """Return what the setup of a device says of this memory, by field."""
        # A CPU device leaves GPUs to their drivers, which fetch what is for them.
        seen = self.devices if device in self.gpus else self.devices - self.gpus
        arenas = [self._place(i) if i in seen else None for i in range(self._n_devices)]
        return {
            "control_fd": self._control_block.fd,
            "master": (self._master.fd, self._master.size_bytes),
            "arenas": arenas,
        }

    def _place(self, device: int) -> tuple[int, int]:
        block = self.blocks[device]
        return block.fd, block.size_bytes

    def _all(self) -> list[SharedBlock]:
        return [self._control_block, self._master, *self.blocks.values()]

    def close(self) -> None:
        """Close the files; the memory goes with the last process that maps it."""
        for block in self._all():
            block.close()


class HostMemories:
    """The memory of every backend that this host serves, and what their servers share besides."""

    def __init__(self, leave: Collection[int] = ()) -> None:
        """`leave`: threads that stay as they are, by number."""
        self.cores = available_cores()
        """Of this host: later this process keeps to one of them."""
        self.threads = PreferredThreads(leave)
        self._lock = threading.Lock()
        self._found: dict[str, tuple[HostMemory, int]] = {}
        """With how many devices use it."""

    def join(self, setup: Setup) -> HostMemory:
        """Return the memory of a backend, for one more of its devices."""
        with self._lock:
            memory, users = self._found.get(setup.backend, (None, 0))
            if memory is None:
                memory = HostMemory(setup)
            self._found[setup.backend] = memory, users + 1
            return memory

    def leave(self, setup: Setup) -> None:
        """Note that a device uses its memory no more; the last one takes it along."""
        with self._lock:
            memory, users = self._found.pop(setup.backend)
            if users > 1:
                self._found[setup.backend] = memory, users - 1
            else:
                memory.close()
