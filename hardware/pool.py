"""The worker processes of a backend, the memory they share, and the watch over them."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dynpartition.cluster import Device
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.devices import available_cores, core_of
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Failure, Message, Setup
from dynpartition.hardware.patience import Patience
from dynpartition.hardware.process import WorkerProcess
from dynpartition.hardware.shared import SharedBlock
from dynpartition.models import DynamicModel

START_TIMEOUT_S = 180.0
CLOSE_TIMEOUT_S = 1.0
_CHECK_NS = 20_000_000

NameCell = Callable[[int], str]
"""Launch number → name of its cell, for messages."""


@dataclass(frozen=True)
class PoolOptions:
    """How to start workers."""

    host: int
    """Index of the device that the caller drives itself."""
    arena_bytes: Sequence[int]
    """Per device."""
    polite: bool
    sample_run_delay: bool


class SharedMemory:
    """The control block and the arenas of all CPU devices."""

    def __init__(self, devices: Sequence[Device], arena_bytes: Sequence[int]) -> None:
        self.control_block = SharedBlock.create(CONTROL_BYTES)
        self.control = Control(self.control_block)
        self.blocks = [
            SharedBlock.create(size) if device.kind == "cpu" else None
            for device, size in zip(devices, arena_bytes, strict=True)
        ]
        self.arenas = [None if block is None else Arena.on(block) for block in self.blocks]

    @property
    def fds(self) -> list[int]:
        """The files that workers map."""
        return [self.control_block.fd, *(b.fd for b in self.blocks if b is not None)]

    def close(self) -> None:
        """Close the files; the memory goes with the last tensor on it."""
        self.arenas.clear()
        for block in (self.control_block, *self.blocks):
            if block is not None:
                block.close()


class Pool:
    """The workers of all CPU devices but the caller's own.

    Worker numbers follow device order; `device_of[w]` is the device index of worker w.
    """

    def __init__(
        self, model: DynamicModel[Any], devices: Sequence[Device], options: PoolOptions
    ) -> None:
        self.devices = devices
        self.options = options
        self.device_of = [i for i, d in enumerate(devices) if d.kind == "cpu" and i != options.host]
        self.memory = SharedMemory(devices, options.arena_bytes)
        self.control = self.memory.control
        self.workers: list[WorkerProcess] = []
        self.is_closed = False
        self._checked_ns = 0
        try:
            self._start(model)
        except BaseException:
            self.close()
            raise

    def _start(self, model: DynamicModel[Any]) -> None:
        with _shared_weights(model) as (weights_fd, n_bytes):
            for number, index in enumerate(self.device_of):
                worker = WorkerProcess(self.devices[index].name, [weights_fd, *self.memory.fds])
                self.workers.append(worker)
                setup = self._setup(model, number, (weights_fd, n_bytes))
                with contextlib.suppress(OSError):  # a worker that has died says why below
                    worker.channel.send(setup)
            deadline_s = time.monotonic() + START_TIMEOUT_S
            for worker in self.workers:
                worker.await_ready(deadline_s)

    def _setup(self, model: DynamicModel[Any], number: int, weights: tuple[int, int]) -> Setup:
        device = self.devices[self.device_of[number]]
        blocks = self.memory.blocks
        return Setup(
            model=_importable(type(model)),
            import_path=list(sys.path),
            config=dict(model.spec().config),
            weights=weights,
            worker=number,
            device=self.device_of[number],
            names=[d.name for d in self.devices],
            speed=device.speed,
            core=core_of(device, available_cores()),
            polite=self.options.polite,
            control_fd=self.memory.control_block.fd,
            arenas=[None if b is None else (b.fd, b.size_bytes) for b in blocks],
            sample_run_delay=self.options.sample_run_delay,
        )

    def send(self, worker: int, message: Message, name_cell: NameCell) -> None:
        """Send a message; DeviceLost when the worker is gone."""
        # First the bell: a message that fills the socket gets through only while it is read, and a
        # worker that waits for a transfer reads nothing before it has heard the bell.
        self.control.ring(worker)
        try:
            self.workers[worker].channel.send(message)
        except OSError:
            raise self._loss(worker, name_cell) from None

    def receive(
        self, worker: int, patience: Patience, name_cell: NameCell, timeout_s: float = math.inf
    ) -> Message:
        """Wait for a worker's next message; DeviceLost when any worker is gone or time is up."""
        deadline_s = time.monotonic() + timeout_s
        patience.reset()
        while not self.workers[worker].channel.poll(0):
            self.check(name_cell)
            if time.monotonic() > deadline_s:
                name, cell = self.workers[worker].name, name_cell(self.control.launch_of(worker))
                raise DeviceLost(f"{name} does not stop{cell}; open a new backend")
            patience.pause()
        try:
            message = self.workers[worker].channel.receive()
        except (EOFError, OSError):
            raise self._loss(worker, name_cell) from None
        if isinstance(message, Failure):
            raise _failed(message)
        return message

    def check(self, name_cell: NameCell) -> None:
        """Raise DeviceLost if a worker is gone or has failed; cheap enough for waiting loops."""
        now_ns = time.monotonic_ns()
        if now_ns - self._checked_ns < _CHECK_NS:
            return
        self._checked_ns = now_ns
        for number, worker in enumerate(self.workers):
            if self.control.has_failed(number) or worker.has_ended:
                raise self._loss(number, name_cell)

    def _loss(self, number: int, name_cell: NameCell) -> DeviceLost:
        """Return what to say of a worker that stopped: its own words where it left some."""
        worker = self.workers[number]
        with contextlib.suppress(EOFError, OSError):
            while worker.channel.poll(0):
                message = worker.channel.receive()
                if isinstance(message, Failure):
                    return _failed(message)
        cell = name_cell(self.control.launch_of(number))
        return DeviceLost(
            f"{worker.name} was lost{cell}: its worker ended with {worker.ending()};"
            " open a new backend, without the device if it keeps happening"
        )

    def close(self) -> None:
        """End all workers, by force after a second; free the shared memory. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        for worker in self.workers:
            worker.hang_up()
        deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
        for worker in self.workers:
            worker.bury(deadline_s)
        self.memory.close()


def _failed(message: Failure) -> DeviceLost:
    error = DeviceLost(message.text)
    error.add_note(message.traceback)
    return error


@contextlib.contextmanager
def _shared_weights(model: DynamicModel[Any]) -> Iterator[tuple[int, int]]:
    """Put the weights where workers can read them; a large message would block on slow starters."""
    data = model.weights()
    block = SharedBlock.create(max(1, len(data)))
    try:
        block.view[: len(data)] = data
        yield block.fd, len(data)
    finally:
        block.close()


def _importable(kind: type[DynamicModel[Any]]) -> tuple[str, str]:
    """Return where workers find the model's class: they run no script and unpickle nothing."""
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        raise DeviceError(
            f"{kind.__qualname__} is defined where worker processes cannot import it; move it to"
            " the top level of a module, or use one CPU device"
        )
    return kind.__module__, kind.__qualname__
