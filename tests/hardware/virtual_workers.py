"""Workers without processes, in virtual time, with faults that a seed decides.

They run the real worker's code on the real arenas and flags, a step now and then: whenever the
caller looks at the clock or waits. Messages come late, twice, in another order or never; workers
crash, stand still for a while or for ever, and run out of memory.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import msgspec
import torch

from dynpartition.errors import DeviceError
from dynpartition.hardware.blocks import SharedMemory
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.devices import driven_by_workers
from dynpartition.hardware.lane import Site
from dynpartition.hardware.messages import Failure, Message
from dynpartition.hardware.patience import Spinner
from dynpartition.hardware.pool import Pool
from dynpartition.hardware.server import Server
from dynpartition.hardware.shelf import CpuShelf
from dynpartition.hardware.starting import needs_shared_weights
from dynpartition.hardware.transport import Clock
from dynpartition.hardware.weights import hollow_copies
from dynpartition.program import COPY

MS = 1_000_000


@dataclass(frozen=True)
class Rates:
    """How probable each fault is: per message, per step of a worker, or per start."""

    late: float = 0.0
    twice: float = 0.0
    never: float = 0.0
    crash: float = 0.0
    stop: float = 0.0
    no_memory: float = 0.0
    no_start: float = 0.0


class NothingYet(Exception):
    """No message has come; a real worker would wait in the kernel."""


class World:
    """Virtual time and all that happens in it. `log`: every fault, to compare replays."""

    def __init__(self, seed, rates):
        self.dice = random.Random(seed)
        self.rates = rates
        self.now = 1
        self.log = []
        self.workers = []

    def start_pool(self, model, devices, options):
        """Stand in for `starting.start_pool`."""
        self.model = model
        self.devices = devices
        self.options = options
        weights = needs_shared_weights(devices, options)
        self.memory = SharedMemory(devices, options.arena_bytes, model.cells, weights=weights)
        self.n_started = 0
        clock = Clock(self.now_ns, lambda polite: Pause(self))
        return Pool(devices, options, self.memory, self.start, clock)

    def start(self, numbers):
        """Start workers. The first ones always start."""
        if self.n_started and self.happens("no_start"):
            self.log.append((self.now, "no start", tuple(numbers)))
            raise DeviceError("the worker did not start; try again")
        self.n_started += len(numbers)
        started = [StandIn(self, number) for number in numbers]
        self.workers += started
        return started

    def happens(self, what):
        """Return whether a fault happens now."""
        rate = getattr(self.rates, what)
        return rate > 0 and self.dice.random() < rate

    def now_ns(self):
        """Return the time; looking takes some, in which others may go on."""
        self.now += self.dice.randint(1, 2_000)
        if self.dice.random() < 0.3:
            self.dice.choice(self.workers).turn()
        return self.now

    def pass_time(self):
        """Let some time pass, in which workers make some steps."""
        self.now += self.dice.choice([1_000, 100_000, MS, 30 * MS])
        for _ in range(self.dice.randint(0, 6)):
            self.dice.choice(self.workers).turn()


class Pause:
    """The caller's patience: virtual time passes."""

    def __init__(self, world):
        self.world = world

    def pause(self):
        self.world.pass_time()

    def reset(self):
        pass


class Mail:
    """One direction of a channel."""

    def __init__(self, world):
        self.world = world
        self.queue = []

    def send(self, message):
        """Post a message, with whatever happens to it."""
        world = self.world
        data = msgspec.msgpack.encode(message)
        if world.happens("never"):
            world.log.append((world.now, "never", type(message).__name__))
            return
        for _ in range(2 if world.happens("twice") else 1):
            delay = world.dice.randint(0, 300 * MS) if world.happens("late") else 0
            self.queue.append((world.now + delay, data))

    @property
    def due(self):
        """The numbers of the messages that have come."""
        return [n for n, (at, _) in enumerate(self.queue) if at <= self.world.now]

    def receive(self):
        """Return one that has come; NothingYet when none has."""
        if not self.due:
            raise NothingYet
        _, data = self.queue.pop(self.due[0])
        return msgspec.msgpack.decode(data, type=Message)


class StandIn:
    """One worker. Its server is the real one; only what it waits for comes from the world."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        memory, devices = world.memory, world.devices
        index = driven_by_workers(devices, world.options.host)[number]
        self.name = devices[index].name
        self.control = memory.control
        self.orders, self.answers = Mail(world), Mail(world)
        channel = SimpleNamespace(receive=self.orders.receive, send=self.answers.send)
        cells, shelf = world.model.cells, None
        stock = world.options.stocks.get(index)
        if stock is not None:
            cells = hollow_copies(cells)
            shelf = CpuShelf(cells, memory.master, stock, memory.blocks[index])
            shelf.reset()
        repeater = Repeater(devices[index].speed)
        site = Site(self.name, index, cells, memory.arenas, self.control, repeater, shelf=shelf)
        self.server = Server(number, channel, site, Spinner())
        self.has_ended = False
        self.back_at = 0

    # What the caller sees.

    def ending(self):
        self.has_ended = True
        return "a stroke of fate"

    def send(self, message, pause):
        if self.has_ended:
            raise BrokenPipeError
        self.orders.send(message)

    def has_mail(self):
        return bool(self.answers.due) or self.has_ended

    def receive(self, pause):
        if not self.answers.due:
            raise EOFError
        return self.answers.receive()

    def hang_up(self):
        pass

    def bury(self, deadline_s):
        self.has_ended = True

    # What it does.

    def turn(self):
        """Make one step, unless fate intervenes."""
        world = self.world
        if self.has_ended or world.now < self.back_at:
            return
        if world.happens("crash"):
            self._crash()
        elif world.happens("stop"):
            self.back_at = world.now + world.dice.choice([10 * MS, 300 * MS, 10**15])
            world.log.append((world.now, "stop", self.name))
        elif world.happens("no_memory"):
            world.log.append((world.now, "no memory", self.name))
            self.answers.send(Failure(f"{self.name} was lost: no memory", "", True))
            self.control.set_failed(self.number)
            self.has_ended = True
        else:
            self._serve()

    def _crash(self):
        """End, in the middle of a transfer where one is next."""
        self.world.log.append((self.world.now, "crash", self.name))
        self.has_ended = True
        if self.world.dice.random() < 0.5:
            self.answers.queue.clear()
        lane = self.server._lane
        if lane is None or lane.is_done or lane.code[lane.position][0] != COPY:
            return
        order = lane._copies[lane.code[lane.position][1]]
        target = self.world.memory.arenas[order.dst]
        if target is None:
            return  # a GPU fetches the bytes itself
        for _, begin, size in order.spans:
            target.raw[begin : begin + size // 2] = 255  # as floats: NaN

    def _serve(self):
        """As `Server.serve` does, but never waiting in the kernel."""
        server = self.server
        is_idle = server._lane is None or server._lane.is_done
        try:
            with torch.inference_mode():
                if server._has_mail():
                    server._receive()
                elif not server._progress():
                    if is_idle:
                        server._receive()
                    self.control.beat(self.number)
        except NothingYet:
            pass
