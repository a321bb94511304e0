"""What a rank above 0 does for one device of a backend: starts its worker, and passes on.

To its worker it is the caller; to rank 0 it is what its relay talks to.
"""

from __future__ import annotations

import datetime
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
from torch.distributed.distributed_c10d import Store

from dynpartition.cluster import Device
from dynpartition.device_spec import host_of, is_gpu
from dynpartition.errors import DeviceError
from dynpartition.hardware.devices import are_crowded, core_of, spare_core
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.ferry import Ferry
from dynpartition.hardware.host_memory import HostMemories, HostMemory
from dynpartition.hardware.hosts import world
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import (
    Channel,
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
from dynpartition.hardware.process import GPU_WORKER, WORKER, WorkerProcess
from dynpartition.hardware.relay import PINGS, clock_name, versions
from dynpartition.hardware.starting import START_TIMEOUT_S
from dynpartition.hardware.transport import Worker
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
    STATE,
    Frame,
    Wire,
    WireFailed,
)

HELLO_TIMEOUT_S = 30.0
"""How long who called may take for its first word."""
HANG_UP_TIMEOUT_S = 5.0
STATE_EVERY_NS = 20_000_000
"""How often signs of life are passed on."""


class SocketWorker(Worker, Protocol):
    """A worker whose messages can be waited for beside others."""

    channel: Channel
    """Our end."""


StartWorker = Callable[[Setup, Sequence[int]], SocketWorker]
"""What a worker is told and the files that it maps → the worker; DeviceError if it cannot be."""


def start_process(gpu_worker: str = GPU_WORKER) -> StartWorker:
    """Return what starts workers as processes; `gpu_worker`: the module that drives a GPU."""

    def start(setup: Setup, fds: Sequence[int]) -> SocketWorker:
        name = setup.names[setup.device]
        worker = WorkerProcess(name, fds, gpu_worker if is_gpu(name) else WORKER)
        try:
            with suppress(OSError):  # a worker that has died says why below
                worker.channel.send(setup)
            worker.await_ready(time.monotonic() + START_TIMEOUT_S)
        except BaseException:
            end_workers([worker])
            raise
        return worker

    return start


def serve_device(store: Store, memories: HostMemories, start: StartWorker) -> None:
    """Serve one device of a backend until that is closed, or its relay or our worker is gone."""
    mine = versions()
    store.set("clock/1", clock_name())
    store.set("versions/1", mine)
    try:
        store.wait(["versions/0"], datetime.timedelta(seconds=HELLO_TIMEOUT_S))
    except RuntimeError:
        return  # who called has gone
    if store.get("versions/0").decode() != mine:
        return  # rank 0 says so
    try:
        wire = Wire(store, rank=1, timeout_s=HELLO_TIMEOUT_S)
    except WireFailed:
        return  # who called has gone since
    try:
        with suppress(WireFailed):  # the relay is gone, and with it whoever would listen
            serve_wire(wire, memories, start)
    finally:
        wire.close()


def serve_wire(wire: Wire, memories: HostMemories, start: StartWorker) -> None:
    """Serve the device that the other end of a wire asks for; WireFailed when that is gone."""
    assert wire.receive().kind == HELLO
    setup = decode(wire.receive().payload)
    assert isinstance(setup, Setup)
    memory = memories.join(setup)
    try:
        memory.fill(wire)
        _serve(wire, setup, memory, memories, start)
    finally:
        memories.leave(setup)


def _serve(
    wire: Wire, setup: Setup, memory: HostMemory, memories: HostMemories, start: StartWorker
) -> None:
    server = None
    try:
        server = HostServer(wire, setup, memory, memories.cores, start)
        wire.send(STATE)  # ready
        for _ in range(PINGS):
            server.answer(wire.receive())
        with memories.threads.preferred(server.core):
            server.run()
    except DeviceError as error:
        wire.send(ENDED, [str(error).encode()])
        if server is not None:
            server.await_end_of_line()
    finally:
        if server is not None:
            server.close()


