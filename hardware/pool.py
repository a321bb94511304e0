"""The workers of a backend: talking to them, and the watch over them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dynpartition.cluster import Device
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware.blocks import SharedMemory
from dynpartition.hardware.control import NO_LAUNCH
from dynpartition.hardware.devices import driven_by_workers
from dynpartition.hardware.hosts import ANSWER_TIMEOUT_S
from dynpartition.hardware.losses import WorkerLost
from dynpartition.hardware.messages import Failure, Message, Order, Segment, Stock
from dynpartition.hardware.patience import Patience
from dynpartition.hardware.transport import Clock, StartWorkers, Worker

CLOSE_TIMEOUT_S = 1.0
STALL_TIMEOUT_S = 30.0
_CHECK_NS = 20_000_000
_GAP_NS = 100_000_000
"""More than this between two looks at a worker counts as this: the caller did not look."""
_NEVER_NS = 1 << 62

NameCell = Callable[[int], str]
"""Launch number → name of its cell, for messages."""


@dataclass(frozen=True)
class PoolOptions:
    """How to start workers, and when to give one up."""

    host: int
    """Index of the device that the caller drives itself."""
    arena_bytes: Sequence[int]
    """Per device."""
    polite: bool
    """Whether to wait by sleeping, because devices share cores."""
    sample_run_delay: bool
    threads: bool = False
    """Whether workers are threads of this process."""
    stocks: Mapping[int, Stock] = field(default_factory=dict)
    """By device index, the devices whose weights come and go."""
    stall_timeout_s: float = STALL_TIMEOUT_S
    """How long a worker may show no sign of life in one launch."""
    virtual: bool = False
    """Whether stamps are in virtual time."""
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    """How long another host may take to answer."""
    connected: Sequence[int] = ()
    """GPUs here that are to be connected with those of other hosts."""


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
        own_pace = self.clock.patience(options.polite)
        self.patience: Patience = self.control.bell.listener() if options.threads else own_pace
        """Paces the caller's waits."""
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

    def receive(self, worker: int, name_cell: NameCell, timeout_s: float = math.inf) -> Message:
        """Wait for a worker's next message; WorkerLost when any is gone, stands still, or is late.

        Raises DeviceLost when a cell has raised.
        """
        deadline_ns = self.clock.now_ns() + timeout_s * 1e9
        self.patience.reset()
        while not self.workers[worker].has_mail():
            self.check(name_cell, owing=worker)
            if self.clock.now_ns() > deadline_ns:
                where = f"{self.workers[worker].name} does not stop{self._at(worker, name_cell)}"
                raise WorkerLost(where, worker)
            self.patience.pause()
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

    def look_at(self, number: int) -> None:
        """Raise DeviceLost if a worker is gone, with its own words where it left some."""
        if self.workers[number].has_ended:
            raise self._loss(number, _no_name)

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
        end_workers([self.workers[number]], timeout_s=0)
        if not self.workers[number].has_ended:
            self._hopeless.add(number)  # a thread in a cell that does not return
            return
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
        end_workers([self.workers[number] for number in self.alive])
        self.memory.close()


def end_workers(workers: Sequence[Worker], timeout_s: float = CLOSE_TIMEOUT_S) -> None:
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
    error = WorkerLost(text, worker) if message.others_may else DeviceLost(text)
    error.add_note(message.traceback)
    return error
