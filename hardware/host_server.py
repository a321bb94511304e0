"""What a rank above 0 does for one backend: starts the worker of its device, and passes on.

To its worker it is the caller; to rank 0 it is what its relay talks to.
"""

from __future__ import annotations

import datetime
import sys
import threading
import time
from contextlib import suppress

import msgspec
from torch.distributed.distributed_c10d import Store

from dynpartition.cluster import Device
from dynpartition.device_spec import host_of
from dynpartition.errors import DeviceError
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.devices import available_cores, core_of, spare_core
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.ferry import Ferry
from dynpartition.hardware.hosts import world
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import (
    CopyStamp,
    Finish,
    Report,
    Segment,
    Setup,
    decode,
    encode,
    wait_on,
)
from dynpartition.hardware.pool import end_workers
from dynpartition.hardware.process import WorkerProcess
from dynpartition.hardware.relay import PINGS, clock_name, versions
from dynpartition.hardware.settings import preferred
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.starting import START_TIMEOUT_S
from dynpartition.hardware.wire import (
    BYE,
    DATA,
    ENDED,
    GO,
    HELLO,
    MESSAGE,
    PING,
    PONG,
    STATE,
    Frame,
    Wire,
    WireFailed,
)

HELLO_TIMEOUT_S = 30.0
"""How long who called may take for its first word."""
STATE_EVERY_NS = 20_000_000
"""How often signs of life are passed on."""


def serve_backend(store: Store) -> None:
    """Serve one backend until it is closed, or its relay or our worker is gone."""
    mine = versions()
    store.set("clock/1", clock_name())
    store.set("versions/1", mine)
    try:
        store.wait(["versions/0"], datetime.timedelta(seconds=HELLO_TIMEOUT_S))
    except RuntimeError:
        return  # who called has gone
    if store.get("versions/0").decode() != mine:
        return  # rank 0 says so
    wire = Wire(store, rank=1)
    try:
        with suppress(WireFailed):  # the relay is gone, and with it whoever would listen
            _serve(wire)
    finally:
        with suppress(WireFailed):
            wire.close()


def _serve(wire: Wire) -> None:
    assert wire.receive().kind == HELLO
    setup = decode(wire.receive().payload)
    assert isinstance(setup, Setup)
    server = None
    try:
        server = HostServer(wire, setup, bytes(wire.receive().payload))
        wire.send(STATE)  # ready
        for _ in range(PINGS):
            server.answer(wire.receive())
        with preferred(server.core):
            server.run()
    except DeviceError as error:
        wire.send(ENDED, [str(error).encode()])
    finally:
        if server is not None:
            server.close()


class HostServer:
    """One device of this host."""

    def __init__(self, wire: Wire, setup: Setup, weights: bytes) -> None:
        """Start its worker; DeviceError when that does not work."""
        self._wire, self._number = wire, setup.worker
        index = setup.device
        blocks = [SharedBlock.create(n) for n in (CONTROL_BYTES, len(weights), setup.arena_bytes)]
        self._blocks = blocks
        self._control = Control(blocks[0])
        self._control.clear(self._number)
        blocks[1].view[:] = weights
        own = [i == index for i in range(len(setup.names))]
        arena = Arena.on(blocks[2])
        arenas = [arena if here else None for here in own]
        self._ferry = Ferry(wire, self._control, arenas, lambda order: order.src == index)
        here = Device(setup.names[index].partition("/")[2], "cpu")
        there, cores = world(), available_cores()
        core = core_of(here, cores[there.local_rank :])  # ranks of one machine stand side by side
        relays = sum(host_of(name) > 0 for name in setup.names) if there.local_rank else 0
        spare = spare_core(cores, setup.names, max(0, relays + there.local_rank - 1))
        self.core = core if spare is None else spare
        """Where this process passes on: beside its device, if no core is left for it."""
        self._bell = Doorbell.create()
        fds = [(block.fd, block.size_bytes) for block in blocks]
        given = msgspec.structs.replace(
            setup,
            import_path=[*sys.path, *setup.import_path],
            master=fds[1],
            control_fd=fds[0][0],
            arenas=[fds[2] if one else None for one in own],
            core=core,
            polite=core is None,
            beyond=[i for i in range(len(setup.names)) if i != index],
            bells=[self._bell.ends],
        )
        shared = [*(block.fd for block in blocks), *self._bell.ends]
        self._worker = WorkerProcess(setup.names[index], shared)
        self._bell.also(self._worker.channel.fileno())
        try:
            with suppress(OSError):  # a worker that has died says why below
                self._worker.channel.send(given)
            self._worker.await_ready(time.monotonic() + START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self._shown: tuple[int, int] = (0, 0)
        self._show_due_ns = 0
        self._ready_epoch = 0
        self._is_over = False

    def run(self) -> None:
        """Serve until the backend is closed; DeviceError when the worker ends."""
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        while not self._is_over:
            busy = self._ferry.sweep()
            if self._worker.has_mail():
                self._pass_on()
                busy = True
            self._show()
            if not busy:
                self._bell.sleep(STATE_EVERY_NS / 1e9)

    def _pass_on(self) -> None:
        try:
            message = self._worker.receive(wait_on)
        except (EOFError, OSError):
            raise DeviceError(f"its worker ended with {self._worker.ending()}") from None
        while self._ferry.sweep():  # what was pushed before it reported
            pass
        if isinstance(message, Report):
            message.copies += [
                CopyStamp(s.copy, s.start_ns, s.end_ns) for s in self._ferry.landed()
            ]
        self._wire.send(MESSAGE, [encode(message)])

    def _show(self) -> None:
        """Let the caller see where the worker is, and at once when it is ready."""
        epoch, now_ns = self._ferry.epoch, time.perf_counter_ns()
        is_ready = epoch != self._ready_epoch and self._control.is_ready(self._number, epoch)
        if not is_ready and now_ns < self._show_due_ns:
            return
        signs = self._control.signs_of(self._number)
        self._show_due_ns = now_ns + STATE_EVERY_NS
        if is_ready or signs != self._shown:
            self._shown = signs
            if is_ready:
                self._ready_epoch = epoch
            self._wire.send(STATE, a=signs[0], b=epoch if is_ready else 0)

    def _listen(self) -> None:
        try:
            while not self._is_over:
                self._hear(self._wire.receive())
        except (WireFailed, OSError):
            pass  # the relay is gone, or our worker, as `run` finds out
        finally:
            self._is_over = True
            self._bell.wake()

    def _hear(self, frame: Frame) -> None:
        if frame.kind == DATA:
            self._ferry.land(frame)
        elif frame.kind == MESSAGE:
            message = decode(frame.payload)
            assert isinstance(message, Segment | Finish)
            if isinstance(message, Segment):
                self._ferry.extend(message)
            message.serial = self._control.ring(self._number)
            self._worker.send(message, wait_on)
        elif frame.kind == GO:
            self._control.go(frame.a)
        elif frame.kind == PING:
            self.answer(frame)
        elif frame.kind == BYE:
            self._is_over = True

    def answer(self, ping: Frame) -> None:
        """Tell the time."""
        self._wire.send(PONG, a=ping.a, b=time.perf_counter_ns())

    def close(self) -> None:
        """End the worker and free the memory."""
        end_workers([self._worker])
        for block in self._blocks:
            block.close()
        self._bell.close()