class HostServer:
    """One device of this host, and its end of the wire."""

    def __init__(
        self,
        wire: Wire,
        setup: Setup,
        memory: HostMemory,
        cores: Sequence[int],
        start: StartWorker,
    ) -> None:
        """Start its worker; DeviceError when that does not work. `cores`: of this host."""
        self._wire, self._number, self._device = wire, setup.worker, setup.device
        index, there = setup.device, range(len(setup.names))
        self._peers = memory.devices - {index}
        self._memory = memory
        self._control = memory.control
        self._control.clear(self._number)
        arena = Arena.on(memory.blocks[index])
        arenas = [arena if i == index else None for i in there]
        self._ferry = Ferry(
            *(wire, self._control, arenas),
            leaves=lambda order: order.src == index and order.dst not in memory.devices,
            worker=setup.worker,
            connected=setup.connected,
        )
        rank, core = world(), None
        if index not in memory.gpus:  # ranks of one machine stand side by side
            own = Device(setup.names[index].partition("/")[2], "cpu")
            core = core_of(own, cores[rank.local_rank :])
        relays = sum(host_of(name) > 0 for name in setup.names) if rank.local_rank else 0
        spare = spare_core(cores, setup.names, max(0, relays + rank.local_rank - 1))
        self.core = core if spare is None else spare
        """Where this process passes on: beside its device, if no core is left for it."""
        self._bell = Doorbell.create()
        given = msgspec.structs.replace(
            setup,
            import_path=[*sys.path, *setup.import_path],
            core=core,
            polite=are_crowded(cores, setup.names) if index in memory.gpus else core is None,
            beyond=[i for i in there if i not in memory.devices],
            bells=[self._bell.ends],
            **memory.given_to(index),
        )
        try:
            self._worker = start(given, [*memory.fds, *self._bell.ends])
        except BaseException:
            self._bell.close()
            raise
        self._bell.also(self._worker.channel.fileno())
        self._shown: tuple[int, int] = (0, 0)
        self._show_due_ns = self._here_due_ns = 0
        self._ready_epoch = 0
        self._is_over = False
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def run(self) -> None:
        """Serve until the backend is closed; DeviceError when the worker ends."""
        self._listener.start()
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
            if self._peers:
                message.arrived = self._ferry.came_from(self._peers, self._device)
        self._wire.send(MESSAGE, [encode(message)])

    def _show(self) -> None:
        """Let the caller see where the worker is, and at once when it is ready."""
        epoch, now_ns = self._ferry.epoch, time.perf_counter_ns()
        is_ready = epoch != self._ready_epoch and self._control.is_ready(self._number, epoch)
        if not is_ready and now_ns < self._show_due_ns:
            return
        signs = self._control.signs_of(self._number)
        self._show_due_ns = now_ns + STATE_EVERY_NS
        if now_ns > self._here_due_ns:
            self._here_due_ns = now_ns + HERE_EVERY_NS
            self._wire.send(HERE)  # which is no sign of life of the worker
        if is_ready or signs != self._shown:
            self._shown = signs
            if is_ready:
                self._ready_epoch = epoch
            self._wire.send(STATE, a=signs[0], b=epoch if is_ready else 0)

    def _listen(self) -> None:
        try:
            while not self._is_over:
                self._hear(self._wire.receive())
        except WireFailed:
            pass  # nobody would listen
        finally:
            self._is_over = True
            self._bell.wake()

    def _hear(self, frame: Frame) -> None:
        if self._ferry.hear(frame):
            return
        if frame.kind == MESSAGE:
            message = decode(frame.payload)
            assert isinstance(message, Segment | Finish)
            if isinstance(message, Segment):
                self._ferry.extend(message)
            message.serial = self._control.ring(self._number)
            with suppress(OSError):  # our worker is gone: `run` finds out and says so
                self._worker.send(message, wait_on)
        elif frame.kind == GO:
            self._memory.go(frame.a)
        elif frame.kind == PING:
            self.answer(frame)
        elif frame.kind == BYE:
            self._is_over = True

    def await_end_of_line(self) -> None:
        """Wait until the relay hangs up: a line that ends with frames unread may lose the last."""
        self._listener.join(HANG_UP_TIMEOUT_S)

    def answer(self, ping: Frame) -> None:
        """Tell the time."""
        self._wire.send(PONG, a=ping.a, b=time.perf_counter_ns())

    def close(self) -> None:
        """End the worker."""
        end_workers([self._worker])
        self._bell.close()
