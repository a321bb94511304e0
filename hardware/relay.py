"""The worker of a device of another host, as the caller sees it: `python -m …hardware.relay`.

Here it looks like any other worker: it reads the caller's messages, watches flags and writes into
arenas. What it is told it passes on to the host, where the real worker is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from dynpartition.device_spec import host_of
from dynpartition.errors import DeviceError, DynPartitionError
from dynpartition.hardware.control import CONTROL_BYTES, Arrivals, Control
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.ferry import Ferry
from dynpartition.hardware.hosts import dial
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import (
    Channel,
    CopyStamp,
    Failure,
    Inbox,
    LaunchStamp,
    LoadStamp,
    Ready,
    Report,
    Segment,
    Setup,
    decode,
    encode,
)
from dynpartition.hardware.settings import preferred
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.wire import (
    BYE,
    ENDED,
    GO,
    HELLO,
    HERE,
    HERE_EVERY_NS,
    MESSAGE,
    PING,
    PONG,
    SETUP,
    STATE,
    WEIGHTS,
    Frame,
    Wire,
    WireFailed,
)
from dynpartition.hardware.worker import run_worker

Stamp = TypeVar("Stamp", LaunchStamp, CopyStamp, LoadStamp)

LOOK_S = 0.1
"""How long a sleep is at most."""
PINGS = 64
"""How many answers the difference of the clocks is taken from."""


def versions() -> str:
    """Return what both ends must have in common."""
    from importlib.metadata import version

    import torch

    own, python = version("dynpartition"), ".".join(map(str, sys.version_info[:2]))
    return f"dynpartition {own}, torch {torch.__version__}, Python {python}"


class RemoteClock:
    """The clock of the other host, as this one's: answers to pings bound the difference.

    Nothing arrives before it was sent: every way there is an upper bound of how far the other clock
    is ahead, every way back a lower one. `is_same`: both ends read one clock, those of ranks on one
    machine; no ping could tell that as well.
    """

    def __init__(self, *, is_same: bool = False) -> None:
        self._is_same = is_same
        self._bounds: list[tuple[int, int]] = []  # lower, upper

    def note(self, sent_ns: int, there_ns: int, back_ns: int) -> None:
        """Take in an answer that was sent at `there_ns` of the other clock."""
        self._bounds = [*self._bounds[1 - PINGS :], (there_ns - back_ns, there_ns - sent_ns)]

    @property
    def ahead_ns(self) -> int:
        """How far the other clock is ahead, to within half of `doubt_ns`."""
        return 0 if self._is_same else (self._lower_ns + self._upper_ns) // 2

    @property
    def doubt_ns(self) -> int:
        """How far the bounds are from each other: the fastest way there and back, at most."""
        return 0 if self._is_same else self._upper_ns - self._lower_ns

    @property
    def _lower_ns(self) -> int:
        return max(lower for lower, _ in self._bounds)

    @property
    def _upper_ns(self) -> int:
        return min(upper for _, upper in self._bounds)

    def local(self, report: Report) -> Report:
        """Return a report of the other host by this one's clock."""
        ahead_ns = self.ahead_ns
        return msgspec.structs.replace(
            report,
            launches=[_earlier(stamp, ahead_ns) for stamp in report.launches],
            copies=[_earlier(stamp, ahead_ns) for stamp in report.copies],
            loads=[_earlier(stamp, ahead_ns) for stamp in report.loads],
        )


def _earlier(stamp: Stamp, ns: int) -> Stamp:
    return msgspec.structs.replace(stamp, start_ns=stamp.start_ns - ns, end_ns=stamp.end_ns - ns)


