"""The workers of a backend: starting them, talking to them, and the watch over them."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dynpartition.cluster import Device
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware.control import CONTROL_BYTES, NO_LAUNCH, Control
from dynpartition.hardware.devices import available_cores, core_of
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Failure, Message, Order, Segment, Setup, Stock
from dynpartition.hardware.patience import Patience
from dynpartition.hardware.process import WorkerProcess
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.transport import Clock, StartWorkers, Worker
from dynpartition.hardware.weights import Master, master_bytes
from dynpartition.models import DynamicModel

START_TIMEOUT_S = 180.0
CLOSE_TIMEOUT_S = 1.0
STALL_TIMEOUT_S = 30.0
_CHECK_NS = 20_000_000
_GAP_NS = 100_000_000
"""More than this between two looks at a worker counts as this: the caller did not look."""
_NEVER_NS = 1 << 62

NameCell = Callable[[int], str]
"""Launch number → name of its cell, for messages."""


class WorkerLost(DeviceLost):
    """Raised when a worker is gone, or has to be given up; others may take over its work."""

    def __init__(self, text: str, worker: int) -> None:
        super().__init__(text)
        self.worker = worker


@dataclass(frozen=True)
class PoolOptions:
    """How to start workers, and when to give one up."""

    host: int
    """Index of the device that the caller drives itself."""
    arena_bytes: Sequence[int]
    """Per device."""
    polite: bool
    sample_run_delay: bool
    stocks: Mapping[int, Stock] = field(default_factory=dict)
    """By device index, the devices whose weights come and go."""
    stall_timeout_s: float = STALL_TIMEOUT_S
    """How long a worker may show no sign of life in one launch."""
    virtual: bool = False
    """Whether stamps are in virtual time."""


class SharedMemory:
    """The control block, the arenas of all CPU devices, and the weights that loads read."""

    def __init__(
        self, devices: Sequence[Device], options: PoolOptions, cells: Mapping[str, nn.Module]
    ) -> None:
        self.control_block = SharedBlock.create(CONTROL_BYTES)
        self.control = Control(self.control_block)
        self.blocks = [
            SharedBlock.create(size) if device.kind == "cpu" else None
            for device, size in zip(devices, options.arena_bytes, strict=True)
        ]
        self.arenas = [None if block is None else Arena.on(block) for block in self.blocks]
        self.master_block = SharedBlock.create(master_bytes(cells))
        self.master = Master.on(self.master_block, cells)
        if options.stocks:
            self.master.write(cells)

    @property
    def fds(self) -> list[int]:
        """The files that workers map."""
        return [block.fd for block in self._all()]

    def _all(self) -> list[SharedBlock]:
        blocks = (self.control_block, self.master_block, *self.blocks)
        return [block for block in blocks if block is not None]

    def close(self) -> None:
        """Close the files; the memory goes with the last tensor on it."""
        self.arenas.clear()
        for block in self._all():
            block.close()


def driven_by_workers(devices: Sequence[Device], host: int) -> list[int]:
    """Return the indices of the devices that are workers: all CPU devices but the caller's own."""
    return [i for i, device in enumerate(devices) if device.kind == "cpu" and i != host]


class Starter:
    """Starts the worker processes of a model."""

    def __init__(
        self,
        model: DynamicModel[Any],
        devices: Sequence[Device],
        options: PoolOptions,
        memory: SharedMemory,
    ) -> None:
        self._model = model
        self._devices = devices
        self._options = options
        self._memory = memory
        self._device_of = driven_by_workers(devices, options.host)

    def start(self, numbers: Sequence[int]) -> list[WorkerProcess]:
        """Return workers that have built the model; DeviceError when one does not come to that."""
        started: list[WorkerProcess] = []
        try:
            with _shared_weights(self._model) as (weights_fd, n_bytes):
                for number in numbers:
                    name = self._devices[self._device_of[number]].name
                    worker = WorkerProcess(name, [weights_fd, *self._memory.fds])
                    started.append(worker)
                    setup = self._setup(number, (weights_fd, n_bytes))
                    with contextlib.suppress(OSError):  # a worker that has died says why below
                        worker.channel.send(setup)
                deadline_s = time.monotonic() + START_TIMEOUT_S
                for worker in started:
                    worker.await_ready(deadline_s)
        except BaseException:
            _end(started)
            raise
        return started

    def _setup(self, number: int, weights: tuple[int, int]) -> Setup:
        device = self._devices[self._device_of[number]]
        model, memory, options = self._model, self._memory, self._options
        return Setup(
            model=_importable(type(model)),
            import_path=list(sys.path),
            config=dict(model.spec().config),
            weights=weights,
            worker=number,
            device=self._device_of[number],
            names=[d.name for d in self._devices],
            speed=device.speed,
            core=core_of(device, available_cores()),
            polite=options.polite,
            control_fd=memory.control_block.fd,
            arenas=[None if b is None else (b.fd, b.size_bytes) for b in memory.blocks],
            sample_run_delay=options.sample_run_delay,
            stock=options.stocks.get(self._device_of[number]),
            master=(memory.master_block.fd, memory.master_block.size_bytes),
            virtual=options.virtual,
        )