class Relay:
    """Passes on what the caller and the host have to say to each other."""

    def __init__(self, setup: Setup, channel: Channel, wire: Wire, clock: RemoteClock) -> None:
        self._worker, self._device = setup.worker, setup.device
        self._inbox, self._wire = Inbox(channel), wire
        self._control = Control(SharedBlock(setup.control_fd, CONTROL_BYTES))
        arenas: Sequence[Arena | None] = [
            None if a is None else Arena.on(SharedBlock(*a)) for a in setup.arenas
        ]
        here = [not host_of(name) for name in setup.names]
        self._ferry = Ferry(
            *(wire, self._control, arenas),
            leaves=lambda order: order.dst == setup.device and here[order.src],
            worker=setup.worker,
            connected=setup.connected,
            leads=True,
        )
        self._clock = clock
        self._gone_epoch = 0
        self._why: str | None = None
        self._here_due_ns = 0
        (ends,) = setup.bells
        self._bell = Doorbell(ends)
        self._bell.also(channel.fileno())

    def agree_on_time(self) -> None:
        """Ask the host for its time; before anything else is under way."""
        for _ in range(PINGS):
            self._wire.send(PING, a=time.perf_counter_ns())
            self._note(self._wire.receive())

    def _note(self, pong: Frame) -> None:
        self._clock.note(pong.a, pong.b, time.perf_counter_ns())

    def run(self) -> None:
        """Serve until the caller hangs up (EOFError); DeviceError when the host's worker ends."""
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        while True:
            if self._why is not None:
                raise DeviceError(self._why)
            if not self.step():
                self._bell.sleep(LOOK_S)
                self._say_here()

    def _say_here(self) -> None:
        """Find out now and then whether there is still somebody at the other end."""
        now_ns = time.perf_counter_ns()
        if now_ns > self._here_due_ns:
            self._here_due_ns = now_ns + HERE_EVERY_NS
            self._wire.send(HERE)

    def step(self) -> bool:
        """Pass on what there is to say to the host; return whether there was anything."""
        busy = self._ferry.sweep()
        if self._inbox.channel.poll(0):
            self._pass_on()
            busy = True
        return self._pass_go() or busy

    def _pass_go(self) -> bool:
        """Let the host begin a session that has begun here; return whether it was told."""
        epoch = self._ferry.epoch
        if epoch == self._gone_epoch or not self._control.has_gone(epoch):
            return False
        self._wire.send(GO, a=epoch)
        self._gone_epoch = epoch
        return True

    def _pass_on(self) -> None:
        message = self._inbox.receive()
        # What has been announced by now goes before, as it does here: of another session nothing
        # comes later, and a worker that is to finish sleeps unless its session has begun.
        self._pass_go()
        self._ferry.sweep()
        if isinstance(message, Segment):
            if message.epoch != self._ferry.epoch:
                self._wire.send(PING, a=time.perf_counter_ns())
            self._ferry.extend(message)
        self._wire.send(MESSAGE, [encode(message)])

    def _listen(self) -> None:
        try:
            while self._why is None:
                self._hear(self._wire.receive())
        except WireFailed as error:
            what = " ".join(str(error).split())
            self._why = f"the connection to its host is gone: {what}"
        except DynPartitionError as error:
            self._why = str(error)
        except Exception as error:  # noqa: BLE001 – whatever it is, nobody would listen any longer
            self._why = f"what its host said was not understood: {error!r}"
        finally:
            self._bell.wake()

    def _hear(self, frame: Frame) -> None:
        control, worker = self._control, self._worker
        if self._ferry.hear(frame):
            return
        if frame.kind == STATE:
            control.set_launch(worker, frame.a)
            control.beat(worker)
            if frame.b:
                control.set_ready(worker, frame.b)
        elif frame.kind == MESSAGE:
            message = decode(frame.payload)
            if isinstance(message, Report):
                arrivals = Arrivals(control, message.epoch)
                for copy in message.arrived:  # as if they had come by here
                    arrivals.set(copy)
                message = self._clock.local(message)
                message.copies += self._ferry.landed()
            self._inbox.channel.send(message)
        elif frame.kind == PONG:
            self._note(frame)
        elif frame.kind == ENDED:
            raise DeviceError(bytes(frame.payload).decode())


def clock_name() -> str:
    """Return what processes have in common that read one clock; empty where nobody knows."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip() + os.readlink("/proc/self/ns/time")
    except OSError:
        return ""


def connect(setup: Setup) -> tuple[Wire, RemoteClock]:
    """Return a wire to the host of a device, and the host's clock."""
    host = host_of(setup.names[setup.device])
    store = dial(host, setup.answer_timeout_s)
    mine = versions()
    store.set("versions/0", mine)
    name = clock_name()
    theirs = store.get("versions/1").decode()
    if theirs != mine:
        raise Refused(f"host{host} has {theirs}, but rank 0 has {mine}; install the same on both")
    is_same = bool(name) and store.get("clock/1").decode() == name
    try:
        wire = Wire(store, rank=0, timeout_s=setup.answer_timeout_s)
    except WireFailed as error:
        raise Refused(
            f"host{host} has answered and is gone: {' '.join(str(error).split())}"
        ) from error
    return wire, RemoteClock(is_same=is_same)


def _greet(setup: Setup, wire: Wire) -> None:
    """Say which device is wanted, and send the weights if nobody has for its host."""
    wire.send(HELLO)
    wire.send(SETUP, [encode(setup)])
    if wire.receive().kind == WEIGHTS:  # the first device of its host
        master = SharedBlock(*setup.master)
        wire.send(WEIGHTS, [master.view[: setup.master[1]]])


def _serve(channel: Channel, setup: Setup) -> None:
    try:
        relay_frames(channel, setup, *connect(setup))
    except Refused as error:
        channel.send(Failure(str(error), ""))
        raise


class Refused(DeviceError):
    """Raised when a host says why it cannot provide a device."""


def relay_frames(channel: Channel, setup: Setup, wire: Wire, clock: RemoteClock) -> None:
    """Relay between the caller and a host until the caller hangs up."""
    try:
        _greet(setup, wire)
        frame = wire.receive()
        if frame.kind == ENDED:
            raise Refused(bytes(frame.payload).decode())
        relay = Relay(setup, channel, wire, clock)
        relay.agree_on_time()
        channel.send(Ready())
        with preferred(setup.core):
            relay.run()
    except WireFailed as error:
        what = " ".join(str(error).split())
        raise DeviceError(f"the connection to its host is gone: {what}") from error
    except EOFError:
        with suppress(WireFailed):  # the host has gone too
            wire.send(BYE)
        raise


if __name__ == "__main__":
    run_worker(_serve)