def start_pool(model: DynamicModel[Any], devices: Sequence[Device], options: PoolOptions) -> Pool:
    """Return a pool of worker processes."""
    memory = SharedMemory(devices, options, model.cells)
    return Pool(devices, options, memory, Starter(model, devices, options, memory).start)


class _Watch:
    """What is known of one worker's progress."""

    def __init__(self) -> None:
        self._signs = (NO_LAUNCH, 0)
        self._owes = False
        self._quiet_ns = 0
        self._seen_ns = 0

    def expect(self, signs: tuple[int, int]) -> None:
        """Note that the worker has been sent a message: it has to do something."""
        self._signs, self._owes, self._quiet_ns = signs, True, 0

    def quiet_ns(self, signs: tuple[int, int], now_ns: int, *, owes: bool) -> int:
        """Return for how long the worker has shown no sign of life although it should.

        Only time in which somebody looked counts: the caller may have been stopped itself.
        """
        elapsed_ns, self._seen_ns = min(now_ns - self._seen_ns, _GAP_NS), now_ns
        if signs != self._signs:
            self.expect(signs)
            self._owes = signs[0] != NO_LAUNCH
        elif owes or self._owes:
            self._quiet_ns += elapsed_ns
        return self._quiet_ns


class Pool:
    """The workers of all CPU devices but the caller's own, and the watch over them.

    Worker numbers follow device order; `device_of[w]` is the device index of worker w. A worker
    that is lost keeps its number; another one takes its place between two sessions.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        options: PoolOptions,
        memory: SharedMemory,
        start: StartWorkers,
        clock: Clock | None = None,
    ) -> None:
        """Takes over `memory` and starts all workers. Raises DeviceError when one does not."""
        self.devices = devices
        self.options = options
        self.memory = memory
        self.control = memory.control
        self.clock = clock or Clock()
        self.device_of = driven_by_workers(devices, options.host)
        self.why_lost: dict[int, str] = {}
        self._kept: dict[int, tuple[Worker, dict[int, Segment]]] = {}
        """Worker that is gone → what is known of its end."""
        self.is_closed = False
        self.check_due_ns = 0
        """When to look at the workers again, by the pool's clock."""
        self._start = start
        self._hopeless: set[int] = set()
        self._stall_ns = options.stall_timeout_s * 1e9
        self._watches = [_Watch() for _ in self.device_of]
        for number in range(len(self.device_of)):
            self.control.clear(number)
        try:
            self.workers: list[Worker] = list(start(range(len(self.device_of))))
        except BaseException:
            self.is_closed = True
            memory.close()
            raise
        self.alive = list(range(len(self.workers)))
        """Numbers of the workers that are left, ascending."""

    def shortened(self, worker: int, segment: Segment) -> Segment:
        """Return a segment, or only its number where the worker has kept it."""
        if not segment.number:
            return segment
        process, has = self._kept.get(worker, (None, {}))
        if process is not self.workers[worker]:  # a new one, after a loss
            has = {}
            self._kept[worker] = (self.workers[worker], has)
        if has.get(segment.number) is segment:
            number, goes_on = segment.number, segment.goes_on
            return Segment(segment.epoch, b"", [], [], goes_on=goes_on, number=number, is_kept=True)
        has[segment.number] = segment
        return segment

    def send(self, worker: int, message: Order, name_cell: NameCell) -> None:
        """Send a message; WorkerLost when the worker is gone or stands still."""
        # First the bell: a message that fills the socket gets through only while it is read, and a
        # worker that waits for a transfer reads nothing before it has heard the bell.
        message.serial = self.control.ring(worker)
        self._watches[worker].expect(self.control.signs_of(worker))
        try:
            self.workers[worker].send(message, lambda: self._examine(worker, name_cell))
        except OSError:
            raise self._loss(worker, name_cell) from None

    def receive(
        self, worker: int, patience: Patience, name_cell: NameCell, timeout_s: float = math.inf
    ) -> Message:
        """Wait for a worker's next message; WorkerLost when any is gone, stands still, or is late.

        Raises DeviceLost when a cell has raised.
        """
        deadline_ns = self.clock.now_ns() + timeout_s * 1e9
        patience.reset()
        while not self.workers[worker].has_mail():
            self.check(name_cell, owing=worker)
            if self.clock.now_ns() > deadline_ns:
                where = f"{self.workers[worker].name} does not stop{self._at(worker, name_cell)}"
                raise WorkerLost(where, worker)
            patience.pause()
        try:
            message = self.workers[worker].receive(lambda: self._examine(worker, name_cell))
        except (EOFError, OSError):
            raise self._loss(worker, name_cell) from None
        if isinstance(message, Failure):
            raise _failed(message, worker)
        return message

    def check(self, name_cell: NameCell, owing: int = -1) -> None:
        """Raise WorkerLost if a worker is gone or stands still, DeviceLost if a cell has raised.

        Cheap enough for waiting loops. `owing`: a worker that has to say something, in any case.
        """
        now_ns = self.clock.now_ns()
        if now_ns < self.check_due_ns:
            return
        self.check_due_ns = now_ns + _CHECK_NS if self.alive else _NEVER_NS
        for number in self.alive:
            self._examine(number, name_cell, owes=number == owing)

    def _examine(self, number: int, name_cell: NameCell, *, owes: bool = True) -> None:
        if self.control.has_failed(number) or self.workers[number].has_ended:
            raise self._loss(number, name_cell)
        signs, now_ns = self.control.signs_of(number), self.clock.now_ns()
        if self._watches[number].quiet_ns(signs, now_ns, owes=owes) > self._stall_ns:
            name, seconds = self.workers[number].name, self.options.stall_timeout_s
            where = self._at(number, name_cell)
            raise WorkerLost(f"{name} was lost{where}: no progress for {seconds:g} s", number)

    def _at(self, number: int, name_cell: NameCell) -> str:
        return name_cell(self.control.launch_of(number))

    def _loss(self, number: int, name_cell: NameCell) -> DeviceLost:
        """Return what to say of a worker that stopped: its own words where it left some."""
        worker = self.workers[number]
        with contextlib.suppress(EOFError, OSError):
            while worker.has_mail():
                message = worker.receive(_give_up)
                if isinstance(message, Failure):
                    return _failed(message, number)
        where = self._at(number, name_cell)
        return WorkerLost(
            f"{worker.name} was lost{where}: its worker ended with {worker.ending()}", number
        )

    def discard(self, number: int, why: str) -> None:
        """End a lost worker for good; the memory of its arena is free then."""
        if number not in self.alive:
            return
        self.alive.remove(number)
        self.why_lost[number] = why
        _end([self.workers[number]], timeout_s=0)
        block = self.memory.blocks[self.device_of[number]]
        # Pages that a GPU's driver has locked have to stay.
        if block is not None and all(device.kind == "cpu" for device in self.devices):
            block.discard()

    def revive(self) -> None:
        """Start lost workers again, between two sessions. Those that do not start stay lost."""
        for number in list(self.alive):
            if self.workers[number].has_ended:
                self.discard(number, str(self._loss(number, _no_name)))
        gone = [number for number in self.why_lost if number not in self._hopeless]
        if gone:
            self._restart(gone)
            self.check_due_ns = 0

    def _restart(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.control.clear(number)
        try:
            fresh = self._start(numbers)
        except DeviceError as error:
            if len(numbers) == 1:
                self._hopeless.add(numbers[0])
                self.why_lost[numbers[0]] = str(error)
            else:
                for number in numbers:  # perhaps only one of them is to blame
                    self._restart([number])
            return
        for number, worker in zip(numbers, fresh, strict=True):
            self.workers[number] = worker
            del self.why_lost[number]
        self.alive = sorted([*self.alive, *numbers])

    def close(self) -> None:
        """End all workers, by force after a second; free the shared memory. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        _end([self.workers[number] for number in self.alive])
        self.memory.close()


def _end(workers: Sequence[Worker], timeout_s: float = CLOSE_TIMEOUT_S) -> None:
    """End workers, by force where one takes longer."""
    for worker in workers:
        worker.hang_up()
    deadline_s = time.monotonic() + timeout_s
    for worker in workers:
        worker.bury(deadline_s)


def _give_up() -> None:
    raise TimeoutError


def _no_name(launch: int) -> str:
    return ""


def _failed(message: Failure, worker: int) -> DeviceLost:
    text = message.text
    error = WorkerLost(text, worker) if message.out_of_memory else DeviceLost(text)
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
